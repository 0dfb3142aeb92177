"""The command: results folder, repetition, refusals, exit codes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from llava_rad.outputs.report import NOTICE
from tests.llava_rad import small_files
from tests.llava_rad.benchmark.conftest import METRICS, TEST, benchmark, contents
from tests.llava_rad.commands.test_offline import watched  # noqa: F401 (a fixture)
from tests.llava_rad.conftest import Run, finished, spawn


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process draw nothing: the run of its own process does, and test_summary."""
    monkeypatch.setattr("llava_rad.benchmark.results.plots", lambda summary: None)


@pytest.fixture(scope="module")
def alone(pairs: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process."""
    output = tmp_path_factory.mktemp("alone") / "results"
    benchmark(pairs, output, "--model", tiny, "--strata", "sex,age", "--groups", pairs)
    return output


def test_everything_is_in_the_folder(alone: Path) -> None:
    names = set(contents(alone)) | {"environment.json", "index.html"}
    points = {"most-frequent", "random", "nearest-neighbour", "tiny-shuffled"}
    assert names >= {"predictions/tiny.jsonl", *(f"reference_points/{name}.jsonl" for name in points)}
    assert names >= {"run.json", "references.jsonl", "per_sample.csv", "summary.json", "summary.md", "summary.tex"}
    assert names >= {"figures/scores.svg", "figures/classes.svg", "figures/reports.svg"}
    assert all((alone / name).is_file() for name in names)
    assert not list(alone.rglob("*.tmp")) and not (alone / "predictions" / "shards").exists()


def test_predictions_are_those_of_generate(alone: Path, pairs: Path, tiny: Path, run: Run) -> None:
    lines = [json.loads(line) for line in (alone / "predictions" / "tiny.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"image-{number}" for number in range(TEST)]
    images = [pairs.parent / f"{number}.dcm" for number in range(TEST)]
    one_by_one = ("--batch-size", "1", "--max-new-tokens", "150", "-f", "jsonl")
    written = run("generate", *images, "--model", tiny, *one_by_one).out.splitlines()
    assert [line["prediction"] for line in lines] == [json.loads(line)["report"]["text"] for line in written]
    assert len({line["prediction"] for line in lines}) > 5


def test_scores_are_those_of_evaluate(alone: Path, run: Run) -> None:
    files = (alone / "predictions" / "tiny.jsonl", alone / "references.jsonl")
    scored = json.loads(run("evaluate", *files, *METRICS, "--strata", "sex", "-f", "json").out)
    summary = json.loads((alone / "summary.json").read_text())
    assert summary["scores"]["models"][0]["scores"] == scored["models"][0]["scores"]
    assert summary["scores"]["models"][0]["strata"]["sex"] == scored["models"][0]["strata"]["sex"]


def test_values_of_each_report_are_there(alone: Path) -> None:
    with (alone / "per_sample.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TEST and {"id", "tiny/rouge_l", "random/rouge_l"} <= set(rows[0])
    summary = json.loads((alone / "summary.json").read_text())
    mean = sum(float(row["tiny/rouge_l"]) for row in rows) / TEST
    assert summary["scores"]["models"][0]["scores"]["rouge_l"]["point"] == pytest.approx(mean)


def test_the_environment_says_how_it_was_made(alone: Path) -> None:
    environment = json.loads((alone / "environment.json").read_text())
    assert environment["command"][:2] == ["llava-rad", "benchmark"]
    assert environment["precision"]["float32_matmul_precision"] == "highest"
    assert not environment["precision"]["cudnn_allow_tf32"]
    assert json.loads((alone / "summary.json").read_text())["protocol"]["dtype"] == "float32"


def test_training_reports_are_what_reference_points_take(alone: Path, pairs: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    training = {row["findings"] for row in rows if row["split"] == "train"}
    for name in ("most-frequent", "random", "nearest-neighbour"):
        lines = (alone / "reference_points" / f"{name}.jsonl").read_text().splitlines()
        assert {json.loads(line)["prediction"] for line in lines} <= training
    assert "training split (4 images)" in (alone / "summary.md").read_text()


def test_the_same_command_again_writes_no_report_anew(alone: Path, pairs: Path, tiny: Path, run: Run) -> None:
    before = contents(alone)
    again = ("--model", tiny, "--strata", "sex,age", "--groups", pairs)
    assert run("benchmark", "--dataset", "csv", "--data", pairs, "-o", alone, *METRICS, *again).code == 0
    assert contents(alone) == before
    assert json.loads((alone / "environment.json").read_text())["seconds"].get("reports written: tiny", 0) == 0


@pytest.mark.slow
def test_a_model_may_be_added_to_results(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    call = ("benchmark", "--dataset", "csv", "--data", pairs, "-o", tmp_path / "r", *METRICS)
    some = ("--limit", "3", "--reference-points", "none")
    assert run(*call, *some, "--model", tiny).code == 0
    first = (tmp_path / "r" / "predictions" / "tiny.jsonl").read_bytes()
    ran = run(*call, *some, "--model", tiny, "--model", f"again={tiny}")
    assert ran.code == 0 and "tiny minus again" in ran.out
    assert (tmp_path / "r" / "predictions" / "tiny.jsonl").read_bytes() == first
    assert "no difference shown" in ran.out


@pytest.mark.slow
def test_results_of_other_data_or_settings_are_not_mixed(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    call = ("benchmark", "--dataset", "csv", "--data", pairs, "-o", tmp_path / "r", *METRICS, "--model", tiny)
    call = (*call, "--reference-points", "none")
    assert run(*call, "--limit", "3").code == 0
    before = contents(tmp_path / "r")
    other_data = run(*call, "--limit", "4")
    assert other_data.code == 2 and "other data" in other_data.err
    other_protocol = run(*call, "--limit", "3", "--protocol", "fast")
    assert other_protocol.code == 2 and "other settings" in other_protocol.err
    assert contents(tmp_path / "r") == before
    assert run(*call, "--limit", "2", "--overwrite").code == 0
    assert len((tmp_path / "r" / "predictions" / "tiny.jsonl").read_text().splitlines()) == 2


def test_a_folder_with_other_things_in_it_is_left_alone(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("years of work")
    call = ("benchmark", "--dataset", "csv", "--data", pairs, "-o", tmp_path / "r", "--model", tiny, "--overwrite")
    assert run(*call).code == 2
    assert (tmp_path / "r" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_fast_says_how_many_reports_differ(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    call = ("benchmark", "--dataset", "csv", "--data", pairs, "-o", tmp_path / "r", *METRICS, "--model", tiny)
    ran = run(*call, "--protocol", "fast", "--batch-size", "8", "--agreement-sample", "6", "--reference-points", "none")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "r" / "summary.json").read_text())
    agreement = found["agreement_with_paper_protocol"]["tiny"]
    texts = {
        name: {
            line["id"]: line["prediction"]
            for line in map(json.loads, (tmp_path / "r" / "predictions" / name).read_text().splitlines())
        }
        for name in ("tiny.jsonl", "samples/tiny-6-42.jsonl")
    }
    paper = texts["samples/tiny-6-42.jsonl"]
    assert len(paper) == agreement["sample"] == 6
    assert agreement["different"] == sum(texts["tiny.jsonl"][key] != text for key, text in paper.items())
    assert "This protocol against the paper's" in ran.out
    assert found["protocol"]["dtype"] == "bfloat16" and found["protocol"]["batch_size"] == 8


@pytest.mark.slow
def test_vllm_writes_where_it_is_asked_to(
    pairs: Path, tiny: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real worker with a stand-in for vLLM gives the same reports, distinguished from ours in run.json."""
    call = ("benchmark", "--dataset", "csv", "--data", pairs, *METRICS, "--model", tiny, "--limit", "3")
    call = (*call, "--reference-points", "none")
    assert run(*call, "-o", "ours").code == 0
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "standins"))
    ran = run(*call, "-o", "theirs", "--vllm-python", sys.executable)
    assert ran.code == 0, ran.err
    first, second = ((tmp_path / name / "predictions" / "tiny.jsonl").read_bytes() for name in ("ours", "theirs"))
    assert first == second
    assert json.loads((tmp_path / "theirs" / "run.json").read_text())["systems"]["tiny"]["engine"] == "vllm"
    mixed = run(*call, "-o", "ours", "--vllm-python", sys.executable)
    assert mixed.code == 2 and "other settings" in mixed.err
    absent = run(*call, "-o", "absent", "--vllm-python", tmp_path / "no" / "python")
    assert absent.code == 1 and "cannot be run" in absent.err


def test_texts_alone(tmp_path: Path, run: Run) -> None:
    """Reports of others are scored against references without images."""
    references = [{"uid": str(n), "findings": f"The heart is {'large' if n % 2 else 'normal'} {n}."} for n in range(12)]
    texts = [{"uid": str(n), "text": "The heart is normal."} for n in reversed(range(12))]
    for name, rows in (("references", references), ("mine", texts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ("benchmark", "--dataset", "csv", "--data", "references.jsonl", "--predictions", "mine.jsonl", "-o", "r")
    ran = run(*call, *METRICS)
    assert ran.code == 0, ran.err
    assert "nearest-neighbour needs a model" in ran.err
    assert "mine wrote 1 different reports for 12 images" in ran.out
    lines = (tmp_path / "r" / "predictions" / "mine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(n) for n in range(12)]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["protocol"] is None
    assert "is not shown to beat mine, shuffled" in " ".join(summary["weak"])


def test_texts_without_any_score_end_with_5(tmp_path: Path, run: Run) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "1", "findings": "A."}\n{"id": "2", "findings": "B."}\n')
    (tmp_path / "p.jsonl").write_text('{"id": "1", "text": "A."}\n{"id": "2", "text": "A."}\n')
    call = ("benchmark", "--dataset", "csv", "--data", "t.jsonl", "--predictions", "p.jsonl", "-o", "r", "--no-cache")
    ran = run(*call, "--metrics", "chexbert")
    assert ran.code == 5 and "not computed: chexbert" in ran.err
    assert (tmp_path / "r" / "index.html").is_file()


def test_a_model_without_images_is_refused(tmp_path: Path, run: Run, tiny: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "1", "findings": "A."}\n')
    ran = run("benchmark", "--dataset", "csv", "--data", "t.jsonl", "--model", tiny, "-o", "r")
    assert ran.code == 1 and "--predictions" in ran.err
    assert not (tmp_path / "r").exists()


def test_texts_of_other_images_are_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "1", "findings": "A."}\n')
    (tmp_path / "p.jsonl").write_text('{"id": "2", "text": "A."}\n')
    call = ("benchmark", "--dataset", "csv", "--data", "t.jsonl", "--predictions", "p.jsonl", "-o", "r", *METRICS)
    assert run(*call).code == 2


@pytest.mark.slow
def test_unreadable_and_missing_images_end_with_3(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:5]]
    for row in rows:
        (tmp_path / row["image"]).write_bytes((pairs.parent / row["image"]).read_bytes())
    (tmp_path / "2.dcm").write_bytes(b"SMITH^JOHN")
    (tmp_path / "3.dcm").unlink()
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ("benchmark", "--dataset", "csv", "--data", "p.jsonl", "-o", "r", *METRICS, "--model", tiny)
    ran = run(*call)
    assert ran.code == 3
    assert "1 images of the data set are not there" in ran.out
    assert "tiny: 1 images could not be read and count as empty reports (not_an_image: 1)" in ran.out
    lines = [json.loads(line) for line in (tmp_path / "r/predictions/tiny.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines] == [None, None, "not_an_image", None]
    assert "SMITH" not in ran.out + ran.err
    assert run(*call).code == 3, "and again where nothing is left to do"


@pytest.mark.slow
def test_reports_of_doubtful_images_carry_a_warning(pairs: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:4]]
    for row in rows:
        shutil.copy(pairs.parent / row["image"], tmp_path)
    half = small_files.pixels(2)
    half[len(half) // 2 :] = 0
    small_files.dicom(tmp_path / "2.dcm", seed=2, PixelData=half.tobytes())
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ("benchmark", "--dataset", "csv", "--data", "p.jsonl", "-o", "r", *METRICS, "--model", tiny)
    text = "tiny: probably damaged or incomplete, but included: 1 images (a large area has no variation: 1)."
    for _ in range(2):  # written, then read again
        ran = run(*call)
        assert ran.code == 0 and text in ran.out, ran.err
    expected = ["", "", "a large area has no variation", ""]
    lines = (tmp_path / "r/predictions/tiny.jsonl").read_text().splitlines()
    assert [json.loads(line)["warning"] for line in lines] == expected
    with (tmp_path / "r/per_sample.csv").open(newline="") as file:
        assert [row["tiny/warning"] for row in csv.DictReader(file)] == expected
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["doubtful"] == {"tiny": {"a large area has no variation": 1}}


@pytest.mark.slow
def test_weights_that_are_missing_end_with_5_and_leave_the_rest(
    pairs: Path, tiny: Path, tmp_path: Path, run: Run
) -> None:
    call = ("benchmark", "--dataset", "csv", "--data", pairs, "-o", "r", "--model", tiny, "--limit", "3", "--no-cache")
    call = (*call, "--reference-points", "none", "--bootstrap", "20")
    ran = run(*call, "--metrics", "rouge_l,chexbert")
    assert ran.code == 5
    assert "not computed" in ran.out and "CheXbert Macro-F1-14 was not computed" in ran.out
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    assert summary["scores"]["models"][0]["scores"]["chexbert_macro_f1_14"] is None
    assert run(*call, "--metrics", "rouge_l,chexbert", "--skip-missing").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dataset", "chexpert"),
        ("--protocol", "quick"),
        ("--batch-size", "4"),
        ("--reference-points", "oracle"),
        ("--model", "random=x"),
        ("--model", "a=x", "--model", "a=y"),
        ("--metrics", "meteor"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], pairs: Path, run: Run, tmp_path: Path) -> None:
    usual = {"--dataset": "csv", "--data": str(pairs), "-o": str(tmp_path / "r")}
    others = [part for name, value in usual.items() if name not in arguments for part in (name, value)]
    assert run("benchmark", *others, *arguments).code == 2
    assert not (tmp_path / "r").exists()


def test_a_missing_model_ends_with_5_before_anything_is_written(pairs: Path, run: Run, tmp_path: Path) -> None:
    ran = run("benchmark", "--dataset", "csv", "--data", pairs, "-o", "r", "--model", "nowhere/nothing", "--offline")
    assert ran.code == 5 and not (tmp_path / "r").exists()


def test_marked_everywhere(alone: Path) -> None:
    for name in ("summary.json", "summary.md", "summary.tex", "index.html"):
        assert "Research use only. Not for clinical use." in (alone / name).read_text()
    for line in (alone / "predictions" / "tiny.jsonl").read_text().splitlines():
        assert json.loads(line)["notice"] == NOTICE


def test_summaries_hold_no_report_and_no_id(alone: Path, pairs: Path) -> None:
    """Summaries may be passed on; reports are in predictions, references, per_sample and the page only."""
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    private = {row["findings"] for row in rows} | {row["id"] for row in rows}
    for name in ("summary.json", "summary.md", "summary.tex", "environment.json", "run.json"):
        text = (alone / name).read_text()
        assert not [one for one in private if re.search(rf"{re.escape(one)}\b", text)], name


def test_the_page_asks_for_nothing_and_runs_nothing(alone: Path) -> None:
    text = (alone / "index.html").read_text()
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text


@pytest.mark.slow
def test_no_header_value_in_any_file_and_no_connection(
    tiny: Path,
    tmp_path: Path,
    watched: dict[str, str],  # noqa: F811
) -> None:
    """No file holds names or ids of the headers; model, metrics and page do not use the network."""
    from tests.llava_rad import small_files

    for number in range(3):
        small_files.dicom(tmp_path / f"{number}.dcm", seed=number, PatientName="CANARY^JANE", PatientID="CANARY7")
    rows = [{"id": str(n), "image": f"{n}.dcm", "findings": "Clear.", "subject": str(n)} for n in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("benchmark", "--dataset", "csv", "--data", "p.jsonl", "-o", "r", "--model", tiny, *METRICS)
    ran = finished(spawn(*command, env=watched, cwd=tmp_path))
    assert ran.code == 0, ran.err
    written = [path for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert len(written) > 12
    assert not [path for path in written if b"CANARY" in path.read_bytes()] and "CANARY" not in ran.out + ran.err
    log = Path(watched["NETWORK_LOG"])
    assert not log.exists(), log.read_text()


@pytest.mark.slow
def test_models_with_other_encoders_stand_in_one_table(pairs: Path, tmp_path: Path, run: Run) -> None:
    """CLIP's and MRM's image vectors find neighbours as RAD-DINO's do, each model by its own recipe."""
    from tests.encoder.backbones import published
    from tests.llava_rad.published import vicuna_folder

    vicuna = vicuna_folder(tmp_path / "vicuna")
    parts = {"clip": published.clip_folder(tmp_path / "clip", size=56), "mrm": published.mrm_file(tmp_path / "MRM.pth")}
    for name, encoder in parts.items():
        recipe = ("--recipe", "mrm-96") if name == "mrm" else ()
        made = run("assemble", tmp_path / f"{name}-model", "--encoder", encoder, "--language-model", vicuna, *recipe)
        assert made.code == 0, made.err
    models = [part for name in parts for part in ("--model", f"{name}={tmp_path / name}-model")]
    ran = run("benchmark", "--dataset", "csv", "--data", pairs, "-o", "r", *METRICS, *models, "--limit", "4")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert {name: one["recipe"] for name, one in summary["models"].items()} == {"clip": "clip-56", "mrm": "mrm-96"}
    assert "encoder of clip" in summary["reference_points"]["nearest-neighbour"]
