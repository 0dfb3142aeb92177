"""Drawing in centimetres: a small canvas on which anatomy is written as curves and read back as arrays.

Coordinates are (x, y) in cm; x grows towards image right (the patient's left on a frontal image), y downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Curve = NDArray[np.float64]  # [N, 2] points in cm


def spline(points: Sequence[tuple[float, float]] | Curve, *, closed: bool = False, steps: int = 8) -> Curve:
    """Catmull-Rom curve through points [N, 2]; returns [M, 2], both ends included when open."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, p[-2:-1]])


def strip(centre: Curve, width: float | Curve) -> Curve:
    """Outline [2N, 2] of a band of the given width (cm, or one per point) around a centre line [N, 2]."""
    tangent = np.gradient(centre, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2.0, (len(centre),))[:, None]
    return np.concatenate([centre + normal * half, (centre - normal * half)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, steps: int = 40) -> Curve:
    """Outline [steps, 2] of an ellipse with radii in cm, turned by `turn` radians."""
    t = np.linspace(0.0, 2 * np.pi, steps, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], axis=1)


@dataclass(frozen=True)
class Canvas:
    """A raster of rows x columns pixels whose anatomy is placed by a rotation, a scale and a shift.

    Attributes:
        rows, columns: pixels.
        cm_per_pixel: size of a (square) pixel.
        turn: rotation of the patient in radians.
        shift: where the patient's origin lies from the top centre of the image, cm.
    """

    rows: int
    columns: int
    cm_per_pixel: float
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def pixels(self, curve: Curve) -> Curve:
        """[N, 2] cm -> [N, 2] pixel positions (x, y)."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        placed = np.empty((len(curve), 2))
        placed[:, 0] = (curve[:, 0] * c - curve[:, 1] * s + self.shift[0]) / self.cm_per_pixel + self.columns / 2
        placed[:, 1] = (curve[:, 0] * s + curve[:, 1] * c + self.shift[1]) / self.cm_per_pixel
        return placed

    def _placed(self, curves: Sequence[Curve]) -> list[Curve]:
        """Pixel positions of many curves at the price of one."""
        if not curves:
            return []
        ends = np.cumsum([len(curve) for curve in curves])
        return np.split(self.pixels(np.concatenate(curves)), ends[:-1])

    def grid(self) -> tuple[Array, Array]:
        """The patient's x and y (cm) of every pixel, each [rows, columns]."""
        px = (np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2) * self.cm_per_pixel - self.shift[0]
        py = (np.arange(self.rows, dtype=np.float32) + 0.5) * self.cm_per_pixel - self.shift[1]
        c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x: Array = (px[None, :] * c + py[:, None] * s).astype(np.float32)
        y: Array = (-px[None, :] * s + py[:, None] * c).astype(np.float32)
        return x, y

    def mask(self, *outlines: Curve) -> Mask:
        """Union of filled outlines, bool [rows, columns]."""
        image = Image.new("L", (self.columns, self.rows))
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            draw.polygon(_points(self.pixels(outline)), fill=255)
        return np.asarray(image) > 0

    def soft(self, shapes: Iterable[tuple[Curve, float]], blur: float) -> Array:
        """Filled outlines with values in 0..1 (later ones replace earlier ones), blurred by `blur` cm; float32 0..1."""
        listed = list(shapes)
        placed = self._placed([outline for outline, _ in listed])
        radius = blur / self.cm_per_pixel
        window = self._window(placed, radius)
        image = Image.new("L", (window[2] - window[0], window[3] - window[1]))
        draw = ImageDraw.Draw(image)
        for curve, (_, value) in zip(placed, listed, strict=True):
            draw.polygon(_points(curve - window[:2]), fill=round(255 * value))
        return self._inside(window, _blurred(image, radius))

    def lines(self, curves: Iterable[tuple[Curve, float, float]], blur: float) -> Array:
        """Poly-lines of (curve, width in cm, value 0..1), blurred; thin ones lose value instead of width."""
        listed = [(curve, width / self.cm_per_pixel, value) for curve, width, value in curves]
        placed = self._placed([curve for curve, _, _ in listed])
        radius = blur / self.cm_per_pixel
        widest = max((width for _, width, _ in listed), default=0.0)
        window = self._window(placed, radius + widest)
        image = Image.new("L", (window[2] - window[0], window[3] - window[1]))
        draw = ImageDraw.Draw(image)
        for curve, (_, width, value) in zip(placed, listed, strict=True):
            fill = round(255 * value * min(1.0, max(0.35, width)))
            draw.line(_points(curve - window[:2]), fill=fill, width=max(1, round(width)))
        return self._inside(window, _blurred(image, radius))

    def _window(self, curves: Sequence[Curve], margin: float) -> tuple[int, int, int, int]:
        """The part of the image (x0, y0, x1, y1) that blurred curves can reach: most shapes are small."""
        if not curves:
            return 0, 0, 1, 1
        points = np.concatenate(curves)
        low = np.floor(points.min(axis=0) - 3 * margin - 4).astype(int)
        high = np.ceil(points.max(axis=0) + 3 * margin + 4).astype(int)
        # a shape that runs out of the image must not be blurred against an edge inside the image
        x0, y0 = min(max(int(low[0]), 0), self.columns - 1), min(max(int(low[1]), 0), self.rows - 1)
        return x0, y0, max(min(int(high[0]), self.columns), x0 + 1), max(min(int(high[1]), self.rows), y0 + 1)

    def _inside(self, window: tuple[int, int, int, int], part: Array) -> Array:
        if part.shape == (self.rows, self.columns):
            return part
        whole = np.zeros((self.rows, self.columns), dtype=np.float32)
        whole[window[1] : window[3], window[0] : window[2]] = part
        return whole

    def noise(self, rng: np.random.Generator, scale: float) -> Array:
        """Smooth random field of about unit variance, features of `scale` cm."""
        height = max(3, round(self.rows * self.cm_per_pixel / scale) + 3)
        width = max(3, round(self.columns * self.cm_per_pixel / scale) + 3)
        coarse = rng.standard_normal((height, width)).astype(np.float32)
        field = Image.fromarray(coarse).resize((self.columns, self.rows), Image.Resampling.BICUBIC)
        return np.asarray(field, dtype=np.float32) * np.float32(1.4)


def _points(curve: Curve) -> list[float]:
    flat: list[float] = curve.ravel().tolist()
    return flat


def _blurred(image: Image.Image, radius: float) -> Array:
    if radius > 8:  # wide blurs are as good, and many times faster, on a small copy
        small = image.reduce(4).filter(ImageFilter.GaussianBlur(radius / 4))
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    elif radius > 2:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    else:  # hardly more than smoothing the steps of the raster: one box pass does
        image = image.filter(ImageFilter.BoxBlur(max(0.7, radius)))
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def blur_mask(mask: Mask, radius: float) -> Array:
    """Gaussian blur of a mask by `radius` pixels; float32 0..1."""
    return _blurred(Image.fromarray(mask.astype(np.uint8) * 255), radius)


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """(x_min, y_min, x_max, y_max) in pixels, both ends inside the mask; None when it is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
