"""Every output says that a machine wrote it and what it is not for (table row 24).

Text, stream, JSON, JSONL, output files and the Python interface are here; DICOM SR, FHIR, the review page and its
exports come with those outputs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llava_rad
from tests.llava_rad import tiny_model
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.acceptance(row=24)

NOTICE = "AI-generated draft. Research use only. Not for clinical use."
DEMONSTRATION = "demonstration model"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is no demonstration."""
    return tiny_model.make(tmp_path_factory.mktemp("full") / "model", demonstration=False)


@pytest.mark.parametrize("extra", [[], ["--stream"], ["--output", "o.txt"]], ids=["printed", "streamed", "file"])
def test_text(extra: list[str], run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    done = run("generate", *chest[:2], "--model", tiny, *extra)
    text = (tmp_path / "o.txt").read_text() if "--output" in extra else done.out
    assert text.startswith(NOTICE)
    assert text.count(NOTICE) == 2, "each report on its own"
    assert text.count(DEMONSTRATION) == 2


def test_the_notice_comes_before_the_first_word_of_a_stream(run: Run, tiny: Path, chest: list[Path]) -> None:
    out = run("generate", chest[0], "--model", tiny, "--stream").out
    assert out.index(NOTICE) < out.index("FINDINGS:")


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize("to_file", [False, True], ids=["printed", "file"])
def test_json(form: str, to_file: bool, run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    extra = ["--output", "o"] if to_file else []
    done = run("generate", *chest[:2], "--model", tiny, "--format", form, *extra)
    text = (tmp_path / "o").read_text() if to_file else done.out
    reports = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert [(r["ai_generated"], r["notice"], r["model"]["demonstration"]) for r in reports] == [
        (True, NOTICE, True)
    ] * 2


def test_python(tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    assert report.ai_generated is True
    assert report.notice == NOTICE
    assert report.to_text().startswith(NOTICE)


def test_a_report_cannot_be_made_without_the_marks(tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    data = json.loads(report.to_json())
    for key, value in (("ai_generated", False), ("notice", "Signed by a radiologist.")):
        with pytest.raises(ValueError, match=key):
            llava_rad.Report.model_validate({**data, key: value})


def test_only_a_demonstration_model_is_called_one(run: Run, full: Path, chest: list[Path]) -> None:
    text = run("generate", chest[0], "--model", full).out
    assert NOTICE in text
    assert DEMONSTRATION not in text
    assert json.loads(run("generate", chest[0], "--model", full, "-f", "json").out)["model"]["demonstration"] is False


def test_help_is_marked(run: Run) -> None:
    assert "not for clinical use" in " ".join(run("--help").out.split())
