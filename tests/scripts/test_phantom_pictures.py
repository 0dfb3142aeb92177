"""Phantom radiographs and their reports: findings lie on their side, labels agree with drawing and text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.phantom import CHEXPERT, Finding, Phantom, phantom_radiograph
from scripts.phantom.findings import sample_findings
from scripts.phantom.patient import generator
from scripts.phantom.report import Report, write_report
from tests.scripts.phantom_files import truth


def centre(mask: NDArray[np.bool_]) -> float:
    """Horizontal position of a mask, -1 (image left) to 1 (image right)."""
    where: NDArray[np.intp] = np.flatnonzero(mask.any(axis=0))
    return float(where.mean()) / int(mask.shape[1]) * 2 - 1


@cache
def healthy() -> Phantom:
    return phantom_radiograph(0, (), 160)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("kind", "zone", "mask", "brighter"),
    [
        ("pleural effusion", "", "effusion", True),
        ("pneumothorax", "", "pneumothorax", False),
        ("consolidation", "mid", "airspace", True),
        ("opacity", "lower", "airspace", True),
        ("mass", "mid", "nodule", True),
        ("nodule", "upper", "nodule", True),
        ("chest tube", "", "chest_tube", True),
        ("pleural thickening", "", "pleural_thickening", True),
        ("atelectasis", "lower", "atelectasis", True),
    ],
)
def test_a_finding_lies_on_its_side_and_is_seen(side: str, kind: str, zone: str, mask: str, brighter: bool) -> None:
    ill = phantom_radiograph(0, (Finding(kind, side, zone, 0.5),), 160)
    area = ill.mask(mask)
    assert (centre(area) > 0) == (side == "left")  # the patient's left is image right
    change = ill.pixels.astype(float)[area].mean() - healthy().pixels.astype(float)[area].mean()
    assert change > 40 if brighter else change < -40
    x0, y0, x1, y1 = ill.regions[0].box
    rows, columns = np.nonzero(area)
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())
    other = "right" if side == "left" else "left"
    text = ill.report.findings.lower()
    assert side in text
    assert other not in re.sub(r"right (internal|ventricle)", "", text)


def test_cardiothoracic_ratio_follows_the_finding() -> None:
    def ratio(phantom: Phantom) -> float:
        lungs = phantom.mask("left_lung") | phantom.mask("right_lung")
        heart, chest = np.flatnonzero(phantom.mask("heart").any(axis=0)), np.flatnonzero(lungs.any(axis=0))
        return float(np.ptp(heart) / np.ptp(chest))

    for seed in range(2):
        assert ratio(phantom_radiograph(seed, (), 128)) < 0.5
        assert ratio(phantom_radiograph(seed, (Finding("cardiomegaly", size=0.1),), 128)) > 0.54


def test_lungs_are_dark_and_each_on_its_side() -> None:
    for seed, view in ((0, "PA"), (1, "AP")):
        phantom = phantom_radiograph(seed, (), 128, view=view)  # type: ignore[arg-type]
        left, right = phantom.mask("left_lung"), phantom.mask("right_lung")
        assert centre(right) < 0 < centre(left)
        assert not (left & right).any()
        assert 0.08 < left.mean() < 0.3
        assert phantom.pixels[left | right].mean() < 0.8 * phantom.pixels[phantom.mask("heart")].mean()


CLAIMS = {
    "Pneumothorax": r"pneumothorax", "Pleural Effusion": r"pleural effusions?", "Consolidation": r"consolidation",
    "Edema": r"pulmonary edema", "Lung Lesion": r"\b(nodule|mass)\b", "Fracture": r"fracture",
    "Support Devices": r"\b(tube|catheter|pacemaker)\b", "Pneumonia": r"pneumonia",
}  # fmt: skip


def reading(text: str, pattern: str) -> int | None:
    """Independent reader: the strongest statement of the sentences that mention the pattern."""
    found = []
    for sentence in re.split(r"(?<=\.) ", text):
        if re.search(pattern, sentence, re.IGNORECASE):
            if re.search(r"may represent|possible|concerning for", sentence, re.IGNORECASE):
                found.append(-1)
            elif re.match(r"No |There is no |No evidence of ", sentence):
                found.append(0)
            else:
                found.append(1)
    return 1 if 1 in found else -1 if -1 in found else 0 if found else None


@cache
def cases() -> list[tuple[tuple[Finding, ...], Report]]:
    """Findings and reports of 400 studies."""
    drawn = [sample_findings(generator("findings", seed)) for seed in range(400)]
    return [(findings, write_report(generator("report", seed), findings)) for seed, findings in enumerate(drawn)]


def test_labels_are_what_the_text_says() -> None:
    stated: dict[str, set[int | None]] = {name: set() for name in CLAIMS}
    for _, report in cases():
        for name, pattern in CLAIMS.items():
            assert reading(report.findings, pattern) == report.labels.get(name), (name, report.findings)
            stated[name].add(report.labels.get(name))
    assert stated["Pleural Effusion"] == {None, 0, 1, -1}
    assert stated["Pneumonia"] >= {None, -1}


def test_labels_are_what_was_drawn() -> None:
    for findings, report in cases():
        assert set(report.labels) <= set(CHEXPERT)
        drawn = {finding.label for finding in findings} - {None}
        positive = {name for name, value in report.labels.items() if value != 0} - {"No Finding", "Pneumonia"}
        assert drawn <= positive
        assert positive - drawn <= {"Atelectasis"}  # doubt about the cause of an opacity
        assert ("No Finding" in report.labels) == (not positive - {"Support Devices"})
        for finding in findings:
            if finding.side:
                assert re.search(rf"{finding.side}|bilateral", report.findings.lower())


def test_reports_vary() -> None:
    assert len({report.findings for _, report in cases()}) > 200


def test_a_study_has_one_report_for_all_its_images(data: Path) -> None:
    by_study: dict[str, set[str]] = {}
    for record in truth(data, "iu-xray"):
        by_study.setdefault(Path(record["image"]).name.split("_")[0], set()).add(record["report"])
    assert all(len(texts) == 1 for texts in by_study.values())
