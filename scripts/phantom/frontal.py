"""Build a frontal image: the attenuation of a body without findings.

The picture is a sum of path lengths, as a radiograph is: soft tissue minus air plus bone. Findings change the air map
and add densities (lesions.py); `attenuation` puts everything together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .anatomy import SIDES, Thorax
from .drawing import Array, Canvas, Curve, Mask, box_of, ellipse, spline, strip
from .findings import Finding
from .patient import Patient, generator


@dataclass(frozen=True)
class Region:
    """Bounding box of a finding's mask in pixels (x_min, y_min, x_max, y_max)."""

    finding: Finding
    box: tuple[int, int, int, int]


@dataclass(kw_only=True)
class Drawn:
    """State of an image while it is drawn.

    Attributes:
        air: share of air in the path, [H, W] 0..1.
        added: density that findings and devices add.
        structures: name -> mask.
        regions: one per finding that has been drawn.
    """

    canvas: Canvas
    rng: np.random.Generator
    x: Array
    y: Array
    air: Array
    added: Array
    structures: dict[str, Mask] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)

    def mark(self, name: str, mask: Mask, finding: Finding | None = None) -> None:
        """Add a mask to a structure and record the region of the finding."""
        known = self.structures.get(name)
        self.structures[name] = mask if known is None else known | mask
        box = box_of(mask)
        if finding is not None and box is not None:
            self.regions.append(Region(finding, box))


@dataclass(kw_only=True)
class Scene(Drawn):
    """State of a frontal image while it is drawn; ``vessels`` is their density, [H, W], visible only in air."""

    thorax: Thorax
    patient: Patient
    vessels: Array


def begin(canvas: Canvas, thorax: Thorax, patient: Patient, rng: np.random.Generator, *, engorged: float) -> Scene:
    """Lungs, vessels and masks of a body without findings; `engorged` (0..1) thickens the vessels."""
    x, y = canvas.grid()
    masks = {side: canvas.mask(thorax.lung[side]) for side in SIDES}
    lungs = canvas.soft([(thorax.lung[side], 1.0) for side in SIDES], 0.12)
    depth = canvas.soft([(thorax.lung[side], 1.0) for side in SIDES], 2.6)
    air = lungs * np.clip(0.30 + 0.80 * depth, 0, 1)
    vessels = _vessels(canvas, thorax, generator("vessels", patient.key), engorged)
    scene = Scene(
        canvas=canvas, rng=rng, x=x, y=y, air=air, added=np.zeros_like(air), thorax=thorax, patient=patient,
        vessels=vessels,
    )  # fmt: skip
    heart = canvas.mask(thorax.heart)
    middle = canvas.mask(thorax.mediastinum)
    for side in SIDES:
        scene.structures[f"{side}_lung"] = masks[side] & ~heart & ~middle
    scene.structures["heart"] = heart
    return scene


def _vessels(canvas: Canvas, thorax: Thorax, rng: np.random.Generator, engorged: float) -> Array:
    curves: list[tuple[Curve, float, float]] = []
    for sign in SIDES.values():
        root = (sign * 2.4, thorax.carina[1] + (2.0 if sign < 0 else 1.2))
        for angle in np.linspace(-1.25, 1.35, 8) + rng.normal(0, 0.1, 8):
            _branch(curves, rng, root, float(angle), sign, 0.62 + 0.35 * engorged, 0)
    return canvas.lines(curves, 0.10)


def _branch(
    curves: list[tuple[Curve, float, float]],
    rng: np.random.Generator,
    at: tuple[float, float],
    angle: float,
    sign: float,
    width: float,
    level: int,
) -> None:
    length = rng.uniform(1.8, 3.0) * (1.0 if level else 1.25)
    direction = angle + rng.normal(0, 0.18)
    middle = (at[0] + sign * math.cos(angle) * length / 2, at[1] + math.sin(angle) * length / 2)
    tip = (middle[0] + sign * math.cos(direction) * length / 2, middle[1] + math.sin(direction) * length / 2)
    curves.append((np.array((at, middle, tip)), width, min(1.0, 0.25 + 0.9 * width)))
    if level < 4 and width > 0.08:
        for turn in (rng.uniform(0.15, 0.5), -rng.uniform(0.15, 0.5)):
            _branch(curves, rng, tip, direction + turn, sign, width * rng.uniform(0.58, 0.72), level + 1)


def bones(scene: Scene, broken: dict[str, int], *, portable: bool) -> Array:
    """Ribs, clavicles, scapulae and spine as added density [H, W]; `broken` maps a side to the first fractured rib."""
    canvas, thorax = scene.canvas, scene.thorax
    back: list[tuple[Curve, float]] = []
    front: list[tuple[Curve, float]] = []
    edges: list[tuple[Curve, float, float]] = []
    for (side, number), centre in thorax.ribs.items():
        pieces = [centre]
        if side in broken and 0 <= number - broken[side] < 2:
            pieces = _fracture(scene, side, centre)
        outline = strip(centre, 1.25)
        scene.mark("ribs", canvas.mask(outline))
        front.append((strip(pieces[-1][thorax.front - len(centre) :], 1.3), 1.0))
        pieces[-1] = pieces[-1][: thorax.front - len(centre) + 1]
        for piece in pieces:
            band = strip(piece, 1.25)
            back.append((band, 1.0))
            edges += [(band[: len(piece)], 0.16, 1.0), (band[len(piece) :], 0.16, 0.9)]
    tilt = -1.3 if portable else 0.0
    collar = []
    for sign in SIDES.values():
        line = spline(
            [
                (sign * 1.8, 5.4 + tilt),
                (sign * 5.0, 4.6 + tilt),
                (sign * 9.5, 3.5 + 1.5 * tilt),
                (sign * 15.0, 3.3 + 1.5 * tilt),
            ]
        )
        collar.append((strip(line, np.linspace(1.9, 1.2, len(line))), 1.0))
    blade = 2.0 if portable else 0.0
    scapula = [
        (
            spline(
                [
                    (s * (15.5 - blade), 5.5), (s * (11.6 - blade), 8.5), (s * (12.6 - blade), 16.5),
                    (s * (14.2 - blade), 15), (s * 16.0, 9.0),
                ],
                closed=True,
            ),
            1.0,
        )
        for s in SIDES.values()
    ]  # fmt: skip
    bodies = [(ellipse(0.0, 2.6 + 2.25 * i, 1.75, 0.95), 1.0) for i in range(18)]
    column = [(strip(np.array([(0.0, -2.0), (0.0, 45.0)]), 3.6), 1.0)]
    density = 1.15 - 0.004 * max(0, scene.patient.age - 45) * (1.3 if scene.patient.sex == "F" else 1.0)
    total: Array = (
        0.062 * canvas.soft(back, 0.10)
        + 0.030 * canvas.soft(front, 0.12)
        + 0.035 * canvas.lines(edges, 0.05)
        + 0.14 * canvas.soft(collar, 0.10)
        + (0.05 if portable else 0.035) * canvas.soft(scapula, 0.15)
        + 0.035 * canvas.soft(column, 0.4)
        + 0.028 * canvas.soft(bodies, 0.12)
    ) * np.float32(density)
    return total


def _fracture(scene: Scene, side: str, centre: Curve) -> list[Curve]:
    """A gap and a step in the lateral part of the posterior arc, with some swelling about it."""
    at = 16
    step = np.array([0.25 * SIDES[side], 1.05])
    spot = ellipse(float(centre[at, 0]), float(centre[at, 1]) + 0.4, 1.7, 1.6)
    scene.mark("fracture", scene.canvas.mask(spot))
    scene.added += 0.05 * scene.canvas.soft([(spot, 1.0)], 0.6)
    inner, outer = centre[: at - 1], centre[at + 1 :] + step
    slant = np.array([0.1, 0.6])
    ends = [(np.array([tip - slant, tip + slant]), 0.2, 1.0) for tip in (inner[-1], outer[0])]
    scene.added += 0.04 * scene.canvas.lines(ends, 0.05)
    return [inner, outer]


def attenuation(scene: Scene, skeleton: Array, *, portable: bool) -> Array:
    """Combine all parts: attenuation [H, W], about 0 (air around the body) to 1 (densest tissue, without metal)."""
    canvas, thorax, patient = scene.canvas, scene.thorax, scene.patient
    body = canvas.soft([(thorax.body, 1.0)], 0.10)
    thick = canvas.soft([(thorax.body, 1.0)], 3.0)
    heart = canvas.soft([(thorax.heart, 1.0)], 0.22)
    middle = canvas.soft([(thorax.mediastinum, 1.0)], 0.35)
    down = np.clip((scene.y - 20) / 14, 0, 1)
    soft = body * (0.42 + 0.24 * thick + 0.06 * down + 0.0015 * (patient.bmi - 25) * (1 + down))
    if patient.sex == "F":
        sag = 0.5 + 0.06 * patient.bmi
        breasts = [(ellipse(s * 7.8, 20.5, 5.6, 3.6 + sag), 0.9) for s in SIDES.values()]
        soft = soft + 0.060 * canvas.soft(breasts, 0.7)
    trachea = canvas.soft(
        [(strip(spline([(0.0, -2.0), (0.1, 5.0), thorax.carina]), 1.7), 1.0)]
        + [(strip(spline([thorax.carina, (s * 1.6 + 0.3, thorax.carina[1] + 2.0)]), 1.1), 0.8) for s in SIDES.values()],
        0.18,
    )
    bubble = canvas.soft([(ellipse(6.0, thorax.base["left"] + 0.6, 2.6, 1.5), 1.0)], 0.35)
    shadow = 1 - (1 - 0.74 * heart) * (1 - 0.70 * middle)
    air = scene.air * (1 - shadow)
    total: Array = soft - 0.50 * air + 0.05 * (heart + middle) - 0.10 * trachea - 0.13 * bubble * body
    total += (
        0.15 * scene.vessels * np.clip(1.3 * air + 0.1, 0, 1)
        + skeleton * body * (0.45 + 0.55 * np.clip(2 * air, 0, 1))
        + scene.added
    )
    return np.maximum(total, 0)
