"""Findings and devices on a frontal image. Each painter changes the scene and marks its mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .anatomy import SIDES
from .drawing import Array, Curve, Mask, blur_mask, ellipse, spline, strip
from .findings import Finding
from .frontal import Scene
from .report import diameter

_ZONE = {"upper": 0.24, "mid": 0.50, "lower": 0.78}  # of the way from the apex to the base


def _step(value: Array, softness: float) -> Array:
    """Smooth step from 0 to 1 at value 0; `softness` is the width of the transition in the value's units."""
    result: Array = 1 / (1 + np.exp(np.clip(-4 * value / softness, -30, 30)))
    return result


def _lung(scene: Scene, side: str) -> Mask:
    return scene.canvas.mask(scene.thorax.lung[side])


def _place(scene: Scene, finding: Finding, *, edge: float = 0.52) -> tuple[float, float]:
    """A point (cm) in the finding's zone, clear of the mediastinum."""
    top, base = 4.1, scene.thorax.base[finding.side]
    y = top + (base - top) * (_ZONE[finding.zone] + float(scene.rng.uniform(-0.04, 0.04)))
    out = float(scene.thorax.lateral_x(finding.side, y))
    inner = 4.0 if finding.zone != "lower" or finding.side == "right" else 5.5
    x = inner + (out - inner) * (edge + float(scene.rng.uniform(-0.14, 0.14)))
    return SIDES[finding.side] * x, y


def _cloud(scene: Scene, at: tuple[float, float], rx: float, ry: float, sharp: float) -> Array:
    """An irregular patch, 0..1, around a point (cm)."""
    r = ((scene.x - at[0]) / rx) ** 2 + ((scene.y - at[1]) / ry) ** 2
    value = np.exp(-r * 0.7) + 0.20 * scene.canvas.noise(scene.rng, 1.6) * np.exp(-r * 0.5) - 0.42
    return _step(value.astype(np.float32), sharp)


def _fill(scene: Scene, amount: Array) -> None:
    """Replace air by tissue."""
    scene.air *= 1 - amount
    scene.vessels *= 1 - 0.85 * amount


def effusion(scene: Scene, finding: Finding) -> None:
    """Fluid at the base with a meniscus that climbs the lateral wall."""
    side, base = finding.side, scene.thorax.base[finding.side]
    height = 0.9 if finding.kind == "costophrenic blunting" else 3.0 + 11.0 * finding.size
    wall = scene.thorax.lateral_x(side, scene.y)
    gap = np.clip(wall - np.abs(scene.x), 0, None)
    surface = base - height + min(4.5, 0.55 * height + 0.6) * (1 - np.exp(-gap / 2.4))
    fluid = _step((scene.y - surface).astype(np.float32), 0.7)
    fluid = fluid * _step((SIDES[side] * scene.x - 2.3).astype(np.float32), 0.6)
    _fill(scene, 0.95 * fluid)
    scene.mark("effusion", (fluid > 0.5) & _lung(scene, side) & ~scene.structures["heart"], finding)


def pneumothorax(scene: Scene, finding: Finding) -> None:
    """A dark crescent without vessels, bounded by the thin line of the visceral pleura."""
    side, lung = finding.side, scene.thorax.lung[finding.side]
    hilum = np.array([SIDES[side] * 2.6, scene.thorax.carina[1] + 4.0])
    keep = 0.86 - 0.38 * finding.size
    offset = lung - hilum
    # the apex falls away more than the base, which stays at the diaphragm
    share = np.clip((scene.thorax.base[side] - lung[:, 1]) / (scene.thorax.base[side] - 4.1), 0, 1)[:, None]
    factor = keep + (1 - keep) * (1 - share) ** 1.2 * (1.0 - 0.55 * finding.size)
    collapsed = hilum + offset * factor
    rest = scene.canvas.mask(collapsed)
    whole = _lung(scene, side)
    free = whole & ~rest & (np.abs(scene.x) > 2.4)
    soft = blur_mask(free, 1.2)
    scene.vessels *= 1 - soft
    scene.air = np.minimum(1.15, scene.air * (1 + 0.30 * soft))
    scene.air *= 1 - (0.06 + 0.30 * finding.size) * blur_mask(rest & whole, 2.0)
    outer = np.abs(collapsed[:, 0]) > 3.2
    line = scene.canvas.lines([(_open(collapsed, outer), 0.14, 1.0)], 0.05)
    scene.added += 0.14 * line * blur_mask(whole, 1.0)
    scene.mark("pneumothorax", free & ~scene.canvas.mask(scene.thorax.heart), finding)


def _open(outline: Curve, keep: Mask) -> Curve:
    """The longest run of kept points of a closed outline."""
    start = int(np.argmin(keep)) if not keep.all() else 0
    rolled, kept = np.roll(outline, -start, axis=0), np.roll(keep, -start)
    return rolled[kept]


def consolidation(scene: Scene, finding: Finding) -> None:
    """Dense, irregular, hides vessels; a few air bronchograms."""
    at = _place(scene, finding)
    size = 2.5 + 1.8 * finding.size
    amount = 0.78 * _cloud(scene, at, 1.25 * size, size, 0.35)
    tubes = [
        (
            spline(
                [
                    (SIDES[finding.side] * 3.0, at[1] + d * 0.2),
                    (at[0], at[1] + d),
                    (at[0] + SIDES[finding.side] * 2, at[1] + 1.6 * d),
                ]
            ),
            0.22,
            1.0,
        )
        for d in (-1.2, 0.1, 1.3)
    ]
    amount *= 1 - 0.30 * scene.canvas.lines(tubes, 0.10)
    _fill(scene, amount)
    scene.mark("airspace", (amount > 0.3) & _lung(scene, finding.side), finding)


def opacity(scene: Scene, finding: Finding) -> None:
    """Hazy and patchy: vessels are still seen through it."""
    at = _place(scene, finding)
    size = 2.6 + 1.6 * finding.size
    amount = 0.40 * _cloud(scene, at, 1.25 * size, size, 0.9)
    amount = amount * np.clip(1 + 0.30 * scene.canvas.noise(scene.rng, 0.9), 0.3, 1.6)
    scene.air *= 1 - amount
    scene.mark("airspace", (amount > 0.17) & _lung(scene, finding.side), finding)


def tuberculosis(scene: Scene, finding: Finding) -> None:
    """An upper-zone patch with a thick-walled cavity and satellite nodules."""
    at = _place(scene, finding)
    amount = 0.50 * _cloud(scene, at, 3.2, 3.0, 0.6)
    radius = 1.2 + 0.9 * finding.size
    ring = scene.canvas.soft(
        [(ellipse(*at, radius + 0.5, radius + 0.4), 1.0), (ellipse(*at, radius, radius - 0.1), 0.0)], 0.12
    )
    hole = scene.canvas.soft([(ellipse(*at, radius, radius - 0.1), 1.0)], 0.12)
    amount = amount * (1 - 0.9 * hole)
    spots = scene.rng.normal(0, 2.2, (9, 2)) + np.array(at)
    amount = np.maximum(amount, 0.45 * scene.canvas.soft([(ellipse(x, y, 0.3, 0.3), 1.0) for x, y in spots], 0.1))
    _fill(scene, amount)
    scene.added += 0.11 * ring
    mask = ((amount > 0.2) | (hole > 0.5)) & _lung(scene, finding.side)
    scene.mark("airspace", mask, finding)


def nodule(scene: Scene, finding: Finding) -> None:
    """Round density; a mass is larger and lobulated."""
    at = _place(scene, finding)
    radius = diameter(finding) / 2
    if finding.kind == "mass":
        turns = np.linspace(0, 2 * np.pi, 9)[:-1]
        reach = radius * (1 + scene.rng.uniform(-0.14, 0.14, 8))
        outline = spline(
            [(at[0] + r * np.cos(t), at[1] + r * np.sin(t)) for r, t in zip(reach, turns, strict=True)], closed=True
        )
    else:
        outline = ellipse(*at, radius, radius * 0.95)
    amount = scene.canvas.soft([(outline, 1.0)], 0.16)
    scene.added += (0.19 if finding.kind == "nodule" else 0.21) * amount
    scene.vessels *= 1 - 0.7 * amount
    scene.mark("nodule", scene.canvas.mask(outline), finding)


def atelectasis(scene: Scene, finding: Finding) -> None:
    """One to three plate-like bands above the diaphragm."""
    sign, base = SIDES[finding.side], scene.thorax.base[finding.side]
    bands = []
    for i in range(1 + int(finding.size * 2.99)):
        y = base - 4.6 - 1.5 * i + float(scene.rng.uniform(-0.3, 0.3))
        x = 4.6 if finding.side == "right" else 6.8
        line = spline(
            [
                (sign * x, y - 0.5),
                (sign * (x + 2.5), y),
                (sign * (x + 5.2 - 0.4 * i), y - 0.2 + float(scene.rng.uniform(-0.5, 0.5))),
            ]
        )
        bands.append(strip(line, np.interp(np.arange(len(line)), [0, len(line) / 2, len(line)], [0.25, 0.75, 0.2])))
    amount = scene.canvas.soft([(band, 1.0) for band in bands], 0.10)
    scene.added += 0.17 * amount
    scene.mark("atelectasis", scene.canvas.mask(*bands) & _lung(scene, finding.side), finding)


def edema(scene: Scene, finding: Finding) -> None:
    """Bat-wing haze about the hila, thick blurred vessels, short septal lines at the bases."""
    total = np.zeros_like(scene.air)
    for sign in SIDES.values():
        r = ((scene.x - sign * 5.0) / 4.6) ** 2 + ((scene.y - scene.thorax.carina[1] - 4.5) / 6.0) ** 2
        total += np.exp(-r)
    grain = np.clip(1 + 0.35 * scene.canvas.noise(scene.rng, 1.0), 0.2, 1.8)
    amount = ((0.30 + 0.32 * finding.size) * total * grain).astype(np.float32)
    scene.air *= 1 - np.clip(amount, 0, 0.85)
    lines = []
    for side, sign in SIDES.items():
        for y in np.arange(scene.thorax.base[side] - 7.0, scene.thorax.base[side] - 1.8, 0.62):
            x = float(scene.thorax.lateral_x(side, y)) - 0.25
            lines.append((np.array([(sign * x, y), (sign * (x - 1.5), y + 0.1)]), 0.11, 1.0))
    scene.added += 0.05 * scene.canvas.lines(lines, 0.03)
    both = _lung(scene, "right") | _lung(scene, "left")
    scene.mark("edema", (amount > 0.16) & both & ~scene.structures["heart"], finding)


def fibrosis(scene: Scene, finding: Finding) -> None:
    """A coarse net of lines in the lower outer zones of both lungs."""
    lines: list[tuple[Curve, float, float]] = []
    for side, sign in SIDES.items():
        base = scene.thorax.base[side]
        for _ in range(90 + int(90 * finding.size)):
            y = base - abs(float(scene.rng.normal(0, 4.0))) - 1.0
            x = float(scene.thorax.lateral_x(side, y)) - abs(float(scene.rng.normal(0, 2.6))) - 0.3
            angle, length = float(scene.rng.uniform(0, np.pi)), float(scene.rng.uniform(0.5, 1.3))
            end = (sign * x + np.cos(angle) * length, y + np.sin(angle) * length)
            lines.append((np.array([(sign * x, y), end]), 0.13, 1.0))
    net = scene.canvas.lines(lines, 0.04)
    both = _lung(scene, "right") | _lung(scene, "left")
    haze = scene.canvas.lines(lines, 0.9)
    scene.added += 0.10 * net * blur_mask(both, 1.0)
    scene.air *= 1 - 0.22 * np.clip(2.0 * haze, 0, 1)
    scene.mark("fibrosis", (haze > 0.12) & both & ~scene.structures["heart"], finding)


def thickening(scene: Scene, finding: Finding) -> None:
    """A dense band along the inside of the chest wall."""
    border = scene.thorax.lateral[finding.side]
    part = border[(border[:, 1] > 5.0) & (border[:, 1] < scene.thorax.base[finding.side] - 5)]
    width = (0.9 + 0.9 * finding.size) * (
        1 + 0.25 * np.sin(np.linspace(0, 9, len(part)) + float(scene.rng.uniform(0, 6)))
    )
    inner = part - np.stack([SIDES[finding.side] * width, np.zeros(len(part))], axis=1)
    band = np.concatenate([part, inner[::-1]])
    amount = scene.canvas.soft([(band, 1.0)], 0.10)
    scene.air *= 1 - 0.75 * amount
    scene.mark("pleural_thickening", scene.canvas.mask(band), finding)


def rib_fracture(scene: Scene, finding: Finding) -> None:
    """Record the region; the bones are drawn with the fracture."""
    mask = scene.structures["fracture"] & (np.sign(scene.x) == SIDES[finding.side])
    scene.mark("fracture", mask, finding)


LESION_PAINTERS: Mapping[str, Callable[[Scene, Finding], None]] = {
    "pleural effusion": effusion, "costophrenic blunting": effusion, "pneumothorax": pneumothorax,
    "consolidation": consolidation, "opacity": opacity, "tuberculosis": tuberculosis, "nodule": nodule,
    "mass": nodule, "atelectasis": atelectasis, "edema": edema, "fibrosis": fibrosis,
    "pleural thickening": thickening, "rib fracture": rib_fracture,
}  # fmt: skip


def _tube(scene: Scene, finding: Finding, line: Curve, width: float, *, stripe: float, wall: float, name: str) -> None:
    """A hollow tube: two walls, and one radiopaque stripe."""
    band = strip(line, width)
    half = len(line)
    walls = [(band[:half], 0.10, 1.0), (band[half:], 0.10, 1.0)]
    scene.added += wall * scene.canvas.lines(walls, 0.03) + 0.5 * wall * scene.canvas.soft([(band, 1.0)], 0.04)
    if stripe:
        edge = strip(line, 0.5 * width)[:half]
        scene.added += stripe * scene.canvas.lines([(edge, 0.13, 1.0)], 0.03)
    scene.mark(name, scene.canvas.mask(band), finding)


def chest_tube(scene: Scene, finding: Finding) -> None:
    """Enters through the lateral wall; runs up to the apex for air, or along the base for fluid."""
    sign = SIDES[finding.side]
    entry = scene.thorax.base[finding.side] - 6.5 + float(scene.rng.uniform(-1, 1))
    out = float(scene.thorax.lateral_x(finding.side, entry))
    for_air = any(r.finding.kind == "pneumothorax" and r.finding.side == finding.side for r in scene.regions)
    path = [(out + scene.thorax.wall + 4, entry + 4), (out + 0.5, entry + 0.8)]
    if for_air or scene.rng.random() < 0.5:
        path += [(out - 2.2, entry - 2.2), (0.45 * out + 3.6, 0.5 * (entry + 7.0)), (6.0, 7.0)]
    else:
        path += [(out - 2.5, entry - 0.4), (0.5 * out + 2.4, entry - 0.3), (4.8, entry + 0.7)]
    line = spline([(sign * x, y) for x, y in path])
    _tube(scene, finding, line, 0.95, stripe=0.16, wall=0.07, name="chest_tube")


def endotracheal_tube(scene: Scene, finding: Finding) -> None:
    """In the trachea, the tip 3 to 5 cm above the carina."""
    x, y = scene.thorax.carina
    line = spline([(-0.3, -3.0), (0.0, 1.0), (0.3 * x, 0.6 * y - 1), (0.7 * x, y - 3.0 - 2.0 * finding.size)])
    _tube(scene, finding, line, 0.95, stripe=0.15, wall=0.06, name="device")


def gastric_tube(scene: Scene, finding: Finding) -> None:
    """Down the oesophagus into the stomach below the left diaphragm."""
    base = scene.thorax.base["left"]
    line = spline(
        [(0.9, -3.0), (0.8, 6.0), (1.2, 14.0), (1.0, base - 4), (2.2, base + 0.5), (5.0, base + 2.6), (7.5, base + 2.2)]
    )
    _tube(scene, finding, line, 0.5, stripe=0.13, wall=0.05, name="device")


def central_line(scene: Scene, finding: Finding) -> None:
    """From the right neck into the superior vena cava."""
    tip = scene.thorax.carina[1] + 1.0 + 3.0 * finding.size
    line = spline([(-4.6, -2.0), (-4.0, 2.0), (-3.0, 5.5), (-2.5, 9.0), (-2.4, tip)])
    scene.added += 0.20 * scene.canvas.lines([(line, 0.26, 1.0)], 0.04)
    scene.mark("device", scene.canvas.mask(strip(line, 0.35)), finding)


def pacemaker(scene: Scene, finding: Finding) -> None:
    """A generator below the left clavicle and a lead to the right ventricle."""
    box = spline([(8.4, 7.0), (11.8, 6.8), (12.6, 8.6), (11.8, 10.8), (8.6, 10.8), (7.8, 8.8)], closed=True)
    low = scene.thorax.base["left"] - 4.0
    lead = spline(
        [(8.6, 7.6), (6.0, 5.6), (2.0, 6.4), (-1.6, 9.0), (-2.5, 13.0), (-2.2, low - 4), (0.5, low), (4.2, low - 0.3)],
        steps=10,
    )
    scene.added += 0.42 * scene.canvas.soft([(box, 1.0)], 0.06)
    scene.added += 0.24 * scene.canvas.lines([(lead, 0.20, 1.0)], 0.03)
    scene.mark("device", scene.canvas.mask(box, strip(lead, 0.35)), finding)


DEVICE_PAINTERS: Mapping[str, Callable[[Scene, Finding], None]] = {
    "chest tube": chest_tube, "endotracheal tube": endotracheal_tube, "gastric tube": gastric_tube,
    "central line": central_line, "pacemaker": pacemaker,
}  # fmt: skip


def marker(scene: Scene) -> None:
    """The lead letter L next to the patient's left shoulder."""
    x, y = 15.2, 1.4
    bar = np.array([(x, y), (x + 0.35, y), (x + 0.35, y + 1.45), (x + 1.1, y + 1.45), (x + 1.1, y + 1.8), (x, y + 1.8)])
    scene.added += 0.75 * scene.canvas.soft([(bar, 1.0)], 0.03)
