"""Draw the lateral chest, patient facing image left; coarser than the frontal one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawing import Array, Canvas, Curve, Mask, ellipse, spline, strip
from .findings import Finding
from .frontal import Drawn, Region
from .patient import Patient, generator

_HEIGHT = {"upper": 9.0, "mid": 15.5, "lower": 22.0}  # cm, of a finding's zone


@dataclass(frozen=True)
class _Outlines:
    """Curves in cm (x: front to back, y: down) and the height of the diaphragm."""

    spine: Curve
    lung: Curve
    heart: Curve
    body: Curve
    base: float
    scale: float


@dataclass(kw_only=True)
class _Side(Drawn):
    """State of a lateral image while it is drawn."""

    outlines: _Outlines


def _outlines(patient: Patient, findings: tuple[Finding, ...]) -> _Outlines:
    own = generator("lateral", patient.key)
    hump = 0.9 + 2.6 * max(0.0, (patient.age - 50) / 45)  # kyphosis grows with age
    spine = spline(
        [
            (6.0, -1.0), (8.0 + 0.5 * hump, 6.0), (9.0 + hump, 12.0), (8.9 + 0.9 * hump, 18.0),
            (7.8 + 0.4 * hump, 24.0), (6.6, 30.0), (6.2, 44.0),
        ]
    )  # fmt: skip
    scale = patient.height / 172.0 * float(own.uniform(0.96, 1.04))
    base = 4.1 + 22.0 * scale
    back = [(_spine_x(spine, y) + 1.7, y) for y in (7.0, 12.0, 17.0, 22.0, base + 0.5)]
    floor = [(back[-1][0] - 0.9, base + 1.6), (5.0, base - 1.6), (0.5, base - 2.8), (-5.0, base - 1.4)]
    front = [(-7.8, base - 0.2), (-8.6, 18.0), (-8.2, 12.5), (-6.2, 8.0), (-2.5, 5.0)]
    lung = spline([(1.0, 4.0), (4.5, 4.6), *back, *floor, *front], closed=True, steps=6)
    big = next((f.size for f in findings if f.kind == "cardiomegaly"), None)
    g = 1.06 * (1.0 if big is None else 1.28 + 0.2 * big)
    hx, hy = -3.2 + 2.45 * (g - 1.06), base - 1.0
    heart = spline(
        [
            (hx - 4.4 * g, hy - 2.0), (hx - 4.6 * g, hy - 4.6 * g), (hx - 2.6 * g, hy - 8.2 * g),
            (hx + 0.8 * g, hy - 10.0 * g), (hx + 3.2 * g, hy - 8.6 * g), (hx + 4.5 * g, hy - 5.4 * g),
            (hx + 3.8 * g, hy - 2.2), (hx + 1.5, hy), (hx - 2.5, hy + 0.6),
        ],
        closed=True,
    )  # fmt: skip
    fat = 1.4 + 0.13 * (patient.bmi - 18)
    chest = [(-3.0, -3.0), (-4.0, 1.5), (-8.0, 5.0), (-9.6 - fat, 11.0), (-10.2 - fat, 18.0), (-9.8 - fat, 27.0)]
    rear = [(11.8 + fat, 28.0), (13.6 + fat, 16.0), (12.6 + fat, 8.0), (9.8, 2.0), (8.6, -3.0)]
    body = np.concatenate([spline([*chest, (-9.8 - fat, 60.0)]), spline([(11.5 + fat, 60.0), *rear])])
    return _Outlines(spine, lung, heart, body, base, scale)


def _spine_x(spine: Curve, y: float) -> float:
    return float(np.interp(y, spine[:, 1], spine[:, 0]))


def paint_lateral(
    canvas: Canvas, patient: Patient, findings: tuple[Finding, ...], rng: np.random.Generator
) -> tuple[Array, dict[str, Mask], list[Region]]:
    """Attenuation [H, W], masks (lungs, heart, and by finding) and regions of a left lateral view."""
    o = _outlines(patient, findings)
    x, y = canvas.grid()
    lungs = canvas.soft([(o.lung, 1.0)], 0.12)
    depth = canvas.soft([(o.lung, 1.0)], 2.0)
    air, added = lungs * np.clip(0.25 + 0.85 * depth, 0, 1), np.zeros_like(lungs)
    side = _Side(canvas=canvas, rng=rng, x=x, y=y, air=air, added=added, outlines=o)
    side.structures = {"heart": canvas.mask(o.heart), "lungs": canvas.mask(o.lung)}
    worn = next((f for f in findings if f.kind == "vertebral degeneration"), None)
    column, corners = _vertebrae(o.spine, worn)
    if worn is not None:
        side.mark("spine", canvas.mask(*corners), worn)
    for finding in findings:
        _paint(side, finding, generator("lateral findings", patient.key))

    t = np.linspace(0, 1, 24)
    ribs = [
        (
            np.stack([_spine_x(o.spine, v) + 1.2 - t * (_spine_x(o.spine, v) + 7.7), v + 7.5 * t**1.15 - 0.8], axis=1),
            0.75,
            1.0,
        )
        for v in np.arange(4.5, 22.0, 2.1)
    ]
    sternum = strip(spline([(-6.4, 6.0), (-8.8, 11.0), (-9.4, 17.0), (-9.0, 21.0)]), 1.1)
    trachea = strip(spline([(0.5, -2.0), (1.4, 6.0), (2.4, 12.0)]), 1.6)
    aorta = strip(spline([(-2.0, 13.0), (-0.5, 9.6), (3.0, 8.4), (6.0, 10.5), (7.0, 16.0), (6.6, o.base)]), 2.4)
    arms = strip(spline([(-13.0, 1.0), (-4.0, 2.0), (3.0, 3.2), (9.0, 2.0)]), 6.0)
    solid = canvas.soft([(o.body, 1.0)], 0.10)
    thick = canvas.soft([(o.body, 1.0)], 3.5)
    shade = 0.58 * canvas.soft([(o.heart, 1.0)], 0.45)
    below = np.clip((y - o.base + 2) / 5, 0, 1)
    total = solid * (0.52 + 0.22 * thick + 0.10 * below + 0.002 * (patient.bmi - 25)) - 0.50 * side.air * (1 - shade)
    total += 0.08 * canvas.soft([(arms, 1.0)], 0.5) + 0.05 * canvas.soft([(aorta, 1.0)], 0.3)
    total += 0.08 * canvas.soft([(ellipse(1.2, 14.2, 1.7, 2.2), 1.0)], 0.5)
    # vertebrae contrast with lung, hardly with the abdomen
    bone = 0.035 + 0.085 * np.clip(1.2 * side.air, 0, 1)
    total += bone * canvas.soft([(c, 1.0) for c in column], 0.14)
    total += 0.16 * canvas.soft([(c, 1.0) for c in corners], 0.08) + 0.035 * lungs * canvas.lines(ribs, 0.12)
    total += 0.10 * canvas.soft([(sternum, 1.0)], 0.12) - 0.10 * canvas.soft([(trachea, 1.0)], 0.2) + side.added
    result: Array = np.maximum(total, 0).astype(np.float32)
    return result, side.structures, side.regions


def _paint(side: _Side, f: Finding, own: np.random.Generator) -> None:
    o, x, y = side.outlines, side.x, side.y
    whole = side.structures["lungs"]
    if f.kind in ("pleural effusion", "costophrenic blunting"):
        height = 1.6 if f.kind == "costophrenic blunting" else 3.0 + 9.0 * f.size
        back = np.interp(y, o.spine[:, 1], o.spine[:, 0]).astype(np.float32)
        gap = np.clip(back + 1.6 - x, 0, None)
        level = o.base + 1.4 - height + min(4.5, 0.7 * height) * (1 - np.exp(-gap / 3.0))
        fluid = np.clip((x + 4.0) / 3.0, 0, 1) / (1 + np.exp(np.clip(-(y - level) * 5, -30, 30)))
        side.air *= (1 - 0.85 * fluid).astype(np.float32)
        side.mark("effusion", (fluid > 0.5) & whole, f)
    elif f.kind in ("consolidation", "opacity", "tuberculosis", "nodule", "mass", "atelectasis"):
        cy = _HEIGHT.get(f.zone, 22.0) * o.scale
        cx = float(own.uniform(-1.0, 3.0 if f.zone == "upper" else 4.5))
        radius = {"nodule": 0.9, "mass": 2.4}.get(f.kind, 2.3 + 1.6 * f.size)
        tall = 0.3 if f.kind == "atelectasis" else 0.85 * radius
        hill = np.exp(-(((x - cx) / radius) ** 2) - ((y - cy) / tall) ** 2)
        amount = np.clip(hill * (1.6 + 0.12 * side.canvas.noise(side.rng, 1.2)) - 0.3, 0, 1).astype(np.float32)
        side.added += (0.15 if f.kind in ("consolidation", "mass", "nodule") else 0.09) * amount
        name = {"nodule": "nodule", "mass": "nodule", "atelectasis": "atelectasis"}.get(f.kind, "airspace")
        side.mark(name, (amount > 0.3) & whole, f)
    elif f.kind == "edema":
        haze = np.exp(-(((x - 1.0) / 5.0) ** 2) - ((y - 14.0) / 5.5) ** 2)
        side.air *= (1 - (0.25 + 0.3 * f.size) * haze).astype(np.float32)
        side.mark("edema", (haze > 0.4) & whole, f)
    elif f.kind == "fibrosis":
        side.air *= (1 - 0.35 * np.clip((y - 17) / 6, 0, 1)).astype(np.float32)
    elif f.kind == "cardiomegaly":
        side.mark("heart", side.structures["heart"], f)
    elif f.kind == "pacemaker":
        side.added += 0.35 * side.canvas.soft([(ellipse(-9.0, 7.5, 0.5, 2.0), 1.0)], 0.06)


def _vertebrae(spine: Curve, worn: Finding | None) -> tuple[list[Curve], list[Curve]]:
    """Outlines of the vertebral bodies, and of the osteophytes and dense end plates of worn ones."""
    bodies, corners = [], []
    pitch = 2.35
    tall = (pitch - (0.55 if worn is None else 0.30)) / 2
    for i in range(15):
        y = 1.5 + pitch * i
        x = _spine_x(spine, y)
        slope = _spine_x(spine, y + 1) - x
        down, back = np.array([slope, 1.0]) / np.hypot(slope, 1), np.array([1.0, -slope]) / np.hypot(slope, 1)
        middle = np.array([x, y])
        square = ((-1.5, -tall), (1.5, -tall), (1.5, tall), (-1.5, tall))
        bodies.append(np.array([middle + back * u + down * v for u, v in square]))
        if worn is None or not 4 <= i <= 10:
            continue
        spur = 2.0 + 0.6 * worn.size
        for end in (-1, 1):
            shape = ((-spur, tall), (-1.2, tall - 0.6), (1.5, tall), (1.5, tall + 0.25), (-spur, tall + 0.3))
            corners.append(np.array([middle + back * u + down * (end * v) for u, v in shape]))
    return bodies, corners
