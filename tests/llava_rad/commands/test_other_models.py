"""Commands with a model that others trained: batches, continued files, studies, answers without findings, doctor.

The review application and ``pacs watch`` with one: tests/app/browser/test_other_models.py, tests/llava_rad/pacs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import llava_rad
from encoder.errors import LlavaRadError
from llava_rad import Report, ReportWriter
from llava_rad.generation.sources import expand
from tests.llava_rad import small_files, vision_language
from tests.llava_rad.conftest import Run
from tests.llava_rad.vision_language import FAST, options

pytestmark = pytest.mark.slow

Replica = Callable[[str], Path]


def test_generate_writes_and_continues(replica: Replica, run: Run, chest: list[Path], tmp_path: Path) -> None:
    folder, target = replica(FAST), tmp_path / "reports.jsonl"
    common = ("--model", folder, "--profile", folder / "profile.yaml", "-o", target, "-f", "jsonl")
    assert run("generate", *chest[:2], *common).code == 0
    done = run("generate", *chest, *common, "--batch-size", "2")
    assert (done.code, "2 were there already" in done.err) == (0, True), done.err
    reports = [Report.from_json(line) for line in target.read_text().splitlines()]
    assert len({report.input.sha256 for report in reports}) == len(chest)
    assert len({report.text for report in reports}) > 1
    assert {report.model.id for report in reports} == {FAST}
    assert {report.input.recipe.name for report in reports} == {"whole-56"}
    assert reports[0].generation.max_new_tokens == 12 and "transformers" in reports[0].generation.dtype
    python = llava_rad.generate(chest[0], folder, profile=str(folder / "profile.yaml"))[0]
    assert python.to_json(indent=None) == reports[0].to_json(indent=None)
    changed = run("generate", *chest, *common, "--prompt", "Describe it.")
    assert changed.code == 2, "a file is continued with the same settings only"


def test_a_stream_prints_the_text_of_the_report(replica: Replica, chest: list[Path]) -> None:
    with ReportWriter(options(replica(FAST))) as writer:
        *pieces, report = writer.stream(expand([chest[0]]).sources[0])
        assert isinstance(report, Report)
        assert "".join(map(str, pieces)) == report.text
        with pytest.raises(LlavaRadError, match="gemma3 has no attention maps"):
            writer.engine()


def test_study_inputs_and_studies_reach_the_prompt(replica: Replica, run: Run, tmp_path: Path) -> None:
    folder, uids = replica(FAST), {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1", "SeriesInstanceUID": "1.2.3"}
    frontal = small_files.dicom(tmp_path / "a.dcm", seed=1, **uids)
    side = small_files.dicom(tmp_path / "b.dcm", seed=2, ViewPosition="LL", **uids)
    common = ("--model", folder, "--profile", folder / "profile.yaml", "-f", "json", "--prompt", "Describe it.")
    alone, given, told = (
        json.loads(run("generate", frontal, *common, *more).out)
        for more in ((), ("--lateral", side), ("--indication", "cough"))
    )
    assert len({one["report"]["text"] for one in (alone, given, told)}) == 3
    assert "cough" not in json.dumps(told)
    assert not [warning for warning in given["warnings"] if "refusal" in warning], (
        "a lateral view is what was asked for"
    )
    (study,) = json.loads(run("generate", frontal, side, *common, "--group").out)
    assert study["report"] == given["report"]


def test_an_answer_without_findings_is_an_empty_report_with_its_reason(
    replica: Replica, run: Run, chest: list[Path], tmp_path: Path
) -> None:
    profile = vision_language.profile(tmp_path, refusals=["."])
    done = run("generate", chest[0], "--model", replica(FAST), "--profile", profile, "-f", "json")
    report = json.loads(done.out)
    assert (done.code, report["report"]["text"], report["report"]["findings"]) == (0, "", [])
    assert {"the model refused to answer", "the model wrote nothing"} <= set(report["warnings"])


def test_the_doctor_states_size_licence_and_profile(replica: Replica, run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(replica(FAST), tmp_path / "CheXOne"))
    done = run("doctor", "--model", folder)
    numbers = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert f"{numbers:,} parameters" in done.out and "in 4bit" in done.out
    assert "chexone" in done.out and "CC BY-NC 4.0" in done.out
    assert "never run here with its real weights" in done.out
