"""Ratings of reports: the forms of RadPref and ReXVal, and tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llava_rad.benchmark.ratings import REXVAL, read_ratings
from metrics.base import InputError


def rater(first: Any, second: Any) -> dict[str, Any]:
    return {"C1": {"rating": first, "finding_errors": {}}, "C2": {"rating": second}}


def study(**more: Any) -> dict[str, Any]:
    return {
        "ground_truth_report": "Edema.",
        "C1_report": "Clear lungs.",
        "C2_report": "Edema.",
        "PatientAge": "006M",
        "Indication": "Cough",
        "raters": [rater(1, 5), rater(2, 4), rater(3, 3)],
    } | more


def saved(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_radpref(tmp_path: Path) -> None:
    read = read_ratings(saved(tmp_path / "ratings.json", [study(), study(PatientAge="072Y")]))
    assert read.form == "RadPref"
    assert read.pairs.candidates == ["Clear lungs.", "Edema."] * 2 and read.pairs.references == ["Edema."] * 4
    assert read.pairs.patients == ["1", "1", "2", "2"]
    assert read.ratings == {"rating": [2.0, 4.0, 2.0, 4.0]}
    assert read.pairs.context == {"age": ["0.5", "0.5", "72", "72"], "indication": ["Cough"] * 4}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ground_truth_report": None}, "study 2: no ground_truth_report"),
        ({"raters": []}, "study 2: no reports C1_report, C2_report or no raters"),
        ({"raters": [rater(1, None)]}, "study 2: C2 has no text or not a rating of each rater"),
        ({"raters": [rater(True, 2)]}, "study 2: C1 has no text"),
        ({"C1_report": 3}, "study 2: C1 has no text"),
        ({"raters": [rater(1, 2), {"C1": {"rating": 1}, "C2": None}]}, "study 2: C2 has no text or not a rating"),
    ],
)
def test_radpref_with_faults(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        read_ratings(saved(tmp_path / "ratings.json", [study(), study(**changed)]))
    assert "Clear lungs" not in str(error.value)


def write_rexval(folder: Path, *, first: int = 0, ids: bool = False) -> Path:
    """Write 2 studies x 4 candidates x 2 raters x 2 categories; errors of candidate c of study s: s + c, and 1 more."""
    kinds = ("radgraph", "bertscore", "s_emb", "bleu")
    with (folder / REXVAL[0]).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["study_id", "gt_report", *kinds])
        rows.writerows(
            [f"s{number}", f"reference {number}", *(f"{kind} {number}" for kind in kinds)] for number in range(2)
        )
    with (folder / REXVAL[1]).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["study_number", "candidate_type", "error_category", "clinically_significant", "rater_index", "num_errors"]
        )
        for number in range(2):
            for column, kind in enumerate(kinds):
                for one in range(2):
                    key = f"s{number}" if ids else number + first
                    rows.writerow([key, kind, 1, True, one, number + column])
                    rows.writerow([key, kind, 2, False, one, one * 2])
    return folder


@pytest.mark.parametrize(("first", "ids"), [(0, False), (1, False), (0, True)])
def test_rexval(tmp_path: Path, first: int, ids: bool) -> None:
    folder = write_rexval(tmp_path, first=first, ids=ids)
    read = read_ratings(folder)
    assert read.form == "ReXVal" and read == read_ratings(folder / REXVAL[1])
    assert read.pairs.candidates[:4] == ["radgraph 0", "bertscore 0", "s_emb 0", "bleu 0"]
    assert read.pairs.references == ["reference 0"] * 4 + ["reference 1"] * 4
    assert read.ratings["significant errors"] == [0, -1, -2, -3, -1, -2, -3, -4]
    assert read.ratings["errors"] == [-1, -2, -3, -4, -2, -3, -4, -5]  # the mean of 0 and 2 is added


@pytest.mark.parametrize(
    ("yes", "no"), [("1.0", "0.0"), ("t", "f"), ("Y", "N"), (" True", " False"), ("yes", "no"), ("TRUE", "FALSE")]
)
def test_significance_in_other_words(tmp_path: Path, yes: str, no: str) -> None:
    path = write_rexval(tmp_path) / REXVAL[1]
    path.write_text(path.read_text().replace("True", yes).replace("False", no))
    assert read_ratings(tmp_path).ratings["significant errors"] == [0, -1, -2, -3, -1, -2, -3, -4]
    path.write_text(path.read_text().replace(f",{no},", ",perhaps,", 1))
    with pytest.raises(InputError, match="row 2: clinically_significant is neither yes nor no"):
        read_ratings(tmp_path)


def test_rexval_without_its_reports(tmp_path: Path) -> None:
    write_rexval(tmp_path)
    (tmp_path / REXVAL[0]).unlink()
    with pytest.raises(InputError, match="50_samples"):
        read_ratings(tmp_path)


def test_a_table(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("study,reference,candidate,rating,age\n1,Edema.,Clear.,2,54\n1,Edema.,Edema.,4.5,54\n")
    read = read_ratings(path)
    assert (read.form, read.ratings) == ("table", {"rating": [2.0, 4.5]})
    assert read.pairs.context == {"age": ["54", "54"]}


NOTHING = ("nan", "N/A", "None", "unknown", "XXXX XXXX XXXX XXXX XXXX.", "<unk> <pad>")


def test_texts_are_read_as_evaluate_reads_them(tmp_path: Path) -> None:
    """Texts that say nothing are empty, of a report with headings the Findings count."""
    whole = "FINDINGS: Edema. IMPRESSION: Nodule."
    rows = [{"study": "1", "reference": whole, "candidate": text, "rating": 1} for text in NOTHING]
    path = tmp_path / "ratings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_ratings(path).pairs
    assert (read.candidates, read.references) == ([""] * 6, ["Edema."] * 6)
    changed = study(ground_truth_report=whole, C1_report="nan")
    read = read_ratings(saved(tmp_path / "ratings.json", [changed])).pairs
    assert (read.candidates, read.references) == (["", "Edema."], ["Edema."] * 2)
    folder = write_rexval(tmp_path)
    samples = (folder / REXVAL[0]).read_text()
    (folder / REXVAL[0]).write_text(samples.replace("bleu 0", "N/A").replace("reference 1", f'"{whole}"'))
    read = read_ratings(folder).pairs
    assert (read.candidates[3], read.references[4:]) == ("", ["Edema."] * 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("study,reference,candidate,rating\n1,a,b,1_0\n", "row 1: rating is not a number"),
        ("study,reference,candidate,rating\n1,a,b,1\n,a,b,2\n", "row 2: no study"),
        ("a,b\n1,2\n", "no column study"),
        ("study,reference,candidate,rating\n1,a,b,good\n", "row 1: rating is not a number"),
        ("study,reference,candidate,rating\n1,a,b,nan\n", "row 1: rating is not a number"),
        ("study,reference,rating\n1,a,3\n", "row 1: no candidate"),
    ],
)
def test_tables_with_faults(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_ratings(path)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", "null", '{"a": 1}'])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ratings.json"
    path.write_text(content)
    with pytest.raises(InputError):
        read_ratings(path)
