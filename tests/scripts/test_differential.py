"""Comparisons with other packages find no fault in a sample, find planted ones, and can be run in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.reader import pixel_data, raster
from encoder.reader.decoders import FrameShape
from llava_rad.model import prompt
from llava_rad.outputs.document import Document
from metrics import rouge
from scripts.differential import __main__ as command
from scripts.differential import harness, tables
from scripts.differential.__main__ import SUBJECTS
from scripts.differential.harness import Case, Outcome, Subject, Tally

CASES = Path(__file__).parent / "differential_cases"
SAMPLE = {"dicom": 60, "rasters": 200, "tables": 300, "scores": 40, "prompts": 300, "documents": 6}


SUBJECTS_BY_COST = [
    pytest.param(name, marks=pytest.mark.slow) if name in {"scores", "prompts", "documents"} else name  # heavy imports
    for name in SUBJECTS
]


def tally_of(name: str, cases: int, seed: int = 1) -> Tally:
    """Counts of drawn cases only."""
    tally = Tally()
    harness.run(replace(SUBJECTS[name], fixed=lambda: iter(())), seed, cases, tally)
    return tally


@pytest.mark.parametrize("name", SUBJECTS_BY_COST)
def test_a_sample_has_no_fault(name: str) -> None:
    tally = tally_of(name, SAMPLE[name])
    assert tally.faults == []
    equal = sum(count for kind, count in tally.kinds.items() if kind.startswith(("equal", "the same")))
    assert tally.cases == SAMPLE[name] and equal > SAMPLE[name] * 0.3


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_case_has_no_fault(path: Path) -> None:
    outcome = SUBJECTS[path.stem.partition("-")[0]].compare(harness.from_json(path.read_text(encoding="utf-8")))
    assert not outcome.fault, outcome.kind


def masks_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(values: np.ndarray, file: object, shape: FrameShape, *_: object) -> tuple[np.ndarray, int]:
        return values.view(f"u{values.dtype.itemsize}") & ((1 << shape.bits_stored) - 1), shape.bits_stored

    monkeypatch.setattr(pixel_data, "_fit", fit)


def forgets_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "EXIF_TURNS", {})


def drops_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tables.ours

    def wrong(path: Path) -> tables.Rows | str:
        rows = right(path)
        return rows if isinstance(rows, str) else rows[1:]

    monkeypatch.setattr(tables, "ours", wrong)


def keeps_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rouge._VARIANTS, "rouge_l", (str.split, None, ""))


def adds_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    right = prompt._ids
    monkeypatch.setattr(prompt, "_ids", lambda tokenizer, text, **more: right(tokenizer, f" {text}", **more))


def forgets_impressions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Document, "impression", property(lambda self: ()))


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "dicom": (masks_values, 60), "rasters": (forgets_orientation, 40), "tables": (drops_a_row, 20),
    "scores": (keeps_case, 20), "prompts": (adds_a_space, 5), "documents": (forgets_impressions, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS_BY_COST)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, cases = PLANTED[name]
    plant(monkeypatch)
    assert tally_of(name, cases).faults


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_case_is_the_same_for_the_same_seed_and_after_being_kept(name: str) -> None:
    case = harness.case_of(SUBJECTS[name], 7, 3)
    assert harness.from_json(harness.to_json(case)) == case == harness.case_of(SUBJECTS[name], 7, 3)
    assert case != harness.case_of(SUBJECTS[name], 8, 3)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """A subject alone whose case 3 is a fault; returns the cases that are compared."""
    seen: list[Case] = []

    def compare(case: Case) -> Outcome:
        seen.append(case)
        return harness.different("x") if len(seen) == 4 else Outcome("equal")

    def draw(rng: Any) -> Case:
        return {"data": rng.randbytes(4)}

    monkeypatch.setattr(command, "SUBJECTS", {"toy": Subject("toy", "nobody", 1.0, draw, compare)})
    return seen


def test_a_run_is_continued_with_its_seed(toy: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, counts = tmp_path / "kept", str(tmp_path / "counts.json")
    assert command.main(["--cases", "3", "-o", counts]) == 0
    assert command.main(["--cases", "5", "-o", counts, "--keep", str(kept)]) == 1
    seed, tallies = harness.load(Path(counts))
    assert toy == [harness.case_of(command.SUBJECTS["toy"], seed, number) for number in range(5)]
    assert tallies["toy"].faults == [(3, "different: x")] and tallies["toy"].kinds == {"equal": 4, "different: x": 1}
    (path,) = kept.iterdir()
    assert harness.from_json(path.read_text()) == toy[3]
    said = capsys.readouterr().out
    assert said.count(f"seed {seed}") == 4 and "FAULT in case 3: different: x" in said


def test_a_new_run_has_a_new_seed_and_an_error_is_a_fault(
    toy: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in "ab":
        command.main(["--cases", "1", "-o", str(tmp_path / name)])
    assert harness.load(tmp_path / "a")[0] != harness.load(tmp_path / "b")[0]

    def fails(case: Case) -> Outcome:
        raise KeyError("k")

    tally = Tally()
    harness.run(replace(command.SUBJECTS["toy"], compare=fails), 0, 1, tally)
    assert tally.faults == [(0, "error: KeyError: 'k'")]
