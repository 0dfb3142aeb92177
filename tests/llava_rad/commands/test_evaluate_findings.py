"""``llava-rad evaluate`` with the finding metric: explanations, context, and agreement with ratings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.llava_rad.conftest import Run


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Two predictions and references; the second patient fell."""
    predictions, references = tmp_path / "mine.csv", tmp_path / "truth.jsonl"
    with predictions.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "report"], ["a", "Left pleural effusion."], ["b", "Clear lungs."]])
    rows = [
        {"id": "a", "findings": "Right pleural effusion.", "age": "054Y", "indication": "Cough"},
        {"id": "b", "findings": "Rib fracture.", "age": "", "indication": "Fell at home"},
    ]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return predictions, references


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    path = tmp_path / "rated.csv"
    rows = [
        ("1", "There is edema.", "There is no edema.", 1),
        ("1", "There is edema.", "Fluid overload.", 5),
        ("2", "Nodule.", "Nodule.", 4),
        ("2", "Nodule.", "Pneumothorax.", 1),
        ("3", "Right effusion.", "No right effusion.", 2),
        ("3", "Right effusion.", "Pleural fluid on the right.", 5),
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("study", "reference", "candidate", "rating"), *rows])
    return path


def test_the_explanation_of_each_report(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("evaluate", *tables, "--metrics", "findings", "-o", tmp_path / "scores.txt", "--explain")
    assert run(*arguments, tmp_path / "why.txt").code == 0
    text = (tmp_path / "why.txt").read_text()
    assert "report 1: score" in text and "place, actionable, not urgent: left instead of right" in text
    assert '- fracture "Rib fracture": missed finding, urgent: not mentioned' in text  # urgent after a fall
    assert run(*arguments, tmp_path / "why.jsonl", "--overwrite", "--findings-context", "none").code == 0
    first, second = (json.loads(line) for line in (tmp_path / "why.jsonl").read_text().splitlines())
    assert (first["id"], second["id"]) == ("a", "b")
    assert second["errors"][0]["significance"] == "actionable_not_urgent"
    assert "false finding" not in (tmp_path / "scores.txt").read_text().lower().split("findings f1")[1]


def test_values_of_each_report(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "values.csv"
    done = run("evaluate", *tables, "--metrics", "findings", "-f", "json", "--per-sample", out)
    content = json.loads(done.out)
    assert content["signatures"]["findings"].startswith("findings|findings-1:")
    assert "context:age,indication" in content["signatures"]["findings"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["findings_place"], row["findings_missed_finding"]) for row in rows] == [("1.0", "0.0"), ("0.0", "1.0")]


def test_systems_that_find_other_things_are_compared(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    other, figure = tmp_path / "other.csv", tmp_path / "bars.svg"
    other.write_text("id,report\na,Nodule.\nb,Rib fracture. Pneumothorax.\n")
    done = run("evaluate", *tables, "--metrics", "findings", "--compare", other, "--figure", figure, "-f", "json")
    assert done.code == 0 and figure.stat().st_size > 1000
    first, second = (one["scores"] for one in json.loads(done.out)["models"])
    assert first.keys() == second.keys()
    assert (first["findings_f1/fracture"]["point"], second["findings_f1/fracture"]["point"]) == (0.0, 1.0)
    difference = json.loads(done.out)["differences"][0]["scores"]
    assert difference["findings_f1/fracture"]["point"] == -1.0 and difference["findings_f1/nodule"]["point"] == 0.0


def test_columns_of_one_table_count_for_all_systems(run: Run, tmp_path: Path) -> None:
    """Sex, patients, ages and indications that only the second predictions have are those of both."""
    truth, first, second = (tmp_path / f"{name}.csv" for name in ("truth", "first", "second"))
    truth.write_text("id,report\n1,Rib fracture.\n2,Edema.\n")
    first.write_text("id,report\n1,Edema.\n2,Edema.\n")
    second.write_text("id,report,sex,subject_id,age,indication\n1,Nodule.,F,a,20,fall\n2,Edema.,M,b,30,cough\n")
    for tables in ((first, truth, "--compare", second), (second, truth, "--compare", first)):
        options = ("--metrics", "findings", "--strata", "sex", "--patient", "subject_id", "-f", "json")
        done = run("evaluate", *tables, *options, "--bootstrap", "20")
        assert done.code == 0, done.err
        content = json.loads(done.out)
        assert content["patients"] == 2 and "context:age,indication" in content["signatures"]["findings"]
        groups = [one["strata"]["sex"]["findings"]["groups"] for one in content["models"]]
        assert [set(one) for one in groups] == [{"F", "M"}] * 2
        assert [one["M"]["score"]["point"] for one in groups] == [1.0, 1.0]


def test_agreement_with_ratings(run: Run, rated: Path, tmp_path: Path) -> None:
    done = run("evaluate", "--ratings", rated, "--metrics", "findings,rouge_l", "--figure", tmp_path / "agreement.svg")
    assert done.code == 0
    assert done.err.splitlines()[0] == "llava-rad: rated.csv: 6 rated reports of 3 studies, form table"
    assert (tmp_path / "agreement.svg").stat().st_size > 1000
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("Findings", "ROUGE-L"))] == ["Findings", "ROUGE-L"]
    content = json.loads(run("evaluate", "--ratings", rated, "--metrics", "findings", "-f", "json").out)
    found = content["agreement"]["rating"]["findings"]
    assert found["pairs"]["point"] == 1.0 and found["n_pairs"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ratings", "RATED", "--explain", "x.txt"), "--ratings goes with --metrics"),
        (("--ratings", "RATED", "-o", "RATED"), "input"),
        (("--ratings", "RATED", "--figure", "x.gif"), "--figure must end in"),
        (("--ratings", "MISSING.json"), "MISSING.json"),
        ((), "PREDICTIONS and REFERENCES are needed, or --ratings"),
    ],
)
def test_wrong_use(run: Run, rated: Path, arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    given = [rated if one == "RATED" else tmp_path / one if "." in one else one for one in arguments]
    done = run("evaluate", *given)
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.replace("│", " ").split())


def test_explain_needs_the_finding_metric(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("evaluate", *tables, "--metrics", "rouge_l", "--explain", tmp_path / "why.txt")
    assert done.code == 2 and "--explain is of the metric findings" in " ".join(done.err.split())
    done = run("evaluate", *tables, "--metrics", "findings", "--explain", tmp_path / "why.pdf")
    assert done.code == 2 and "--explain must end in .txt or .jsonl" in " ".join(done.err.split())


def test_a_metric_without_its_weights_is_named(run: Run, rated: Path) -> None:
    done = run("evaluate", "--ratings", rated, "--metrics", "findings,rg_er")
    assert done.code == 5 and "not computed: rg_er" in done.err
    undefined = run("evaluate", "--ratings", rated, "--metrics", "findings,prior_claims")
    assert undefined.code == 5 and "prior_claims: it is not defined for all of these reports" in undefined.out
    assert any(line.split()[:3] == ["rg_er", "not", "computed"] for line in done.out.splitlines())
