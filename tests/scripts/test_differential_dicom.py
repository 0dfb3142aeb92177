"""The differential run finds no silent difference in a sample, and finds a planted one."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.reader import pixel_data
from encoder.reader.decoders import FrameShape
from scripts.differential_dicom import SILENT, compare, main, variants


def test_no_silent_difference_in_a_sample() -> None:
    outcomes = {case.name: compare(case) for case in variants(120, seed=1)}
    assert [name for name, outcome in outcomes.items() if outcome.startswith(SILENT)] == []
    assert sum(outcome == "equal" for outcome in outcomes.values()) > 40
    assert sum(outcome.startswith("refused") for outcome in outcomes.values()) > 30


@pytest.mark.slow
def test_a_reader_that_masks_values_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def masked(values: np.ndarray, file: object, shape: FrameShape, *_: object) -> tuple[np.ndarray, int]:
        return values.view(f"u{values.dtype.itemsize}") & ((1 << shape.bits_stored) - 1), shape.bits_stored

    monkeypatch.setattr(pixel_data, "_fit", masked)
    assert main(["--variants", "60", "--seed", "1"]) == 1
    assert SILENT in capsys.readouterr().out
