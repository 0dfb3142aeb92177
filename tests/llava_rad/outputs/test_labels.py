"""Findings that a text names: the fourteen, in the metrics' order, with the four things that can be said of each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llava_rad.outputs.document import FINDINGS, labels_of

pytestmark = pytest.mark.acceptance(row=23)


def test_each_finding_is_said_denied_doubted_or_not_mentioned() -> None:
    found = labels_of("The heart is enlarged. There is no pneumothorax. Possible pneumonia in the left lower lobe.")
    said = {finding: value for finding, value in found.items() if value != "not mentioned"}
    assert said == {"Cardiomegaly": "positive", "Pneumothorax": "negative", "Pneumonia": "uncertain"}


def test_the_fourteen_findings_come_in_the_metrics_order() -> None:
    names = (
        "Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation, Pneumonia, "
        "Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices, No Finding"
    )
    assert ", ".join(FINDINGS) == ", ".join(labels_of("The lungs are clear.")) == names


def test_a_normal_report_has_no_finding_but_an_empty_one_says_nothing() -> None:
    assert labels_of("The lungs are clear.")["No Finding"] == "positive"
    assert set(labels_of(" \n").values()) == {"not mentioned"}


def test_labels_need_no_torch() -> None:
    code = "import sys, llava_rad.outputs.document as l; l.labels_of('Edema.'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
