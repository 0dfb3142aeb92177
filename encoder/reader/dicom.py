"""Reading of one DICOM file: checks, decoding, and conversion to pixels in which brighter means denser.

docs/dicom.md lists the handling of every attribute; sections are named in the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from encoder.errors import ReadError
from encoder.reader import admission as rules
from encoder.reader import geometry
from encoder.reader.decoders import LOSSY, NATIVE, RLE, TRANSFER_SYNTAXES, FrameShape
from encoder.reader.header import open_dicom
from encoder.reader.pixel_data import frames_held, grey_channel, stored_values
from encoder.reader.radiograph import ImageFacts, Radiograph
from encoder.reader.voi_lut import modality_lut, warn_of_blank, windows_of

if TYPE_CHECKING:
    import mmap

    import numpy.typing as npt

    from encoder.reader.header import DicomFile, Header

Allocate = Callable[[tuple[int, ...], type], Any]
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


class Greys(NamedTuple):
    """Mapping of stored bit patterns to pixels, and of pixels to modality values.

    Attributes:
        flip: pixel = pattern XOR flip.
        table: [2^bits] pixel of every bit pattern, used instead of ``flip`` if a modality LUT is present.
        scale: with ``offset``: modality value = scale * pixel + offset.
        offset: see ``scale``.
        inverted: True if grey values were inverted.
    """

    flip: int
    table: npt.NDArray[np.uint16] | None
    scale: float
    offset: float
    inverted: bool


def read_dicom(
    source: mmap.mmap | bytes,
    *,
    force: bool = False,
    frame: int | None = None,
    preamble: bool = True,
    allocate: Allocate = np.empty,
) -> Radiograph:
    """Read one frontal chest radiograph.

    Args:
        source: the whole file.
        force: override refusals of the content (modality, body part, view, orientation, for processing).
        frame: number of the frame from 1; required if the file has several.
        preamble: False for a file without the DICM prefix.
        allocate: allocates the pixel array for a shape and type; turning and resampling return a new array.

    Returns:
        The radiograph, without SHA-256.

    Raises:
        ReadError: if the file is refused; ``reason`` tells why.
    """
    file = open_dicom(source, preamble=preamble)
    header, admission = file.header, rules.Admission(force)
    if not preamble:
        admission.warn("the file has no DICOM preamble")
    if file.syntax not in TRANSFER_SYNTAXES:
        raise ReadError(
            "unsupported", "the transfer syntax is not supported for radiographs (video, or newer than this reader)"
        )
    if file.offset is None:
        raise ReadError("no_pixels", "the file holds no image (no PixelData)")
    modality = rules.modality(header, admission)
    intent = rules.presentation_intent(header, admission)
    body_part = rules.body_part(header, admission)
    view, view_source = rules.view(header, admission)
    photometric = _photometric(header)
    shape = _frame_shape(header, photometric, file)
    frames, index = _frame_index(header, frame, frames_held(file, shape), admission)
    quarter, mirror, orientation = geometry.turns(header, admission, lateral=view == "lateral")
    ratio = geometry.aspect(header, admission)
    patterns, bits, lossy = stored_values(file, shape, frames, index, admission)
    stored = grey_channel(patterns, bits, photometric, file, shape, admission)
    greys = _greys(header, bits, photometric, admission)
    pixels = _apply(greys, stored, allocate)
    valid = geometry.valid_pixels(header, stored, bits, shape.signed, admission) if photometric in GREY else None
    if valid is not None:
        pixels[~valid] = 0
        valid = geometry.turn(valid, quarter, mirror)
    pixels = geometry.turn(pixels, quarter, mirror)
    if ratio != 1.0:
        pixels, valid = geometry.square(pixels, valid, 1 / ratio if quarter % 2 else ratio)
        admission.warn("the pixels were not square: the image was resampled")
    facts = ImageFacts(
        format="dicom",
        modality=modality,
        transfer_syntax=TRANSFER_SYNTAXES[file.syntax],
        photometric_interpretation=photometric,
        bits_stored=bits,
        rows=shape.rows,
        columns=shape.columns,
        frames=frames,
        frame=index + 1,
        view=view,
        view_source=view_source,
        body_part=body_part,
        inverted=greys.inverted,
        mirrored=mirror,
        rotated=90 * quarter,
        resampled=ratio != 1.0,
        orientation=orientation,
        burned_in_annotation=_burned_in(header, admission),
        presentation_intent=intent,
        overlays=_noted(file.overlays, "the file has overlays, which are not shown", admission),
        shutter=_noted(
            bool(header.codes("ShutterShape")), "the file states a display shutter, which is not applied", admission
        ),
        lossy=lossy or header.code("LossyImageCompression") == "01" or file.syntax in LOSSY,
    )
    lowest = 0.0 if greys.table is not None else greys.offset + min(0.0, greys.scale * ((1 << bits) - 1))
    windows = windows_of(header, admission, signed=lowest < 0) if photometric in GREY else ()
    if windows and (low := int(pixels.min())) < (high := int(pixels.max())):
        warn_of_blank(windows, np.linspace(low, high, 1024) * greys.scale + greys.offset, admission)
    return Radiograph(
        pixels,
        valid,
        facts,
        tuple(admission.warnings),
        windows=windows,
        scale=greys.scale,
        offset=greys.offset,
        monochrome1=photometric == "MONOCHROME1",
        spacing=geometry.spacing(header, ratio),
    )


def _frame_index(header: Header, frame: int | None, held: int, admission: rules.Admission) -> tuple[int, int]:
    """Return the number of frames (0 and empty mean one) and the index of the requested one ("Format")."""
    stated = header.number("NumberOfFrames")
    frames = max(1, int(stated)) if stated is not None and stated < 2**31 else 1 if stated is None else 2**31
    if held > frames:
        unstated = (
            "PixelData holds more images of the stated size than NumberOfFrames: frames that are not stated, "
            "or a wrong size or depth"
        )
        if frame is None:
            raise ReadError("multi_frame", unstated, hint="--frame N picks one, counted from 1")
        admission.warn(unstated)
        frames = held
    if frames > 1 and frame is None:
        raise ReadError("multi_frame", "the file holds several frames", hint="--frame N picks one, counted from 1")
    if frame is not None and not 1 <= frame <= frames:
        raise ReadError("multi_frame", f"the file has no frame {frame}; it holds {min(frames, 99999)}")
    return frames, (frame or 1) - 1


def _photometric(header: Header) -> str:
    stated = header.code("PhotometricInterpretation")
    if stated not in GREY + COLOUR:
        raise ReadError("unsupported", "the photometric interpretation is missing or unknown")
    return stated


def _frame_shape(header: Header, photometric: str, file: DicomFile) -> FrameShape:
    """Check size and bits before decoding ("Format" and "Grey values")."""
    words = {name: header.word(name) for name in ("Rows", "Columns", "BitsAllocated", "BitsStored")}
    if any(not value for value in words.values()):
        raise ReadError("corrupt", "Rows, Columns, BitsAllocated or BitsStored is missing or zero")
    rows, columns, allocated, stored = (int(words[name] or 0) for name in words)
    if rows * columns > geometry.MAX_PIXELS:
        raise ReadError("too_large", f"the image has more than {geometry.MAX_PIXELS >> 20} Mi pixels")
    if min(rows, columns) < geometry.MIN_SIDE:
        raise ReadError("too_small", f"the image is smaller than {geometry.MIN_SIDE} pixels on a side")
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise ReadError(
            "unsupported", "BitsAllocated is neither 8 nor 16, or BitsStored is below 2 or above BitsAllocated"
        )
    high = header.word("HighBit")
    if high is not None and high != stored - 1:
        raise ReadError("unsupported", "HighBit is not BitsStored - 1: the position of the image's bits is ambiguous")
    samples = header.word("SamplesPerPixel") or 1
    if samples != (1 if photometric in GREY or photometric == "PALETTE COLOR" else 3):
        raise ReadError("corrupt", "SamplesPerPixel does not fit the photometric interpretation")
    if header.word("PixelRepresentation") not in (0, 1, None):
        raise ReadError("corrupt", "PixelRepresentation is neither 0 nor 1")
    if samples == 3 and photometric in ("YBR_FULL_422", "YBR_PARTIAL_420") and file.syntax in {**NATIVE, **RLE}:
        raise ReadError("colour", "the image is in colour")
    signed = header.word("PixelRepresentation") == 1 and samples == 1  # samples of colour have no sign
    planar = header.word("PlanarConfiguration") == 1
    return FrameShape(rows, columns, samples, allocated, stored, planar, signed)


def _greys(header: Header, bits: int, photometric: str, admission: rules.Admission) -> Greys:
    """Derive the grey mapping ("Grey values"); the sign is derived once, from MONOCHROME1 and the rescale slope.

    Values of colour and palettes are unchanged: the modality LUT is of the greyscale pipeline (PS3.4 N.2).
    """
    if photometric not in GREY:
        if header.items("ModalityLUTSequence") or _rescale(header, admission) != (1.0, 0.0):
            admission.warn("a modality lookup table or rescale of a colour image was ignored")
        return Greys(0, None, 1.0, 0.0, False)
    mask, signed = (1 << bits) - 1, header.word("PixelRepresentation") == 1
    dark_is_high = photometric == "MONOCHROME1"
    presentation = header.code("PresentationLUTShape")
    if presentation and presentation != ("INVERSE" if dark_is_high else "IDENTITY"):
        admission.warn("PresentationLUTShape contradicts the photometric interpretation, which was followed")
    table = modality_lut(header, bits, signed=signed, admission=admission)
    if table is not None:
        values, maximum = table
        if dark_is_high:
            values = (maximum - values).astype(np.uint16)
        scale, offset = (-1.0, float(maximum)) if dark_is_high else (1.0, 0.0)
        return Greys(0, values, scale, offset, dark_is_high)
    slope, intercept = _rescale(header, admission)
    down = dark_is_high != (slope < 0)
    lowest = -(1 << (bits - 1)) if signed else 0
    flip = (1 << (bits - 1) if signed else 0) ^ (mask if down else 0)
    # pixel p -> stored value: lowest + p, or lowest + mask - p if inverted
    offset = slope * (lowest + mask if down else lowest) + intercept
    return Greys(flip, None, -slope if down else slope, offset, down)


def _rescale(header: Header, admission: rules.Admission) -> tuple[float, float]:
    slopes, intercepts = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if not slopes and not intercepts:
        return 1.0, 0.0
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope is None or intercept is None or slope == 0 or max(abs(slope), abs(intercept)) > 1e9:
        admission.warn("rescale slope or intercept is missing or not usable: both were ignored")
        return 1.0, 0.0
    return slope, intercept


def _apply(greys: Greys, stored: npt.NDArray[Any], allocate: Allocate) -> npt.NDArray[np.uint16]:
    pixels: npt.NDArray[np.uint16] = allocate(stored.shape, np.uint16)
    if greys.table is not None:
        return greys.table.take(stored, out=pixels, mode="clip")
    np.bitwise_xor(stored, stored.dtype.type(greys.flip), out=pixels)
    return pixels


def _burned_in(header: Header, admission: rules.Admission) -> Literal["yes", "no", "unknown"]:
    """Return the stated BurnedInAnnotation; a missing attribute means unknown, not no."""
    stated = header.code("BurnedInAnnotation")
    if stated == "YES":
        admission.warn("the image has burned-in text, which may show the patient's identity")
        return "yes"
    return "no" if stated == "NO" else "unknown"


def _noted(present: bool, text: str, admission: rules.Admission) -> bool:
    """Return ``present`` and add a warning if it is true."""
    if present:
        admission.warn(text)
    return present
