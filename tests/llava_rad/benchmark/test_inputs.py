"""Sets of inputs: what each set gives, what each input is worth, and the command with several sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.errors import ConfigError, LlavaRadError
from llava_rad.benchmark.inputs import InputSet, Written, check, counts, worths
from llava_rad.benchmark.page import WORTH, plots
from llava_rad.benchmark.scoring import score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.task import Case, Task
from llava_rad.model.templates import TEMPLATES, Study
from llava_rad.reports.pairs import Context
from metrics.base import Settings
from metrics.bootstrap import Bootstrap
from metrics.rouge import rouge_l
from metrics.suite import Pairs, evaluate
from tests.llava_rad import small_files
from tests.llava_rad.benchmark.conftest import METRICS
from tests.llava_rad.conftest import Run

FULL = Context(Path("l"), Path("p"), "Clear.", "cough", "PA", "none", "Normal.", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frontal,side", "no input 'side'"),
        ("lateral", "frontal image"),
        ("frontal,lateral,lateral", "twice"),
        ("frontal,prior_report", "needs the image"),
        ("", "no input ''"),
    ],
)
def test_sets_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputSet.parse(text)


def test_a_set_gives_what_a_study_has() -> None:
    found = InputSet.parse("Indication, prior-report,prior ,frontal")
    assert found.names == ("frontal", "prior", "prior_report", "indication")
    assert found.label == "frontal + prior + prior report + indication"
    assert found.images(FULL) == [("prior", Path("p"))]
    assert found.study(FULL, ["prior"]) == Study(prior=True, prior_report="Clear.", indication="cough")
    assert found.study(FULL, []) == Study(indication="cough"), "a report without its image is left out"
    assert found.given(FULL) == found.names
    assert found.given(Context(prior_report="Clear.", technique="AP")) == ("frontal",)
    assert InputSet().given(FULL) == ("frontal",)


def case(number: int, context: Context, text: str = "Clear.", subject: str = "") -> Case:
    return Case(f"i{number}", text, subject=subject, study=f"s{number // 2}", context=context)


def test_reports_and_studies_with_each_input_are_counted() -> None:
    """Two images of one study with everything, one image of another study with an indication."""
    found = counts([case(0, FULL), case(1, FULL), case(2, Context(indication="x")), case(4, Context())])
    assert found["frontal"] == (4, 3)
    assert found["lateral"] == found["prior"] == found["prior_report"] == found["technique"] == (2, 1)
    assert found["indication"] == (3, 2)


def test_what_a_model_does_not_take_and_what_the_data_lack_is_an_error() -> None:
    cases = [case(0, Context(indication="x"))]
    sets = [InputSet(), InputSet.parse("frontal,indication")]
    rad, ours = TEMPLATES["llava-rad"].places, TEMPLATES["study"].places
    check(sets, {"rad": rad, "ours": ours}, cases)
    with pytest.raises(ConfigError, match="paper does not take indication") as refused:
        check(sets, {"rad": rad, "paper": TEMPLATES["llava-1.5"].places}, cases)
    assert refused.value.hint == "it takes frontal"
    with pytest.raises(LlavaRadError, match="no study of the data has lateral"):
        check([InputSet.parse("frontal,lateral")], {"ours": ours}, cases)


PEOPLE = [f"p{number // 2}" for number in range(12)]
TRUTH = [f"the heart is large and finding number {number} is seen" for number in range(12)]
HAVING = [number % 3 == 0 for number in range(12)]


def texts(right: list[bool]) -> list[str]:
    return [truth if good else "the heart" for truth, good in zip(TRUTH, right, strict=True)]


def written() -> dict[str, Written]:
    both = InputSet.parse("frontal,prior")
    given = [both.names if have else ("frontal",) for have in HAVING]
    return {
        "m: frontal": Written("m", InputSet(), [("frontal",)] * 12),
        "m: frontal + prior": Written("m", both, given),
        "m: frontal + indication": Written("m", InputSet.parse("frontal,indication"), [("frontal",)] * 12),
        "other": Written("other", InputSet(), [("frontal",)] * 12),
    }


def test_the_worth_is_of_the_reports_that_have_the_input_by_patient() -> None:
    """Four reports of four patients have a prior; with it each is right, without it none."""
    models = {name: texts([False] * 12) for name in written()} | {"m: frontal + prior": texts(HAVING)}
    task = Task("csv", "", [case(n, Context(), truth, PEOPLE[n]) for n, truth in enumerate(TRUTH)])
    bootstrap = Bootstrap(50, 1)
    scored = score(task, models, {}, Settings(metrics=("rouge_l",)), bootstrap, written=written())
    prior, indication = scored.worths
    assert (prior.model, prior.added, prior.to, prior.reports, prior.patients) == ("m", ("prior",), InputSet(), 4, 4)
    less = float(np.mean(rouge_l(["the heart"] * 4, [TRUTH[n] for n in (0, 3, 6, 9)]).per_sample["rouge_l"]))
    assert prior.differences["rouge_l"].point == pytest.approx(1 - less)
    assert prior.differences["rouge_l"].p == pytest.approx(2 / 16), "the two of 16 exchanges that are as extreme"
    assert (indication.added, indication.reports, indication.differences) == (("indication",), 0, {})
    made = Origin(written=written())
    found = Summary(task, scored, made)
    text = found.to_text()
    assert "Worth of each input" in text and "Inputs of the studies" in text
    (row,) = [line for line in text.splitlines() if line.strip().startswith("prior ") and "frontal" in line]
    assert f"{100 * prior.differences['rouge_l'].median:+.1f}" in row  # type: ignore[operator]
    drawings = plots(found)
    assert drawings is not None and b"frontal + prior (n=4)" in drawings[WORTH]
    assert "m: frontal minus m: frontal + prior" not in text and "m: frontal minus m: frontal + prior" in (
        found.to_markdown()
    )
    content = found.to_json({})
    assert content["worths"][0]["scores"]["rouge_l"]["verdict"] == "no difference shown"
    assert content["worths"][0]["to"] == ["frontal"]


def test_sets_of_one_model_only_are_compared() -> None:
    pairs = Pairs([f"{n}" for n in range(12)], texts(HAVING), TRUTH)
    found = {name: evaluate({name: pairs}, Settings(metrics=("rouge_l",))).models[0] for name in written()}
    sets = written() | {"other": Written("other", InputSet.parse("frontal,prior"), [("frontal", "prior")] * 12)}
    assert {one.model for one in worths(sets, found, PEOPLE, Bootstrap(5, 1))} == {"m"}


def test_a_reference_point_of_some_reports_is_scored_and_compared_on_these() -> None:
    """The numbers are those of an evaluation of the four reports alone."""
    some = [n for n, have in enumerate(HAVING) if have]
    cases = [case(n, Context(), truth, PEOPLE[n]) for n, truth in enumerate(TRUTH)]
    strata = ["a"] * 6 + ["b"] * 6
    task = Task("csv", "", cases, strata={"half": strata, "has": ["yes" if have else "no" for have in HAVING]})
    copied = [TRUTH[n - 1] if have else None for n, have in enumerate(HAVING)]
    model = texts([n % 2 == 0 for n in range(12)])
    settings, bootstrap = Settings(metrics=("rouge_l", "bleu_4"), min_group=1), Bootstrap(40, 3)
    scored = score(task, {"m": model}, {"prior-report": copied, "whole": TRUTH}, settings, bootstrap)
    alone = evaluate(
        {
            name: Pairs(
                [cases[n].id for n in some], [str(found[n]) for n in some], [TRUTH[n] for n in some],
                {"half": [strata[n] for n in some]}, [PEOPLE[n] for n in some],
            )
            for name, found in {"m": model, "prior-report": copied}.items()
        },
        settings,
        bootstrap=bootstrap,
    )  # fmt: skip
    point = next(one for one in scored.evaluation.models if one.name == "prior-report")
    assert (point.intervals, point.by_patient, point.strata["half"]) == (
        alone.models[1].intervals, alone.models[1].by_patient, alone.models[1].strata["half"],
    )  # fmt: skip
    compared = {one.second: one for one in scored.compared}
    assert (compared["prior-report"].reports, compared["whole"].reports) == (4, None)
    for name, difference in alone.differences["prior-report"].items():
        assert compared["prior-report"].differences[name].point == difference.point
        assert compared["prior-report"].differences[name].p == difference.p
    values = point.scores["rouge_l"].per_sample["rouge_l"]
    assert [not np.isnan(value) for value in values] == HAVING
    assert scored.diversity["prior-report"].distinct == 4
    text = Summary(task, scored, Origin(points={"prior-report": "copied"})).to_text()
    assert "prior-report (4 reports)" in text
    assert "| no | 8 | 6 |" in Summary(task, scored, Origin()).to_markdown(), "a group without an earlier report"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 6 images: all with an indication, every second with a prior and its report, two with a lateral."""
    folder = tmp_path_factory.mktemp("studies")
    rows = []
    for number in range(6):
        row = {"id": f"i{number}", "subject": f"p{number}", "split": "test", "indication": f"cough {number}"}
        row |= {"findings": f"The heart is normal. Effusion {number}." + " It is unchanged." * (number == 5)}
        row["image"] = small_files.dicom(folder / f"{number}.dcm", seed=number).name
        if number % 2 == 0:
            row |= {"prior": small_files.dicom(folder / f"{number}-p.dcm", seed=20 + number).name}
            row |= {"prior_report": f"Earlier effusion {number}."}
        if number in (0, 3):
            path = small_files.dicom(folder / f"{number}-l.dcm", seed=40 + number, ViewPosition="LL")
            row["lateral"] = path.name
        rows.append(row)
    (folder / "studies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "studies.jsonl"


SETS = ("--inputs", "frontal", "--inputs", "frontal,indication", "--inputs", "frontal,lateral,prior")


def call(studies: Path, output: Path, model: Path, *more: str) -> tuple[str | Path, ...]:
    few = ("--reference-points", "prior-report")
    return ("benchmark", "--dataset", "csv", "--data", studies, "-o", output, *METRICS, *few, "--model", model, *more)


def lines(output: Path, name: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in (output / "predictions" / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_rad.benchmark.results.plots", lambda summary: None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_the_command_with_several_sets(studies: Path, study_model: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "r"
    first = run(*call(studies, output, study_model, *SETS[:4]))
    assert first.code == 0, first.err
    before = {path: path.read_bytes() for path in (output / "predictions").glob("*.jsonl")}
    ran = run(*call(studies, output, study_model, *SETS))
    assert ran.code == 0, ran.err
    assert all(path.read_bytes() == content for path, content in before.items()), "sets may be added"
    assert "Worth of each input" in ran.out
    found = lines(output, "model-frontal-lateral-prior")
    assert [line["inputs"] for line in found] == [
        ["frontal", *["lateral"] * (n in (0, 3)), *["prior"] * (n % 2 == 0)] for n in range(6)
    ]
    folder = studies.parent
    options = ["--model", study_model, "-f", "json", "--batch-size", "1", "--max-new-tokens", "150"]
    one = run("generate", folder / "0.dcm", *options, "--lateral", folder / "0-l.dcm", "--prior", folder / "0-p.dcm")
    assert json.loads(one.out)["report"]["text"] == found[0]["prediction"]
    told = run("generate", folder / "1.dcm", *options, "--indication", "cough 1")
    assert json.loads(told.out)["report"]["text"] == lines(output, "model-frontal-indication")[1]["prediction"]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["inputs"]["prior"] == {"reports": 3, "studies": 3}
    assert [(one["added"], one["reports"]) for one in summary["worths"]] == [
        (["indication"], 6), (["lateral", "prior"], 4),
    ]  # fmt: skip
    assert "on which it is compared" in summary["reference_points"]["prior-report"]
    assert {one["second"]: one["reports"] for one in summary["comparisons"]}["prior-report"] == 3
    with (output / "per_sample.csv").open(newline="") as file:
        values = [row["prior-report/rouge_l"] for row in csv.DictReader(file)]
    assert [bool(value) for value in values] == [n % 2 == 0 for n in range(6)]
    scores = {one["name"]: one["scores"] for one in summary["scores"]["models"]}
    assert scores["model: frontal"]["prior_claims_references"]["point"] == pytest.approx(1 / 6)
    assert scores["model: frontal + lateral + prior"]["prior_claims_references"]["point"] == pytest.approx(1 / 3)
    again = run("evaluate", output / "predictions" / "model-frontal-lateral-prior.jsonl", output / "references.jsonl",
                *METRICS, "-f", "json")  # fmt: skip
    assert json.loads(again.out)["models"][0]["scores"] == scores["model: frontal + lateral + prior"]
    assert "of 3 reports without a prior image" in again.err


@pytest.mark.usefixtures("no_plots")
def test_texts_of_others_are_compared_with_copies_of_the_prior_report(tmp_path: Path, run: Run) -> None:
    """Without images: the table has earlier reports of two of three, one of them equal to the new one."""
    rows = [
        {"id": "1", "findings": "The heart is large now.", "prior_report": "The heart is large now."},
        {"id": "2", "findings": "Left effusion is seen.", "prior_report": "nothing of that kind"},
        {"id": "3", "findings": "Lungs are clear.", "prior_report": ""},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [{"id": row["id"], "text": row["findings"], "prior": "yes" if row["id"] == "1" else ""} for row in rows]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    texts = ("benchmark", "--dataset", "csv", "--data", "t.jsonl", "--predictions", "p.jsonl", "-o", "r", *METRICS)
    ran = run(*texts, "--reference-points", "prior-report")
    assert ran.code == 0, ran.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    scores = {one["name"]: one["scores"] for one in summary["scores"]["models"]}
    assert scores["prior-report"]["rouge_l"]["point"] == pytest.approx(0.5)
    assert scores["p"]["prior_claims"]["point"] == 0 and summary["comparisons"][0]["reports"] == 2
    lines = (tmp_path / "r" / "reference_points" / "prior-report.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["1", "2"]


@pytest.mark.usefixtures("no_plots")
def test_other_images_and_texts_under_the_same_ids_are_refused(
    studies: Path, study_model: Path, tmp_path: Path, run: Run
) -> None:
    rows = [json.loads(line) for line in studies.read_text().splitlines()[:3]]
    for row in rows:
        for name in ("image", "prior", "lateral"):
            if name in row:
                (tmp_path / row[name]).write_bytes((studies.parent / row[name]).read_bytes())
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = call(table, tmp_path / "r", study_model, *SETS[:4])
    assert run(*command).code == 0
    table.write_text("".join(json.dumps(row | {"indication": "fever"}) + "\n" for row in rows))
    told = run(*command)
    assert told.code == 2 and "from other images or texts of the studies" in told.err


@pytest.mark.usefixtures("no_plots")
def test_an_image_that_cannot_be_read_is_left_out_and_counted(
    studies: Path, study_model: Path, tmp_path: Path, run: Run
) -> None:
    rows = [json.loads(line) for line in studies.read_text().splitlines()[:3]]
    for row in rows:
        for name in ("image", "prior", "lateral"):
            if name in row:
                (tmp_path / row[name]).write_bytes((studies.parent / row[name]).read_bytes())
    (tmp_path / rows[2]["prior"]).write_bytes(b"no image")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = run(*call(tmp_path / "t.jsonl", tmp_path / "r", study_model, "--inputs", "frontal,prior,prior_report"))
    assert ran.code == 0, ran.err
    assert "1 reports were written without a lateral or prior that cannot be read" in ran.out
    found = lines(tmp_path / "r", "model-frontal-prior-prior-report")
    assert [line["inputs"] for line in found] == [["frontal", "prior", "prior_report"], ["frontal"], ["frontal"]]


def test_errors_come_before_a_model_is_loaded(
    studies: Path, study_model: Path, tiny: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_rad.benchmark.run.BenchmarkRun._engine", None)
    refused = run(*call(studies, tmp_path / "r", tiny, "--inputs", "frontal,lateral"))
    assert (
        refused.code == 2 and "tiny does not take lateral" in refused.err and not (tmp_path / "r" / "run.json").exists()
    )
    absent = run(*call(studies, tmp_path / "r", study_model, "--inputs", "frontal,technique"))
    assert absent.code == 1 and "no study of the data has technique" in absent.err
    odd = run(*call(studies, tmp_path / "r", study_model, "--inputs", "lateral"))
    assert odd.code == 2 and "frontal" in odd.err
    (tmp_path / "p.jsonl").write_text("".join(f'{{"id": "i{n}", "text": "Clear."}}\n' for n in range(6)))
    texts = ("benchmark", "--dataset", "csv", "--data", studies, "-o", "q", "--predictions", "p.jsonl")
    none = run(*texts, "--inputs", "frontal")
    assert none.code == 2 and "a model is needed" in none.err


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_the_fast_protocol_writes_mixed_studies_in_batches(
    studies: Path, study_model: Path, tmp_path: Path, run: Run
) -> None:
    more = (
        "--protocol",
        "fast",
        "--batch-size",
        "4",
        "--agreement-sample",
        "3",
        "--inputs",
        "frontal,indication,prior",
    )
    ran = run(*call(studies, tmp_path / "r", study_model, *more))
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["agreement_with_paper_protocol"]
