"""A radiograph as the rest of the project sees it: pixels and the few header facts that leave the reader.

Every string of :class:`ImageFacts` comes from a fixed list in this project, never from the file itself, so that nothing
which names a patient can travel past this point. Only NumPy is imported here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

View = Literal["PA", "AP", "frontal", "lateral", "unknown"]
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"]


@dataclass(frozen=True)
class ImageFacts:
    """What the reader saw and did. Allow-listed: numbers, booleans and strings from fixed lists.

    Attributes:
        format: dicom, png, jpeg, tiff or webp.
        modality: a DICOM modality code such as ``"DX"``; ``"OTHER"`` for one not on the list; None where not stated.
        transfer_syntax: the standard's name of the DICOM transfer syntax.
        photometric_interpretation: as the file states it, e.g. ``"MONOCHROME1"``.
        bits_stored: bits that carry the image, per pixel.
        rows: height as stored in the file, in pixels.
        columns: width as stored in the file, in pixels.
        frames: number of frames in the file.
        frame: the frame that was read, counted from 1.
        view: projection.
        view_source: the attribute that stated it: ViewPosition, ViewCodeSequence, PatientOrientation or none.
        body_part: e.g. ``"CHEST"``; ``"OTHER"`` for one not on the list; None where not stated.
        inverted: grey values were turned over so that brighter means denser.
        mirrored: left and right were exchanged, after the rotation.
        rotated: degrees turned clockwise.
        resampled: pixels were not square and were made so.
        orientation: PatientOrientation as stored, e.g. ``"L\\\\F"``.
        burned_in_annotation: what the file states; unknown where it states nothing.
        presentation_intent: ``"FOR PRESENTATION"``, ``"FOR PROCESSING"`` or None.
        overlays: the file has overlay planes, which are not shown.
        shutter: the file states a display shutter, which is not applied.
        lossy: the file states, or its transfer syntax implies, lossy compression.
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
        """JSON-ready data, one key per attribute."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageFacts:
        """Rebuild from :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown.
            TypeError: a key without default is missing.
        """
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError("unknown image facts")
        return cls(**data)


@dataclass(frozen=True, eq=False)
class Window:
    """One way the file offers to show its values (VOI, DICOM PS3.3 C.11.2).

    Attributes:
        function: which formula; ``"LUT"`` takes ``lut``, the others ``center`` and ``width``.
        center: in modality units.
        width: in modality units.
        label: ``"window 1"``, ``"LUT 1"``, or an explanation from a fixed list such as ``"LUNG"``.
        lut: [N] uint16, output values of the lookup table.
        first: modality value that the first entry of ``lut`` belongs to.
        maximum: largest output value that ``lut`` may hold (2^bits - 1).
    """

    function: WindowFunction
    center: float = 0.0
    width: float = 0.0
    label: str = "window 1"
    lut: npt.NDArray[np.uint16] | None = None
    first: int = 0
    maximum: int = 0

    def apply(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map modality values [N] to brightness 0..1 [N] (before the inversion of MONOCHROME1)."""
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
    """One frontal chest radiograph, ready for preprocessing or a viewer.

    Attributes:
        pixels: [H, W] uint16. Brighter means denser, upright, the patient's left on the image's right, square pixels; 0
            where ``valid`` is False. Affine in the file's modality values (identity VOI).
        valid: [H, W] bool, False where the file marks padding; None where it marks none.
        facts: what the reader saw and did.
        warnings: what a person should know; fixed texts.
        sha256: of the file's bytes, hexadecimal.
        windows: the file's own windows, lookup tables first; the first is the default. May be empty.
        scale: with ``offset``: modality value = scale * pixel + offset.
        offset: see ``scale``.
        monochrome1: the file's photometric interpretation shows low values bright.
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

    def display(self, window: int = 0) -> npt.NDArray[np.uint8]:
        """The viewer's rendering: one of the file's windows, or percentiles 0.5 to 99.5 where it has none.

        Args:
            window: index into ``windows``; 0 always works.

        Returns:
            [H, W] uint8, padding black.

        Raises:
            IndexError: there is no such window.
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
        """Pixel values below which the given parts of the valid pixels lie."""
        values = self.pixels if self.valid is None or not self.valid.any() else self.pixels[self.valid]
        share = np.cumsum(np.bincount(values.ravel())) / max(values.size, 1)
        return int(np.searchsorted(share, low)), int(np.searchsorted(share, high))


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image after a preprocessing recipe: all that the model needs and the few facts that go with it.

    Attributes:
        pixels: [S, S] uint8; [h, w] where the recipe's centre crop was left out.
        facts: what the reader saw and did.
        warnings: what a person should know; fixed texts.
        sha256: of the file's bytes, hexadecimal.
    """

    pixels: npt.NDArray[np.uint8]
    facts: ImageFacts
    warnings: tuple[str, ...]
    sha256: str
