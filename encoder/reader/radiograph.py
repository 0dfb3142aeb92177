"""Results of the reader: pixels, header facts, display windows.

Every string in :class:`ImageFacts` comes from a fixed list in this project and never from the file, so that no patient
identifier leaves the reader. Only NumPy is imported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from encoder.reader.views import View

if TYPE_CHECKING:
    import numpy.typing as npt


class Spacing(NamedTuple):
    """Distance between the centres of neighbouring pixels of a radiograph with square pixels (PS3.3 10.7.1.3).

    Attributes:
        mm: millimetres.
        at: plane of the distance: ``"patient"`` if it was calibrated; ``"detector"`` if it was not, and structures
            appear larger than they are; ``"unknown"`` if the file does not tell.
    """

    mm: float
    at: Literal["patient", "detector", "unknown"]


WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"]


@dataclass(frozen=True)
class ImageFacts:
    """Allow-listed facts about an image and its conversion: numbers, booleans and strings from fixed lists.

    Attributes:
        format: dicom, png, jpeg, tiff or webp.
        modality: a DICOM modality code such as ``"DX"``; ``"OTHER"`` for unlisted ones; None if not stated.
        transfer_syntax: name of the DICOM transfer syntax in the standard.
        photometric_interpretation: stated value, such as ``"MONOCHROME1"``.
        bits_stored: used bits of each pixel.
        rows: stored height in pixels.
        columns: stored width in pixels.
        frames: number of frames in the file.
        frame: number of the frame that was read, from 1.
        view: projection.
        view_source: attribute that states the view: ViewPosition, ViewCodeSequence, BodyPartExamined,
            PatientOrientation or none.
        body_part: such as ``"CHEST"``; ``"OTHER"`` for unlisted ones; None if not stated.
        inverted: True if grey values were inverted so that brighter means denser.
        mirrored: True if left and right were exchanged, after the rotation.
        rotated: degrees of clockwise rotation.
        resampled: True if the image was resampled to square pixels.
        orientation: stored PatientOrientation, such as ``"L\\\\F"``.
        burned_in_annotation: stated value; ``"unknown"`` if not stated.
        presentation_intent: ``"FOR PRESENTATION"``, ``"FOR PROCESSING"`` or None.
        overlays: True if the file has overlay planes, which are not shown.
        shutter: True if the file states a display shutter, which is not applied.
        lossy: True if the file states, or its transfer syntax implies, lossy compression.
    """

    format: str
    rows: int
    columns: int
    modality: str | None = None
    transfer_syntax: str | None = None
    photometric_interpretation: str | None = None
    bits_stored: int | None = None
    frames: int = 1
    frame: int = 1
    view: View = "unknown"
    view_source: str = "none"
    body_part: str | None = None
    inverted: bool = False
    mirrored: bool = False
    rotated: int = 0
    resampled: bool = False
    orientation: str | None = None
    burned_in_annotation: Literal["yes", "no", "unknown"] = "unknown"
    presentation_intent: str | None = None
    overlays: bool = False
    shutter: bool = False
    lossy: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dictionary with one key for each attribute."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageFacts:
        """Create an instance from the result of :meth:`to_dict`.

        Raises:
            ValueError: if a key is unknown.
            TypeError: if a key without default is missing.
        """
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError("unknown image facts")
        return cls(**data)


@dataclass(frozen=True, eq=False)
class Window:
    """Display window or VOI lookup table of a file (DICOM PS3.3 C.11.2).

    Attributes:
        function: formula; ``"LUT"`` uses ``lut``, the others ``center`` and ``width``.
        center: in modality units.
        width: in modality units.
        label: ``"window 1"``, ``"LUT 1"``, or an explanation from a fixed list such as ``"LUNG"``.
        lut: [N] uint16, output values of the lookup table.
        first: modality value of the first entry of ``lut``.
        maximum: largest possible value in ``lut`` (2^bits - 1).
    """

    function: WindowFunction
    center: float = 0.0
    width: float = 0.0
    label: str = "window 1"
    lut: npt.NDArray[np.uint16] | None = None
    first: int = 0
    maximum: int = 0

    def apply(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map modality values [N] to brightness [N], 0 to 1, before the inversion of MONOCHROME1."""
        if self.function == "LUT":
            assert self.lut is not None
            index = np.clip(np.floor(values + 0.5) - self.first, 0, len(self.lut) - 1).astype(np.intp)
            shown: npt.NDArray[np.float64] = np.minimum(self.lut[index] / max(self.maximum, 1), 1.0)
            return shown
        if self.function == "SIGMOID":
            return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.center) / self.width, -700, 700)))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1.0
        if width <= 0:  # LINEAR of width 1: two levels
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One chest radiograph for preprocessing and display.

    Attributes:
        pixels: [H, W] uint16 with square pixels. Brighter means denser; upright, with the patient's left on the right;
            0 where ``valid`` is False. An affine function of the modality values; no VOI transformation is applied.
        valid: [H, W] bool, False on padding; None without padding.
        facts: allow-listed facts.
        warnings: fixed texts.
        sha256: SHA-256 of the file, hexadecimal.
        windows: windows of the file, lookup tables first; the first is the default. May be empty.
        scale: with ``offset``: modality value = scale * pixel + offset.
        offset: see ``scale``.
        monochrome1: True if the photometric interpretation is MONOCHROME1 (low values are bright).
        spacing: distance between pixels; None if the file states none that can be used.
    """

    pixels: npt.NDArray[np.uint16]
    valid: npt.NDArray[np.bool_] | None
    facts: ImageFacts
    warnings: tuple[str, ...]
    sha256: str = ""
    windows: tuple[Window, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    monochrome1: bool = False
    spacing: Spacing | None = None

    def display(self, window: int = 0) -> npt.NDArray[np.uint8]:
        """Render the image with a window of the file, or with percentiles 0.5 to 99.5 if it has none.

        Args:
            window: index into ``windows``; 0 is valid without windows too.

        Returns:
            [H, W] uint8, padding black.

        Raises:
            IndexError: if there is no such window.
        """
        top = int(self.pixels.max(initial=0))
        levels = np.arange(top + 1, dtype=np.float64)
        if self.windows:
            shown = self.windows[window].apply(levels * self.scale + self.offset)
            shown = 1.0 - shown if self.monochrome1 else shown
        elif window:
            raise IndexError(f"the image has no window {window}")
        else:
            low, high = self.percentiles(0.005, 0.995)
            shown = np.clip((levels - low) / max(high - low, 1), 0.0, 1.0)
        table = np.floor(shown * 255.0 + 0.5).astype(np.uint8)
        image = table.take(self.pixels)
        if self.valid is not None:
            image[~self.valid] = 0
        return image

    def percentiles(self, low: float, high: float) -> tuple[int, int]:
        """Return the pixel values at two quantiles (0 to 1) of the valid pixels."""
        values = self.pixels if self.valid is None or not self.valid.any() else self.pixels[self.valid]
        share = np.cumsum(np.bincount(values.ravel())) / max(values.size, 1)
        return int(np.searchsorted(share, low)), int(np.searchsorted(share, high))


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """Image prepared with a recipe for the encoder.

    Attributes:
        pixels: [S, S] uint8; [h, w] without the recipe's centre crop, or if it keeps the whole image.
        facts: allow-listed facts.
        warnings: fixed texts.
        sha256: SHA-256 of the file, hexadecimal.
    """

    pixels: npt.NDArray[np.uint8]
    facts: ImageFacts
    warnings: tuple[str, ...]
    sha256: str
