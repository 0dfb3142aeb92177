"""Tubes and lines on a frontal image: what a radiologist calls support devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .anatomy import SIDES
from .drawing import Curve, spline, strip
from .findings import Finding
from .frontal import Scene


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


PAINTERS: Mapping[str, Callable[[Scene, Finding], None]] = {
    "chest tube": chest_tube,
    "endotracheal tube": endotracheal_tube,
    "gastric tube": gastric_tube,
    "central line": central_line,
    "pacemaker": pacemaker,
}


def marker(scene: Scene) -> None:
    """The lead letter L beside the patient's left shoulder."""
    x, y = 15.2, 1.4
    bar = np.array([(x, y), (x + 0.35, y), (x + 0.35, y + 1.45), (x + 1.1, y + 1.45), (x + 1.1, y + 1.8), (x, y + 1.8)])
    scene.added += 0.75 * scene.canvas.soft([(bar, 1.0)], 0.03)
