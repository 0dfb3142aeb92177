"""``rexrank infer`` and ``benchmark --dataset rexrank``: files of ReXrank in, submissions out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_rad.model.config import FurtherImages
from llava_rad.model.llava_rad import LlavaRad
from tests.llava_rad import small_files
from tests.llava_rad.benchmark.conftest import METRICS
from tests.llava_rad.conftest import Run

FRONTALS = ("a0", "CXR2_IM-0002/0", "c0")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are tested in test_leaderboard."""
    monkeypatch.setattr("llava_rad.benchmark.results.plots", lambda summary: None)


@pytest.fixture(scope="module")
def studying(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose prompt takes laterals, indications and comparisons."""
    whole = LlavaRad.from_pretrained(tiny)
    prompt = whole.config.prompt.model_copy(update={"template": "study"})
    whole.config = whole.config.model_copy(update={"prompt": prompt, "further_images": FurtherImages(pool=2)})
    folder = tmp_path_factory.mktemp("study model") / "model"
    whole.save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three studies: two views and an indication; one view; a lateral that cannot be read."""
    (tmp_path / "CXR2_IM-0002").mkdir()
    for number, name in enumerate(("a0", "a1", "CXR2_IM-0002/0", "c0")):
        small_files.picture(tmp_path / f"{name}.png", seed=number)
    (tmp_path / "c1.png").write_bytes(b"no image")
    entries: dict[str, Any] = {
        "CXR1_IM-0001": {
            "key_image_path": "a0.png", "image_path": ["a1.png", "a0.png"], "frontal_lateral": ["Lateral", "Frontal"],
            "section_findings": "The heart is enlarged.", "section_impression": "x", "split": "test",
            "context": "<context>Indication: cough and fever Comparison: None.</context>",
        },
        "CXR2_IM-0002": {
            "key_image_path": "/CXR2_IM-0002/0.png", "image_path": ["/CXR2_IM-0002/0.png"],
            "frontal_lateral": ["Frontal"],
            "section_findings": "The lungs are clear.", "section_impression": "y", "split": "test",
            "context": "Indication: XXXX Comparison: None.",
        },
        "CXR3_IM-0003": {
            "key_image_path": "c0.png", "image_path": ["c0.png", "c1.png"], "frontal_lateral": ["Frontal", "Lateral"],
            "section_findings": "No pneumothorax.", "section_impression": "z", "split": "test", "context": "",
        },
    }  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(entries))
    return tmp_path


Infer = Callable[..., Any]


@pytest.fixture
def infer(run: Run, home: Path) -> Infer:
    def call(model: Path, *more: str | Path, output: str = "out.json") -> Any:
        names = ("--input_json_file", home / "test.json", "--save_json_file", home / output, "--img_root_dir", home)
        return run("rexrank", "infer", *names, "--model", model, *more)

    return call


def predictions(file: Path) -> dict[str, str]:
    return {key: entry["model_prediction"] for key, entry in json.loads(file.read_text()).items()}


def test_the_contract(infer: Infer, home: Path, tiny: Path, run: Run) -> None:
    """Everything of the input is kept; texts are those of generate; the output is what benchmark reads."""
    ran = infer(tiny)
    assert ran.code == 0, ran.err
    assert "beside the frontal image the model takes nothing" in ran.err and "3 of 3 predictions written" in ran.err
    before, after = (json.loads((home / name).read_text()) for name in ("test.json", "out.json"))
    assert list(after) == list(before)
    assert all(entry.items() <= after[key].items() for key, entry in before.items())
    alone = [run("generate", home / f"{name}.png", "--model", tiny, "-f", "json") for name in FRONTALS]
    texts = [json.loads(one.out)["report"]["text"] for one in alone]
    assert list(predictions(home / "out.json").values()) == [f"Findings: {text}" for text in texts]
    assert not list(home.glob("*.part")) and not list(home.glob("*.tmp"))


@pytest.mark.slow
def test_context_is_used_where_the_prompt_has_a_place(infer: Infer, home: Path, studying: Path, run: Run) -> None:
    assert infer(studying, "--batch-size", "2").code == 0
    found = list(predictions(home / "out.json").values())
    whole = run(
        "generate", home / "a0.png", "--lateral", home / "a1.png", "--indication", "cough and fever",
        "--model", studying, "-f", "json",
    )  # fmt: skip
    assert found[0] == f"Findings: {json.loads(whole.out)['report']['text']}"
    for name, text in zip(FRONTALS[1:], found[1:], strict=True):  # no indication; a lateral that cannot be read
        alone = run("generate", home / f"{name}.png", "--model", studying, "-f", "json")
        assert text == f"Findings: {json.loads(alone.out)['report']['text']}"


def test_an_unfinished_output_is_continued(infer: Infer, home: Path, tiny: Path) -> None:
    assert infer(tiny).code == 0
    whole = (home / "out.json").read_bytes()
    entries = json.loads(whole)
    del entries["CXR2_IM-0002"]
    entries["CXR1_IM-0001"]["model_prediction"] = "kept"
    (home / "out.json").write_text(json.dumps(entries))
    ran = infer(tiny)
    assert ran.code == 0 and "1 of 3 predictions written, 2 kept" in ran.err
    again = predictions(home / "out.json")
    assert list(again) == [f"CXR{n}_IM-000{n}" for n in (1, 2, 3)] and again["CXR1_IM-0001"] == "kept"
    assert infer(tiny, "--overwrite").code == 0
    assert (home / "out.json").read_bytes() == whole


def test_an_image_that_cannot_be_read_is_an_empty_prediction(infer: Infer, home: Path, tiny: Path) -> None:
    (home / "CXR2_IM-0002" / "0.png").write_bytes(b"SMITH^JOHN")
    ran = infer(tiny)
    assert ran.code == 3 and "study 2: " in ran.err and "CXR2" not in ran.err and "SMITH" not in ran.err
    found = predictions(home / "out.json")
    assert found["CXR2_IM-0002"] == "" and found["CXR3_IM-0003"].startswith("Findings: ")
    small_files.picture(home / "CXR2_IM-0002" / "0.png", seed=2)
    again = infer(tiny)
    assert again.code == 0 and "1 of 3 predictions written, 2 kept" in again.err
    assert predictions(home / "out.json")["CXR2_IM-0002"].startswith("Findings: ")


def test_a_report_does_not_depend_on_its_batch(infer: Infer, home: Path, tiny: Path) -> None:
    """Also where words are drawn: every report has a generator of its own."""
    sampled = ("--temperature", "1.5", "--seed", "7")
    assert infer(tiny, *sampled, "--batch-size", "1", output="one.json").code == 0
    assert infer(tiny, *sampled, "--batch-size", "3", output="three.json").code == 0
    assert predictions(home / "one.json") == predictions(home / "three.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda home: (home / "test.json").write_text("[1]"), "the input is no file of ReXrank"),
        (lambda home: (home / "test.json").write_text("{"), "the input cannot be read as JSON"),
        (lambda home: (home / "test.json").unlink(), "the input does not exist"),
        (lambda home: (home / "out.json").write_text('{"x": {"image_path": []}}'), "the output holds other studies"),
        (lambda home: (home / "out.json").write_text("text"), "the output cannot be read as JSON"),
    ],
    ids=["list", "damaged", "missing", "other studies", "other output"],
)
def test_what_is_no_file_of_rexrank_is_refused(
    change: Callable[[Path], None], says: str, infer: Infer, home: Path, tiny: Path
) -> None:
    change(home)
    ran = infer(tiny)
    assert ran.code == 1 and says in ran.err and ran.err.count("\n") <= 2


def test_options_by_the_other_name_and_a_missing_folder(run: Run, home: Path, tiny: Path) -> None:
    names = (
        "--input_json_file",
        home / "test.json",
        "--output_json_file",
        home / "o.json",
        "--img_root_dir",
        "nowhere",
    )
    ran = run("rexrank", "infer", *names, "--model", tiny)
    assert ran.code == 1 and "the folder of the images does not exist" in ran.err


@pytest.mark.slow
def test_benchmark_writes_scores_and_a_submission(run: Run, home: Path, tiny: Path) -> None:
    call = ("benchmark", "--dataset", "rexrank", "--data", home / "test.json", "--images", home, "-o", home / "r")
    ran = run(*call, "--model", tiny, *METRICS, "--reference-points", "none")
    assert ran.code == 0, ran.err
    assert "Columns of ReXrank" in ran.out
    submission = home / "r" / "submissions" / f"{tiny.name}.json"
    before, after = json.loads((home / "test.json").read_text()), json.loads(submission.read_text())
    assert list(after) == list(before) and all(entry.items() <= after[key].items() for key, entry in before.items())
    again = run(*call[:-1], home / "s", "--predictions", f"theirs={submission}", *METRICS, "--reference-points", "none")
    assert again.code == 0, again.err
    scores = [json.loads((home / name / "summary.json").read_text())["scores"]["models"][0] for name in "rs"]
    assert scores[1]["scores"].items() <= scores[0]["scores"].items()  # of texts of others nobody knows the inputs


def test_texts_need_no_images(run: Run, home: Path, tmp_path: Path) -> None:
    entries = json.loads((home / "test.json").read_text())
    for entry in entries.values():
        entry["model_prediction"] = "Findings: Clear. Impression: Normal."
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, content in (("test", json.loads((home / "test.json").read_text())), ("mine", entries)):
        (elsewhere / f"{name}.json").write_text(json.dumps(content))
    call = ("benchmark", "--dataset", "rexrank", "--data", elsewhere / "test.json", "-o", elsewhere / "r", *METRICS)
    ran = run(*call, "--predictions", elsewhere / "mine.json", "--reference-points", "most-frequent")
    assert ran.code == 0, ran.err
    refused = run(*call[: -len(METRICS) - 1], elsewhere / "t")
    assert refused.code == 1 and "--images DIR" in refused.err


def test_another_table_or_data_set_is_refused(run: Run, home: Path) -> None:
    (home / "other.json").write_text(json.dumps({"a": {"id": "a", "findings": "x"}}))
    ran = run("benchmark", "--dataset", "rexrank", "--data", home / "other.json", "-o", home / "r")
    assert ran.code == 1 and "no table of ReXrank" in ran.err
    ran = run("benchmark", "--dataset", "iu-xray", "--data", home, "--images", home, "-o", home / "r")
    assert ran.code == 1 and "--images" in ran.err


@pytest.mark.slow
def test_the_published_file_with_small_images(run: Run, shared_dir: Path, tmp_path: Path, tiny: Path) -> None:
    """The 590 studies of IU X-ray, each image one of six drawn ones; twelve are written."""
    file = shared_dir / "data" / "rexrank_iu_xray" / "ReXRank_IUXray_test.json"
    drawn = [small_files.picture(tmp_path / f"{number}.png", seed=number) for number in range(6)]
    images = tmp_path / "images"
    for number, (key, entry) in enumerate(json.loads(file.read_text()).items()):
        (images / key).mkdir(parents=True)
        for name in {entry["key_image_path"], *entry["image_path"]}:
            os.link(drawn[number % 6], images / name)
    call = ("benchmark", "--dataset", "rexrank", "--data", file, "--images", images, "-o", tmp_path / "r")
    metrics = ("--metrics", "rouge_l,findings", "--bootstrap", "20", "--no-cache")
    ran = run(*call, "--model", tiny, "--limit", "12", *metrics, "--reference-points", "most-frequent,shuffled")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["task"]["steps"] == {
        "in the table": 590, "view known or not stated": 590, "not lateral, oblique or special": 590,
        "image file there": 590, "one image of each study": 590,
    }  # fmt: skip
    assert summary["task"]["reports"] == 12 and summary["leaderboards"]["rexrank"]["published"]["dataset"] == "iu-xray"
    found = predictions(tmp_path / "r" / "submissions" / f"{tiny.name}.json")
    assert len(found) == 590 and sum(map(bool, found.values())) == 12
