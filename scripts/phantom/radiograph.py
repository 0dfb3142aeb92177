"""Draw one synthetic chest radiograph with its ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import lesions
from .anatomy import build_thorax
from .drawing import Array, Canvas, Curve, Mask, strip
from .findings import Finding, sample_findings
from .frontal import Region, attenuation, begin, bones
from .lateral import paint_lateral
from .patient import Patient, generator, sample_patient
from .report import Report, write_report

View = Literal["PA", "AP", "LATERAL"]
FIELD_OF_VIEW = 36.5  # cm, height of the image


@dataclass(frozen=True)
class Phantom:
    """A rendered image and its truth.

    Attributes:
        pixels: uint16 [H, W], 12 bits, brighter = denser; the patient's left on image right, in a lateral view the
            front on image left.
        view: PA, AP or LATERAL.
        patient: person in the image.
        findings: the drawn findings.
        report: text and CheXpert labels of the findings.
        masks: bool [H, W] by name: left_lung, right_lung, heart, ribs and, where present, effusion, pneumothorax,
            chest_tube, device, airspace, nodule, atelectasis, edema, fibrosis, pleural_thickening, fracture.
        regions: bounding boxes by finding.
        ribs: "R1".."R10", "L1".."L10" -> outline in pixels [N, 2]; empty in a lateral.
        spacing: size of a pixel in mm.
    """

    pixels: NDArray[np.uint16]
    view: View
    patient: Patient
    findings: tuple[Finding, ...]
    report: Report
    masks: Mapping[str, Mask]
    regions: tuple[Region, ...]
    ribs: Mapping[str, Curve] = field(default_factory=dict)
    spacing: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def mask(self, name: str) -> Mask:
        """A mask by name; all False where nothing of that name was drawn."""
        found = self.masks.get(name)
        return np.zeros(self.shape, dtype=np.bool_) if found is None else found

    def grey(self) -> NDArray[np.uint8]:
        """uint8 [H, W] for eyes, PNG and JPEG: the 0.1st to 99.8th percentile."""
        low, high = np.percentile(self.pixels[::2, ::2], (0.1, 99.8))
        scaled = (self.pixels.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1))
        result: NDArray[np.uint8] = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
        return result


def phantom_radiograph(
    seed: object,
    findings: tuple[Finding, ...] | None = None,
    size: int | tuple[int, int] = 512,
    *,
    view: View = "PA",
    patient: Patient | None = None,
    report: Report | None = None,
    square: bool = True,
) -> Phantom:
    """Draw one radiograph.

    Args:
        seed: any value whose str() is stable; the same seed gives the same bytes.
        findings: to draw; sampled when None.
        size: rows (and columns), or (rows, columns).
        view: PA, AP or LATERAL.
        patient: invented from the seed when None.
        report: of the study, if several images share one; written when None.
        square: False takes fewer columns than rows for a narrow patient, as detectors held upright do.

    Returns:
        The picture with masks, regions, findings and report. Patient, position and exposure follow from the seed alone,
        so that two calls with different findings differ by the findings.
    """
    rng = generator("image", seed, view)
    person = patient or sample_patient(seed)
    present = sample_findings(generator("findings", seed)) if findings is None else findings
    text = report or write_report(generator("report", seed), present)
    if isinstance(size, int):
        size = (size, size if square or view == "AP" else round(size * float(rng.uniform(0.88, 1.0))))
    marked = bool(rng.random() < 0.6)
    canvas = Canvas(
        size[0], size[1], FIELD_OF_VIEW / size[0], float(rng.normal(0, 0.035 if view == "AP" else 0.015)),
        (float(rng.normal(0, 0.5)), float(rng.normal(0.6, 0.5))),
    )  # fmt: skip
    if view == "LATERAL":
        density, masks, regions = paint_lateral(canvas, person, present, rng)
        ribs: dict[str, Curve] = {}
    else:
        density, masks, regions, ribs = _paint_frontal(
            canvas, person, present, rng, portable=view == "AP", marked=marked
        )
    return Phantom(
        _expose(density, canvas, generator("exposure", seed, view), grainy=view == "AP"), view, person, present,
        text, masks, tuple(regions), ribs, 10 * canvas.cm_per_pixel,
    )  # fmt: skip


def _paint_frontal(
    canvas: Canvas,
    patient: Patient,
    findings: tuple[Finding, ...],
    rng: np.random.Generator,
    *,
    portable: bool,
    marked: bool,
) -> tuple[Array, dict[str, Mask], list[Region], dict[str, Curve]]:
    thorax = build_thorax(patient, findings, portable=portable)
    wet = max((f.size for f in findings if f.kind == "edema"), default=0.0)
    scene = begin(canvas, thorax, patient, rng, engorged=wet + (0.2 if portable else 0.0))
    broken = {f.side: 4 + int(3 * f.size) for f in findings if f.kind == "rib fracture"}
    skeleton = bones(scene, broken, portable=portable)
    for finding in findings:
        painter = lesions.LESION_PAINTERS.get(finding.kind)
        if painter:
            painter(scene, finding)
        elif finding.kind == "cardiomegaly":
            scene.mark("heart", scene.structures["heart"], finding)
        elif finding.kind == "aortic enlargement":
            knob = canvas.mask(thorax.mediastinum) & (scene.x > 1.0) & (np.abs(scene.y - 9.0) < 3.0)
            scene.mark("aorta", knob, finding)
    for finding in findings:
        if finding.kind in lesions.DEVICE_PAINTERS:
            lesions.DEVICE_PAINTERS[finding.kind](scene, finding)
    if marked:
        lesions.marker(scene)
    total = attenuation(scene, skeleton, portable=portable)

    ribs = {f"{side[0].upper()}{n}": canvas.pixels(strip(c, 1.25)) for (side, n), c in thorax.ribs.items()}
    return total, scene.structures, scene.regions, ribs


def _expose(density: Array, canvas: Canvas, rng: np.random.Generator, *, grainy: bool) -> NDArray[np.uint16]:
    """Attenuation -> 12-bit values: contrast and brightness of the exposure, scatter, quantum noise."""
    gain, offset, power = rng.uniform(0.86, 1.06), rng.uniform(0.02, 0.08), rng.uniform(0.85, 1.2)
    shaped = np.clip(density, 0, 1.6) ** np.float32(power)
    texture = canvas.noise(rng, 0.35) * np.float32(0.006) + canvas.noise(rng, 6.0) * np.float32(0.008)
    sigma = np.float32(0.016 if grainy else 0.009)
    noise = rng.standard_normal(density.shape, dtype=np.float32) * sigma * np.sqrt(np.float32(0.35) + shaped)
    value = np.float32(gain) * shaped + np.float32(offset) + texture + noise
    result: NDArray[np.uint16] = np.clip(value * np.float32(2900), 0, 4095).astype(np.uint16)
    return result
