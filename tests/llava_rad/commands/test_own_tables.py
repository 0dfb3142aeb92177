"""Own tables through the commands: faults of tables that others reported, and patients' attributes to the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from encoder.datasets.manifest import read_manifest
from llava_rad.reports.pairs import read_pairs
from metrics.labels import CLASSES, POSITIVE
from metrics.rules.labeler import label
from tests.llava_rad.conftest import Ran, Run

TEXTS = ("Heart size is normal, lungs are clear, no effusion.", "Small left effusion, no pneumothorax.")
REFERENCES = "id,reference\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS, 1))


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")


def test_commas_without_quotes_are_an_error_in_every_command(run: Run, tmp_path: Path) -> None:
    bare = "id,prediction\n" + "".join(f"{n},{text}\n" for n, text in enumerate(TEXTS, 1))
    write(tmp_path, ref=REFERENCES, bare=bare, quoted=REFERENCES.replace("reference", "prediction"))
    labels = "id," + ",".join(CLASSES) + "\n" + "1" + ",1" * 15 + "\n"
    write(tmp_path, labels=labels)
    for command in (
        ("evaluate", "bare.csv", "ref.csv", "--metrics", "rouge_l,bleu_4"),
        ("evaluate", "quoted.csv", "bare.csv", "--metrics", "rouge_l"),
        ("evaluate", "quoted.csv", "ref.csv", "--metrics", "chexbert", "--reference-annotations", "labels.csv"),
        ("benchmark", "--dataset", "csv", "--data", "bare.csv", "--predictions", "quoted.csv", "-o", "r"),
        ("benchmark", "--dataset", "csv", "--data", "ref.csv", "--predictions", "bare.csv", "-o", "r2",
         "--metrics", "rouge_l", "--reference-points", "none"),
        ("reports", "table", "bare.csv", "-o", "p.jsonl"),
        ("manifest", "table", "bare.csv", "-o", "m.csv"),
    ):  # fmt: skip
        done = run(*command)
        assert (done.code, done.out) in ((1, ""), (2, "")), command
        assert "row 1 has" in done.err, command
    done = run("evaluate", "quoted.csv", "ref.csv", "--metrics", "rouge_l,bleu_4", "-f", "json", "--no-cache")
    scores = json.loads(done.out)["models"][0]["scores"]
    assert [round(scores[name]["point"], 9) for name in ("rouge_l", "bleu_4")] == [1, 1]  # the texts are equal


def test_empty_reports_have_no_labels_and_score_0(run: Run, tmp_path: Path) -> None:
    texts = ["", "   ", ".", "." * 150, "nan", "No acute findings."]
    truth = [
        "The lungs are clear.",
        "No acute findings.",
        "Small left effusion.",
        "Normal.",
        "Clear.",
        "No acute findings.",
    ]
    for name, column, rows in (("pred", "prediction", texts), ("ref", "reference", truth)):
        write(tmp_path, **{name: f"id,{column}\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(rows))})
    done = run(
        "evaluate", "pred.csv", "ref.csv", "--metrics", "rules,rouge_l,rouge_l_coco,bleu_4", "-f", "json",
        "--per-sample", "each.csv", "--no-cache",
    )  # fmt: skip
    assert "pred: 5 of 6 reports are empty; they score 0 in every metric" in done.err
    scores = json.loads(done.out)["models"][0]["scores"]
    there = np.array([label(text) for text in truth]) == POSITIVE
    found = np.zeros_like(there)
    found[-1] = np.array(label(texts[-1])) == POSITIVE
    assert scores["rules_micro_f1_14"]["point"] == pytest.approx(f1_score(there, found, average="micro"))
    assert scores["rules_macro_f1_14"]["point"] == pytest.approx(
        f1_score(there, found, average="macro", zero_division=0)
    )
    rows = (tmp_path / "each.csv").read_text().splitlines()[1:]
    assert [set(row.split(",")[1:]) for row in rows] == [{"0.0"}] * 5 + [{"1.0"}]


def test_empty_reports_have_no_given_labels_either(run: Run, tmp_path: Path) -> None:
    codes = "".join(f",{int(name == 'No Finding')}" for name in CLASSES)
    write(
        tmp_path, pred="id,prediction\n1,.\n2,Clear.\n", ref="id,reference\n1,Clear.\n2,Clear.\n",
        labels="id," + ",".join(CLASSES) + f"\n1{codes}\n2{codes}\n",
    )  # fmt: skip
    given = ("--prediction-annotations", "labels.csv", "--reference-annotations", "labels.csv")
    done = run("evaluate", "pred.csv", "ref.csv", "--metrics", "chexbert", *given, "-f", "json", "--no-cache")
    scores = json.loads(done.out)["models"][0]["scores"]
    assert scores["chexbert_f1/No Finding"]["point"] == pytest.approx(2 / 3)  # one found, one missed


def test_labels_of_an_id_twice_and_odd_labels_are_errors(run: Run, tmp_path: Path) -> None:
    def labels(*rows: tuple[str, str]) -> str:
        cells = (f"{key}," + ",".join(word if name == "Edema" else "" for name in CLASSES) for key, word in rows)
        return "\n".join([",".join(["id", *CLASSES]), *cells]) + "\n"

    write(
        tmp_path, ref=REFERENCES, pred=REFERENCES.replace("reference", "prediction"),
        right=labels(("1", "1"), ("2", "")), words=labels(("1", "True"), ("2", "nan")),
        twice=labels(("1", "1"), ("2", ""), ("2", "1")),
        odd=labels(("1", "1"), ("2", "maybe")),
    )  # fmt: skip

    def scored(table: str) -> Ran:
        given = ("--prediction-annotations", f"{table}.csv", "--reference-annotations", "right.csv")
        return run("evaluate", "pred.csv", "ref.csv", "--metrics", "chexbert", *given, "-f", "json", "--no-cache")

    assert scored("twice").code == scored("odd").code == 2
    assert "twice.csv: rows 2 and 3 have the same id" in scored("twice").err
    assert "odd.csv: row 2, column 'Edema': it holds no label" in scored("odd").err
    assert json.loads(scored("words").out)["models"][0]["scores"]["chexbert_micro_f1_14"]["point"] == 1


@pytest.mark.parametrize("fields", ["findings,generated_report", "prediction,Report", "report,findings"])
def test_the_user_chooses_among_fields_that_could_be_the_text(run: Run, tmp_path: Path, fields: str) -> None:
    first, second = fields.split(",")
    write(tmp_path, ref=REFERENCES, pred=f"id,{fields}\n" + "".join(f'{n},"{t}",x\n' for n, t in enumerate(TEXTS, 1)))
    done = run("evaluate", "pred.csv", "ref.csv", "--metrics", "rouge_l", "--no-cache")
    assert done.code == 2
    assert "several fields that could be the prediction" in done.err
    assert "--prediction-field" in done.err
    for field, score in ((first, 1), (second, 0)):
        done = run(
            "evaluate", "pred.csv", "ref.csv", "--metrics", "rouge_l", "--prediction-field", field, "-f", "json",
            "--no-cache",
        )  # fmt: skip
        assert json.loads(done.out)["models"][0]["scores"]["rouge_l"]["point"] == score


def test_spellings_of_sex_age_and_race_are_groups_of_patients(run: Run, tmp_path: Path) -> None:
    people = ["F,45,WHITE", "Female,45Y,Caucasian", "f,>89,White - Russian", "M,90+,UNKNOWN", "male,411,declined"]
    write(
        tmp_path,
        ref="id,reference,Gender,Patient Age,Race\n" + "".join(f"{n},Clear.,{one}\n" for n, one in enumerate(people)),
        pred="id,prediction\n" + "".join(f"{n},Clear.\n" for n in range(5)),
    )
    done = run(
        "evaluate", "pred.csv", "ref.csv", "--metrics", "rouge_l", "--strata", "sex,age,ethnicity", "-f", "json",
        "--no-cache",
    )  # fmt: skip
    strata = json.loads(done.out)["models"][0]["strata"]
    found = {
        column: {name: group["n"] for name, group in table["rouge_l"]["groups"].items()}
        for column, table in strata.items()
    }
    assert found == {
        "sex": {"F": 3, "M": 2},
        "age": {"40-60": 2, ">=80": 2},
        "ethnicity": {"white": 3},
    }


def test_attributes_travel_from_an_own_table_to_groups_of_a_benchmark(run: Run, tmp_path: Path) -> None:
    lines = ["Picture,PatientID,ViewPosition,Partition,Patient Age,Sex,Race,Report"]
    for number in range(6):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
        sex, race = ("female", "White") if number % 2 else ("M", "BLACK/AFRICAN AMERICAN")
        lines.append(f"{number}.png,p{number},PA,test,{30 + 10 * number}Y,{sex},{race},Lungs clear.")
    write(tmp_path, mine="\n".join(lines) + "\n")
    options = ("--column", "image=Picture")
    done = run("reports", "table", "mine.csv", "-o", "pairs.jsonl", *options)
    assert done.code == 0
    assert "columns read: image from 'Picture', findings from 'Report'" in done.err
    expected = {"sex": "F", "age": "40", "ethnicity": "white"}
    assert read_pairs(tmp_path / "pairs.jsonl")[1].row.attributes == expected
    assert run("reports", "table", "mine.csv", "-o", "pairs.csv", *options).code == 0
    assert read_pairs(tmp_path / "pairs.csv")[1].row.attributes == expected
    assert run("manifest", "table", "mine.csv", "-o", "m.csv", *options).code == 0
    assert read_manifest(tmp_path / "m.csv")[1].attributes == expected

    ids = [pair.id for pair in read_pairs(tmp_path / "pairs.jsonl")]
    write(tmp_path, pred="id,prediction\n" + "".join(f"{key},Lungs clear.\n" for key in ids))
    for data in ("pairs.jsonl", "."):  # the table, and a folder that holds it
        done = run(
            "benchmark", "--dataset", "csv", "--data", data, "--predictions", "pred.csv", "-o", f"results-{len(data)}",
            "--metrics", "rouge_l", "--reference-points", "none", "--strata", "sex,age,race", "--no-cache",
        )  # fmt: skip
        assert done.code == 0, done.err
        for group in ("F", "M", "20-40", "white", "black/african american"):
            assert group in (tmp_path / f"results-{len(data)}" / "summary.md").read_text()


def test_words_for_nothing_are_no_report(run: Run, tmp_path: Path) -> None:
    for number, text in enumerate(("nan", "None", "___", "N/A", "-", ".")):
        write(tmp_path, mine=f"image,findings\na.png,Lungs clear.\nb.png,{text}\n")
        done = run("reports", "table", "mine.csv", "-o", f"{number}.jsonl")
        assert (done.code, done.out) == (1, "")
        assert "1 rows of the table of pairs have no text: 2" in done.err


def test_columns_are_named_for_own_tables_only(run: Run, tmp_path: Path) -> None:
    for command in ("manifest", "reports"):
        done = run(command, "mimic-cxr", tmp_path, "-o", "x.csv", "--column", "image=a")
        assert done.code == 2
        assert "only the data set 'table'" in " ".join(done.err.replace("│", " ").split())
