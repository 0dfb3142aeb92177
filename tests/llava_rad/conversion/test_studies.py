"""The command and the Python call with further inputs: they reach the model, or are refused in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

import llava_rad
from encoder.errors import ConfigError
from llava_rad.generation.attention_maps import _image_span, attention_by_sentence
from llava_rad.generation.decoding import Draft, prepare
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.model.templates import Study
from llava_rad.outputs.document import Document
from llava_rad.outputs.report import Report, json_schema
from tests.llava_rad.conftest import Run
from tests.llava_rad.conversion import replicas

PRIVATE = "Doe, Jane"


@pytest.mark.slow
def test_each_input_changes_the_report_and_none_is_kept(
    run: Run, maira: Path, chest: list[Path], lateral: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.txt").write_text("the lungs are clear.")
    more = {
        "none": [],
        "lateral": ["--lateral", lateral],
        "prior": ["--prior", chest[1]],
        "prior report": ["--prior", chest[1], "--prior-report", "report.txt"],
        "texts": ["--indication", PRIVATE, "--technique", "PA.", "--comparison", "to the size"],
        "all": ["--lateral", lateral, "--prior", chest[1], "--prior-report", "report.txt", "--indication", PRIVATE],
    }
    found = {}
    for name, arguments in more.items():
        done = run("generate", chest[0], "--model", maira, "-f", "json", "--max-new-tokens", "8", *arguments)
        assert done.code == 0, done.err
        report = json.loads(done.out)
        jsonschema.validate(report, json_schema())
        assert PRIVATE not in done.out and "lungs" not in done.out
        said = [warning for warning in report["warnings"] if "written from more" in warning]
        assert len(said) == (name != "none")
        found[name] = report["report"]["text"]
    assert len(set(found.values())) == len(found)
    called = llava_rad.generate(chest[0], maira, lateral=lateral, max_new_tokens=8)
    assert called[0].text == found["lateral"]


def test_streamed_is_the_same(run: Run, maira: Path, chest: list[Path], lateral: Path) -> None:
    arguments = ["generate", chest[0], "--model", maira, "--lateral", lateral, "--max-new-tokens", "8"]
    assert run(*arguments, "--stream") == run(*arguments)


def test_llava_rad_takes_an_indication(run: Run, rad: Path, chest: list[Path]) -> None:
    plain, indicated = (
        run("generate", chest[0], "--model", rad, "--max-new-tokens", "8", *more).out
        for more in ([], ["--indication", "the heart is normal in size"])
    )
    assert plain.split("FINDINGS:")[1] != indicated.split("FINDINGS:")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lateral", "x.dcm"], "no place for --lateral"),
        (["--prior", "x.dcm"], "no place for --prior"),
        (["--technique", "PA."], "no place for --technique"),
        (["--grounded"], "no place for --grounded"),
    ],
)
def test_what_has_no_place_ends_with_2(run: Run, rad: Path, chest: list[Path], arguments: list[str], said: str) -> None:
    done = run("generate", chest[0], "--model", rad, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err and "it takes --indication" in done.err and "Traceback" not in done.err


def test_the_usual_model_takes_nothing_further(run: Run, tiny: Path, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", tiny, "--indication", "Cough.")
    assert done.code == 2 and "no place for --indication" in done.err


def test_usage_errors(run: Run, maira: Path, chest: list[Path], tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("")
    (tmp_path / "r.txt").write_text("Clear.")
    for arguments, said in (
        ([chest[0], chest[1], "--indication", "Cough."], "several"),
        ([chest[0], "--grounded", "--stream"], "not streamed"),
        ([chest[0], "--indication", "Cough.", "-f", "jsonl", "-o", "old.jsonl"], "not continued"),
        ([chest[0], "--prior-report", "r.txt"], "--prior"),
        ([chest[0], "--indication", "<image>"], "token of the model"),
    ):
        done = run("generate", *arguments, "--model", maira)
        assert (done.code, done.out) == (2, ""), done.err
        assert said in done.err
    with pytest.raises(ConfigError, match="several"):
        llava_rad.generate(chest[:2], maira, indication="Cough.")


def test_refused_images_are_named_by_what_they_are(
    run: Run, maira: Path, chest: list[Path], lateral: Path, tmp_path: Path
) -> None:
    done = run("generate", chest[0], "--model", maira, "--prior", lateral)
    assert done.code == 4 and "the prior image: " in done.err and str(lateral) not in done.err
    done = run("generate", chest[0], "--model", maira, "--lateral", tmp_path / "missing.dcm")
    assert done.code == 4 and "the lateral image: " in done.err and "missing.dcm" not in done.err
    done = run("generate", chest[0], "--model", maira, "--prior", chest[1], "--prior-report", "missing.txt")
    assert done.code == 4 and "missing.txt" not in done.err


def test_maps_are_of_the_frontal_image(maira: Path) -> None:
    engine = Engine.from_pretrained(maira, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, replicas.SIZE, replicas.SIZE), dtype=np.uint8)
    study = Study(lateral=True, prior=True, prior_report="the lungs", indication="the heart")
    said = ["the heart is normal.", "the lungs are clear."]
    found = attention_by_sentence(engine, images[0], said, study=study, others=images[1:])
    assert found.shape == (2, 4, 4)
    # the tokens whose attention is shown are those of the frontal image, which comes first
    embeds, *_ = prepare(engine, list(images), Decoding(max_new_tokens=1, study=study))
    start, number = _image_span(engine, None, study)
    with torch.inference_mode():
        torch.testing.assert_close(
            embeds[0, start : start + number], engine.projector(engine.encode_images(images[:1]))[0]
        )
    alone = attention_by_sentence(engine, images[0], said)
    assert not np.allclose(found, alone, atol=0.05)


def test_grounded_reports_have_boxes(run: Run, maira: Path, chest: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<obj>Opacity.<box><x10><y20><x30><y40></box></obj><obj>No effusion.</obj>"
    monkeypatch.setattr("llava_rad.generation.decoding.generate", lambda *_, **__: [Draft(text, (), True)])
    done = run("generate", chest[0], "--model", maira, "--grounded", "-f", "json")
    report = json.loads(done.out)
    jsonschema.validate(report, json_schema())
    assert report["schema"] == "llava-rad.report/3"
    assert report["generation"]["max_new_tokens"] == 450
    assert report["report"]["text"] == "Opacity. No effusion."
    # the small image is square, so that shares of the model's square are those of the image
    assert report["report"]["findings"] == [
        {"text": "Opacity.", "boxes": [{"image": 0, "x_min": 0.105, "y_min": 0.205, "x_max": 0.305, "y_max": 0.405}]},
        {"text": "No effusion.", "boxes": []},
    ]
    plain = run("generate", chest[0], "--model", maira, "--grounded")
    assert "Opacity. No effusion." in plain.out and "<box>" not in plain.out


def test_a_box_without_words_is_no_sentence(maira: Path, chest: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<obj><box><x10><y20><x30><y40></box></obj><obj>No effusion.</obj>"
    monkeypatch.setattr("llava_rad.generation.decoding.generate", lambda *_, **__: [Draft(text, (), True)])
    (report,) = llava_rad.generate(chest[0], maira, grounded=True)
    assert [len(finding.text) for finding in report.report.findings] == [0, 12]
    kept = Report.model_validate(report.model_dump(mode="json"))
    assert kept == report
    assert Document.of(kept, datetime.now(UTC)).sentences == ("No effusion.",)


def test_the_model_itself_is_asked_for_boxes(run: Run, maira: Path, chest: list[Path]) -> None:
    plain, grounded = (
        json.loads(run("generate", chest[0], "--model", maira, "-f", "json", "--max-new-tokens", "8", *more).out)
        for more in ([], ["--grounded"])
    )
    assert grounded["schema"] == "llava-rad.report/3"
    assert grounded["report"]["text"] != plain["report"]["text"]
