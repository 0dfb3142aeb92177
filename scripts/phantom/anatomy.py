"""The outlines of the frontal chest in cm: lungs, heart, mediastinum, ribs, body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawing import Array, Curve, spline
from .findings import Finding
from .patient import Patient, generator

SIDES = {"right": -1.0, "left": 1.0}  # the patient's left lies on image right

_LATERAL = ((4.6, 4.1), (6.4, 4.4), (8.4, 5.9), (10.4, 8.9), (11.9, 13.0), (12.9, 18.0), (13.3, 22.5), (13.2, 26.0))
_DOME = ((12.9, 27.2), (11.6, 25.6), (9.2, 24.2), (6.8, 23.9), (4.6, 24.7), (2.6, 25.8))
_MEDIAL = ((2.5, 22.0), (2.6, 18.0), (2.7, 14.5), (2.5, 11.0), (2.4, 8.0), (2.8, 5.6), (3.6, 4.5))


@dataclass(frozen=True)
class Thorax:
    """Outlines of one frontal image, all in patient cm.

    Attributes:
        lung: side -> closed outline of the whole lung (also behind the heart).
        lateral: side -> the outer border from apex to costophrenic angle, [N, 2].
        heart, mediastinum, body: closed outlines.
        ribs: (side, number 1..10) -> centre line from the spine round to the front.
        front: index along a rib's centre line where its anterior part begins.
        base: side -> y of the costophrenic angle.
        carina: (x, y) of the tracheal bifurcation.
    """

    lung: dict[str, Curve]
    lateral: dict[str, Curve]
    heart: Curve
    mediastinum: Curve
    body: Curve
    ribs: dict[tuple[str, int], Curve]
    front: int
    base: dict[str, float]
    carina: tuple[float, float]
    wall: float

    def lateral_x(self, side: str, y: Array | float) -> Array:
        """|x| of the inner chest wall at height y (cm)."""
        border = self.lateral[side]
        return np.asarray(np.interp(y, border[:, 1], np.abs(border[:, 0])), dtype=np.float32)


def build_thorax(patient: Patient, findings: tuple[Finding, ...], *, portable: bool) -> Thorax:
    """The outlines of a patient; `portable` (AP, often supine) means less air, a magnified heart, higher diaphragms."""
    rng = generator("thorax", patient.key)
    male = patient.sex == "M"
    size = patient.height / 172.0
    wide = size * (1.0 if male else 0.93) * (1 + 0.0015 * (patient.bmi - 25)) * rng.uniform(0.97, 1.03)
    deep = size * (1.02 if male else 0.97) * (0.86 if portable else 1.0) * rng.uniform(0.96, 1.04)
    top = 4.1

    def place(points: tuple[tuple[float, float], ...], sign: float, lift: float = 0.0) -> list[tuple[float, float]]:
        return [(sign * u * wide, top + (v - top) * deep - lift) for u, v in points]

    lung, lateral, base = {}, {}, {}
    for side, sign in SIDES.items():
        lift = rng.uniform(-0.3, 0.3) + (0.55 if side == "right" else -0.55)  # the right dome stands higher
        outer = place(_LATERAL, sign)
        dome = [(x, y - lift * (0.3 if i == 0 else 1.0)) for i, (x, y) in enumerate(place(_DOME, sign))]
        medial = place(_MEDIAL, sign)
        lung[side] = spline(outer + dome + medial, closed=True, steps=5)
        lateral[side] = np.concatenate([spline(outer, steps=6), np.array([dome[0]])])
        base[side] = dome[0][1]

    thoracic = 2 * 13.2 * wide
    big = next((f for f in findings if f.kind == "cardiomegaly"), None)
    ratio = rng.uniform(0.40, 0.47) if big is None else 0.58 + 0.14 * big.size
    width = ratio * thoracic * (1.08 if portable else 1.0)
    low = top + (24.6 - top) * deep
    right, left, tall = 0.34 * width, 0.66 * width, (10.5 if big is None else 11.5 + 2 * big.size) * deep
    heart = spline(
        [
            (-0.30 * right, low - tall), (-0.70 * right, low - 0.74 * tall), (-0.97 * right, low - 0.45 * tall),
            (-right, low - 0.28 * tall), (-0.78 * right, low + 0.1), (0.0, low + 0.9), (0.55 * left, low + 1.0),
            (0.90 * left, low + 0.1), (left, low - 0.16 * tall), (0.90 * left, low - 0.40 * tall),
            (0.62 * left, low - 0.70 * tall), (0.36 * left, low - 0.92 * tall), (0.10 * left, low - tall),
        ],
        closed=True,
        steps=6,
    )  # fmt: skip

    aged = np.clip((patient.age - 40) / 50, 0, 1)
    aneurysm = next((f for f in findings if f.kind == "aortic enlargement"), None)
    knob = 3.1 + 0.7 * aged + (0.0 if aneurysm is None else 1.3 + 1.2 * aneurysm.size)
    stem = 2.6 + (0.4 if portable else 0.0) + (0.0 if aneurysm is None else 0.7)
    arch = 8.6 + (top - 4.1)
    mediastinum = spline(
        [
            (-stem, 1.0), (-stem, 6.0), (-stem - 0.1, 11.0), (-stem - 0.5, low - 8), (-stem, low), (-2.6, low + 3),
            (2.6, low + 3), (stem, low), (stem + 0.3, arch + 5.6), (stem + 0.5, arch + 3.4),
            (stem + 0.1, arch + 2.3), (knob, arch + 1.0), (knob - 0.1, arch - 0.6), (stem, arch - 2.0),
            (stem - 0.2, 4.0), (stem, 1.0),
        ],
        closed=True,
        steps=5,
    )  # fmt: skip

    wall = 1.6 + 0.11 * (patient.bmi - 18)
    edge = 13.3 * wide + wall
    half = [
        (0, -3), (5.8, -3), (6.2, 0.5), (8.0, 2.2), (13.5, 3.6), (18.5, 5.2), (21.5, 8.5), (23.0, 14.0),
        (21.0, 15.0), (edge + 2.2, 13.6), (edge + 0.7, 16.5), (edge, 22.0), (edge + 0.1, 30.0), (edge + 0.5, 60.0),
    ]  # fmt: skip
    outline = spline(half, steps=5)
    body = np.concatenate([outline, outline[::-1] * np.array([-1.0, 1.0])])

    ribs = {}
    for side, sign in SIDES.items():
        for number in range(1, 11):
            ribs[side, number] = _rib(number, sign, lateral[side], deep, rng)
    return Thorax(lung, lateral, heart, mediastinum, body, ribs, 24, base, (0.4, 4.1 + 8.6 * deep), wall)


def _rib(number: int, sign: float, lateral: Curve, deep: float, rng: np.random.Generator) -> Curve:
    start = 3.3 + 2.12 * (number - 1) * deep
    drop = (0.4 + 0.36 * number) * deep
    reach = float(np.interp(start + drop, lateral[:, 1], np.abs(lateral[:, 0]))) + 0.45
    if number == 1:
        reach = 6.3
    fall = min(6.5, 1.6 + 0.85 * number) * deep
    end = {1: 0.45, 2: 0.42}.get(number, min(0.85, 0.36 + 0.055 * number))
    wobble = rng.normal(0, 0.12, 7)
    points = [
        (2.0, start), (0.36 * reach + 0.8, start - 0.55), (0.72 * reach, start + 0.12 * drop),
        (reach, start + drop), (0.97 * reach, start + drop + 0.28 * fall),
        (0.5 * (0.95 + end) * reach, start + drop + 0.66 * fall), (end * reach, start + drop + fall),
    ]  # fmt: skip
    return spline([(sign * x, y + w) for (x, y), w in zip(points, wobble, strict=True)], steps=8)
