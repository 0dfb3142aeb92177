"""``llava-rad evaluate``, from tables to scores."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.random_models import reports, write_bert, write_chexbert, write_radgraph
from tests.llava_rad.conftest import Run

LEXICAL = ("--metrics", "rouge_l,bleu_4")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Forty predictions (some of them right) and references with sex and age."""
    there = reports(40, words=20, seed=1)
    others = reports(40, words=20)
    found = [text if number % 4 == 0 else others[number] for number, text in enumerate(there)]
    predictions, references = tmp_path / "mine.csv", tmp_path / "truth.jsonl"
    with predictions.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "report"], *([f"s{n}", text] for n, text in enumerate(found))])
    rows = [
        {"id": f"s{n}", "findings": text, "sex": "FM"[n % 2], "age": [15, 44, 70, None][n % 4]}
        for n, text in enumerate(there)
    ]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return predictions, references


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Options that name small weights in the published forms."""
    folder = tmp_path_factory.mktemp("weights")
    bert = write_bert(folder / "bert", size=32, layers=2, heads=2)
    chexbert = write_chexbert(folder / "chexbert.pth", bert)
    archive = write_radgraph(folder / "radgraph.tar.gz", bert, hidden=40)
    return ["--chexbert", chexbert, "--bert-vocab", bert, "--radgraph", archive, "--radgraph-tokenizer", bert]


def test_scores_as_text(run: Run, tables: tuple[Path, Path]) -> None:
    done = run("evaluate", *tables, *LEXICAL, "--strata", "sex,age")
    assert done.code == 0
    assert done.err.splitlines() == [
        "llava-rad: truth.jsonl: 40 reports, text from findings, ids from id",
        "llava-rad: mine.csv: 40 reports, text from report, ids from id",
    ]
    lines = done.out.splitlines()
    assert lines[0] == "Scores of AI-generated drafts. Research use only. Not for clinical use."
    assert any(line.startswith("ROUGE-L  ") for line in lines)
    order = [
        line.split()[0]
        for line in lines
        if line.startswith("         ") and line.split()[0] in "<20 40-60 60-80 unknown"
    ]
    assert order[:4] == ["<20", "40-60", "60-80", "unknown"]
    assert "  rouge_l|tokens:a-z0-9|case:lower|stemmer:no|f:beta1|aggregate:mean|clean:none|version:" in done.out
    assert "  bootstrap|samples:500|seed:42|interval:percentile-95" in lines


def test_json_is_the_same_each_time_and_holds_no_text(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("evaluate", *tables, "--metrics", "rouge_l,rules", "--strata", "sex", "-f", "json")
    first = run(*arguments, "--cache", tmp_path / "cache")
    assert first.out == run(*arguments, "--cache", tmp_path / "cache").out == run(*arguments, "--no-cache").out
    found = json.loads(first.out)
    assert (found["schema"], found["reports"]) == ("llava-rad.metrics/1", 40)
    scores = found["models"][0]["scores"]
    assert set(scores["rouge_l"]) == {"point", "median", "low", "high", "by_patient"}
    assert scores["rules_f1/Edema"]["positives"] > 0
    assert "effusion" not in first.out.lower().replace("pleural effusion", "")
    groups = found["models"][0]["strata"]["sex"]["rouge_l"]
    assert groups["groups"]["F"]["n"] == groups["groups"]["M"]["n"] == 20
    assert groups["average"] == scores["rouge_l"]["point"]
    other = json.loads(run(*arguments, "--no-cache", "--seed", "1").out)["models"][0]["scores"]["rouge_l"]
    assert other["point"] == scores["rouge_l"]["point"] and other["low"] != scores["rouge_l"]["low"]


def test_all_four_of_the_paper(run: Run, tables: tuple[Path, Path], weights: list[Any], tmp_path: Path) -> None:
    arguments = ("evaluate", *tables, *weights, "-f", "json")
    done = run(*arguments, "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    scores = found["models"][0]["scores"]
    assert {"rouge_l", "bleu_4", "rg_er", "rg_e", "rg_er_bar", "chexbert_macro_f1_14"} <= set(scores)
    assert "uncertain:negative|absent-class:0" in found["signatures"]["chexbert"]
    assert "|model:radgraph:" in found["signatures"]["rg_er"]
    assert run(*arguments, "--cache", tmp_path / "cache").out == run(*arguments, "--no-cache").out == done.out
    positive = json.loads(run(*arguments, "--no-cache", "--uncertain", "positive", "--metrics", "chexbert").out)
    assert "chexbert_macro_f1_14+" in positive["models"][0]["scores"]


def test_both_backends_of_radgraph_agree(run: Run, tables: tuple[Path, Path], weights: list[Any]) -> None:
    arguments = ("evaluate", *tables, *weights, "-f", "json", "--metrics", "rg_er", "--no-cache", "--radgraph-backend")
    own, package = (json.loads(run(*arguments, backend).out) for backend in ("own", "package"))
    assert own["models"] == package["models"]
    assert own["signatures"] != package["signatures"]


def test_what_cannot_be_computed_is_null_with_reason_and_cure(run: Run, tables: tuple[Path, Path]) -> None:
    done = run("evaluate", *tables, "--metrics", "paper,bertscore", "-f", "json", "--no-cache")
    assert done.code == 5
    found = json.loads(done.out)
    scores = found["models"][0]["scores"]
    assert scores["rg_er"] is scores["chexbert_macro_f1_14"] is scores["bertscore_f1"] is None
    assert scores["rouge_l"]["point"] > 0
    why = found["not_computed"]["chexbert"]
    assert "StanfordAIMI/RRG_scorers:chexbert.pth" in why["reason"] and "--chexbert FILE" in why["cure"]
    assert "RRG_scorers:radgraph.tar.gz" in found["not_computed"]["rg_er"]["reason"]
    assert "not computed: rg_er, chexbert, bertscore" in done.err
    done = run("evaluate", *tables, "--metrics", "paper", "--skip-missing", "--no-cache")
    assert done.code == 0
    assert "RG_ER                 not computed" in done.out
    assert "give --radgraph PATH" in done.out


def test_annotations_take_the_place_of_weights(
    run: Run, tables: tuple[Path, Path], weights: list[Any], tmp_path: Path
) -> None:
    made = tmp_path / "annotations"
    made.mkdir()
    arguments = ("evaluate", *tables, "--metrics", "rg_er,chexbert", "--no-cache", "-f", "json")
    first = run(*arguments, *weights, "--save-annotations", made)
    given = (
        "--prediction-annotations",
        made / "predictions.jsonl",
        "--reference-annotations",
        made / "references.jsonl",
    )
    second = run(*arguments, *given)
    assert second.code == 0, second.err
    assert json.loads(second.out)["models"] == json.loads(first.out)["models"]
    assert "labeler:chexbert:given" in json.loads(second.out)["signatures"]["chexbert"]
    lines = (made / "references.jsonl").read_text().splitlines()
    (made / "references.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    done = run(*arguments, *given)
    assert done.code == 2
    assert "2 reports have no annotation, by position: 39, 40" in done.err


def test_what_is_less_than_it_seems_is_stated(run: Run, tmp_path: Path) -> None:
    """Patients that are missing in some rows, and annotations of a metric that makes none."""
    (tmp_path / "a.csv").write_text("Bild;report\n000123;Effusion.\n123;Normal.\n1e5;Normal.\n")
    (tmp_path / "b.csv").write_text("id;findings;MRN\n1e5;Normal.;\n123;Normal.;7\n000123;Effusion.;007\n")
    arguments = ("evaluate", "a.csv", "b.csv", "--metrics", "rouge_l", "--patient", "MRN", "--bootstrap", "10")
    done = run(*arguments, "--save-annotations", "made", "--id-field", "Bild", "--id-field", "id")
    assert done.code == 0, done.err
    assert "warning: 1 of 3 reports name no patient; each counts as a patient of its own" in done.err
    assert "By patient: 3 patients are resampled" in done.out, "7 and 007 are two"
    assert "warning: the annotations hold ids only" in done.err and (tmp_path / "made" / "references.jsonl").exists()


def test_labels_in_the_form_of_chexberts_own_tables(run: Run, tmp_path: Path) -> None:
    from metrics.labels import CLASSES

    for name, cells in (("a", "1,,0,-1"), ("b", "1,1,0,-1")):
        (tmp_path / f"{name}.csv").write_text("id,text\n1,x\n")
        (tmp_path / f"{name}-labels.csv").write_text(f"id,{','.join(CLASSES)}\n1,{cells}{',' * 10}\n")
    done = run(
        "evaluate", "a.csv", "b.csv", "--metrics", "chexbert", "-f", "json", "--no-cache",
        "--prediction-annotations", "a-labels.csv", "--reference-annotations", "b-labels.csv",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["models"][0]["scores"]["chexbert_micro_f1_14"]["point"] == pytest.approx(2 / 3)


def test_models_are_compared_on_the_same_resamples(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    same = tmp_path / "same.csv"
    same.write_bytes(tables[0].read_bytes())
    done = run("evaluate", *tables, *LEXICAL, "--compare", same, "-f", "json")
    found = json.loads(done.out)
    assert [model["name"] for model in found["models"]] == ["mine", "same"]
    assert found["differences"][0]["scores"]["bleu_4"] == {
        "point": 0, "median": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1, "lower_is_better": False,
        "verdict": "no difference shown",
    }  # fmt: skip
    text = run("evaluate", *tables, *LEXICAL, "--compare", same).out
    assert "mine minus same" in text and "+0.00" in text


@pytest.mark.parametrize(
    ("head", "options", "patients"),
    [
        ("subject_id", (), 3),
        ("Patient ID", (), 3),
        ("person", (), None),
        ("person", ("--patient", "person"), 3),
        ("subject", ("--patient", "id"), 4),
    ],
)
def test_patients_come_from_a_column(
    run: Run, tmp_path: Path, head: str, options: tuple[str, ...], patients: int | None
) -> None:
    """Two reports of one patient, one of another, and one of "unknown", who is a third."""
    texts = ["the heart is large", "the lungs are clear", "an effusion", "no effusion is seen"]
    people = ["17", "17", "unknown", "18"]
    (tmp_path / "ref.csv").write_text(
        f"id,text,{head}\n" + "".join(f"{n},{text},{people[n]}\n" for n, text in enumerate(texts))
    )
    for name, found in (("a", "the heart"), ("b", "the effusion is large")):
        (tmp_path / f"{name}.csv").write_text("id,text\n" + "".join(f"{n},{found}\n" for n in range(4)))
    files = ("evaluate", tmp_path / "a.csv", tmp_path / "ref.csv", "--compare", tmp_path / "b.csv")
    done = run(*files, *options, "--metrics", "rouge_l", "--no-cache")
    said = "every report counts as a patient of its own" if patients is None else f"By patient: {patients} patients are"
    assert said in done.out
    found = json.loads(run(*files, *options, "--metrics", "rouge_l", "--no-cache", "-f", "json").out)
    assert found["patients"] == patients
    smallest = 2 / 2 ** (4 if patients is None else patients)  # all exchanges in one direction, or in the other
    assert found["differences"][0]["scores"]["rouge_l"]["p"] >= smallest


def test_equal_subjects_of_two_data_sets_are_two_patients(run: Run, tmp_path: Path) -> None:
    rows = ["1,clear,iu,7", "2,clear,iu,7", "3,clear,mimic,7", "4,clear,mimic,8"]
    (tmp_path / "ref.csv").write_text("\n".join(["id,text,dataset,subject", *rows, ""]))
    (tmp_path / "pred.csv").write_text("id,text\n1,clear\n2,clear\n3,clear\n4,clear\n")
    options = ("--metrics", "rouge_l", "--no-cache", "-f", "json")
    found = json.loads(run("evaluate", tmp_path / "pred.csv", tmp_path / "ref.csv", *options).out)
    assert found["patients"] == 3


def test_raw_races_of_mimic_iv_are_the_papers_groups_and_small_ones_are_never_the_worst(
    run: Run, tmp_path: Path
) -> None:
    races = {
        "WHITE - RUSSIAN": (20, "a b c d"), "WHITE": (20, "a b c d"), "BLACK/CAPE VERDEAN": (31, "a b c x"),
        "ASIAN - CHINESE": (5, "a x x x"), "UNKNOWN": (3, "x"), "PATIENT DECLINED TO ANSWER": (2, "x"),
        "UNABLE TO OBTAIN": (1, "x"),
    }  # fmt: skip
    rows = [(race, text) for race, (count, text) in races.items() for _ in range(count)]
    for name, texts in (("ref", ["a b c d"] * len(rows)), ("pred", [text for _, text in rows])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            cells = [[n, text, row[0], n // 2] for n, (text, row) in enumerate(zip(texts, rows, strict=True))]
            csv.writer(file).writerows([["id", "text", "race", "subject_id"], *cells])
    call = ("evaluate", tmp_path / "pred.csv", tmp_path / "ref.csv", "--metrics", "rouge_l", "--strata", "race")

    def found(*more: str) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(run(*call, "--no-cache", "-f", "json", *more).out)
        table: dict[str, Any] = done["models"][0]["strata"]["race"]["rouge_l"]
        return table

    table = found()
    assert {name: group["n"] for name, group in table["groups"].items()} == {
        "asian": 5, "black/african american": 31, "white": 40
    }  # fmt: skip
    assert (table["worst"], table["unknown"]) == ("black/african american", 6)
    assert table["average"] == pytest.approx((40 + 31 * 0.75 + 5 * 0.25) / 82), "unknown ones score 0 in avg"
    assert table["gap"] == pytest.approx(table["average"] - 0.75)
    assert found("--min-group", "5")["worst"] == "asian" and found("--min-group", "32")["worst"] is None
    text = run(*call, "--no-cache").out
    assert "worst, n >= 30: black/african american" in text and "no group" in text


def test_a_patient_column_that_is_not_there_is_an_error(run: Run, tables: tuple[Path, Path]) -> None:
    done = run("evaluate", *tables, *LEXICAL, "--patient", "person")
    assert done.code == 2 and "neither table has a column person" in done.err


def test_forms_for_papers(run: Run, tables: tuple[Path, Path]) -> None:
    markdown = run("evaluate", *tables, *LEXICAL, "-f", "markdown").out
    head = "| metric | score | median | 95 % interval | interval by patient |\n| --- | ---: | ---: | ---: | ---: |"
    assert f"{head}\n| ROUGE-L | " in markdown
    latex = run("evaluate", *tables, *LEXICAL, "-f", "latex", "--strata", "age").out
    assert r"\begin{tabular}{lrrrr}" in latex and r"95 \% interval" in latex and "$<$20" in latex


def test_values_of_each_report(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow.parquet
    from rouge_score.rouge_scorer import RougeScorer

    for name in ("each.csv", "each.parquet"):
        assert run("evaluate", *tables, *LEXICAL, "--per-sample", name).code == 0
    with (tmp_path / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "rouge_l", "bleu_4"]
    table = pyarrow.parquet.read_table(tmp_path / "each.parquet")
    assert table.column("rouge_l").to_pylist() == [float(row["rouge_l"]) for row in rows]
    assert b"rouge_l|" in table.schema.metadata[b"llava_rad.signatures"]
    truth = [json.loads(line)["findings"] for line in tables[1].read_text().splitlines()]
    with tables[0].open(newline="") as file:
        found = [row["report"] for row in csv.DictReader(file)]
    expected = RougeScorer(["rougeL"]).score(truth[3], found[3])["rougeL"].fmeasure
    assert math.isclose(float(rows[3]["rouge_l"]), expected)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figures(run: Run, tables: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    shown = ("rouge_l,rules", "--strata", "sex") if kind == "svg" else ("rouge_l",)
    done = run("evaluate", *tables, "--no-cache", "--figure", f"scores.{kind}", "--metrics", *shown)
    assert done.code == 0
    assert (tmp_path / f"scores.{kind}").read_bytes()[:5] in {b"\x89PNG\r", b"<?xml", b"%PDF-"}


def test_refusals(run: Run, tables: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = tables
    lines = predictions.read_text()
    (tmp_path / "twice.csv").write_text(lines + "s3,again\n")
    (tmp_path / "extra.csv").write_text(lines + "s99,more\n")
    for arguments, says in (
        (("none.csv", references), "none.csv: the table cannot be read"),
        (("twice.csv", references), "twice.csv: 1 id more than once: rows"),
        (("extra.csv", references), "1 id of the predictions without a reference: row 41"),
        ((predictions, references, "--metrics", "rouge"), "there is no metric 'rouge'"),
        ((predictions, references, "--metrics", ","), "no metric is named"),
        ((predictions, references, *LEXICAL, "--strata", "race"), "neither table has a column race"),
        ((predictions, references, *LEXICAL, "-o", predictions), "one of the inputs"),
        ((predictions, references, *LEXICAL, "-o", predictions, "--overwrite"), "one of the inputs"),
        ((predictions, references, *LEXICAL, "--per-sample", "a.txt"), "--per-sample must end in .csv or .parquet"),
        ((predictions, references, "--bootstrap", "0"), "--bootstrap"),
        ((predictions,), "REFERENCES"),
    ):
        done = run("evaluate", *arguments)
        assert (done.code, done.out) == (2, ""), done.err
        assert says in " ".join(done.err.replace("│", " ").split())


def test_published_reports_give_the_scores_of_pycocoevalcap(run: Run, shared_dir: Path, tmp_path: Path) -> None:
    """590 generated reports on IU X-ray, cleaned as R2Gen does; published: BLEU-4 0.1754 and ROUGE-L 0.3759."""
    data = shared_dir / "data"
    rows = [json.loads(line) for line in (data / "iu_xray_reports" / "reports.jsonl").read_text().splitlines()]
    truth = {row["r2gen"]["id"]: row["findings"] for row in rows if row.get("r2gen")}
    generated = data / "labeler_resources" / "iu_cvt2distilgpt2_generated_test_reports.csv"
    with generated.open(newline="") as file:
        ids = [row["dicom_id"] for row in csv.DictReader(file)]
    references = tmp_path / "references.jsonl"
    references.write_text("".join(json.dumps({"id": key, "findings": truth[key]}) + "\n" for key in ids))
    arguments = ("evaluate", generated, references, "-f", "json", "--metrics")
    metrics = "bleu_1_coco,bleu_2_coco,bleu_3_coco,bleu_4_coco,rouge_l_coco,cider"
    found = json.loads(run(*arguments, metrics, "--clean", "r2gen").out)
    scores = found["models"][0]["scores"]
    assert found["reports"] == 590
    of_coco = {
        "bleu_1_coco": 0.4736170647, "bleu_2_coco": 0.3036881535, "bleu_3_coco": 0.2240228134,
        "bleu_4_coco": 0.1752623409, "rouge_l_coco": 0.3761140705, "cider": 0.6907713457,
    }  # fmt: skip  # pycocoevalcap 1.2
    assert {name: scores[name]["point"] for name in of_coco} == pytest.approx(of_coco, abs=1e-9)
    published = {"bleu_4_coco": 0.1754, "rouge_l_coco": 0.3759}
    assert {name: scores[name]["point"] for name in published} == pytest.approx(published, abs=3e-4)
    assert all(
        "|clean:r2gen|" in value
        for name, value in found["signatures"].items()
        if name not in ("intervals", "comparisons")
    )


def test_scores_of_words_wait_for_no_heavy_library(tables: tuple[Path, Path]) -> None:
    code = (
        "import sys\nfrom llava_rad.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n"
        "    print(end.code, *sorted({'torch', 'transformers', 'evaluate', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "evaluate", *tables, *LEXICAL], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0", done.stderr


def test_comparisons_without_a_prior_are_counted_where_the_table_says_it(run: Run, tmp_path: Path) -> None:
    """Of the three reports without a prior one compares, in one of their four sentences."""
    texts = ["The effusion is unchanged.", "New effusion. Stable heart.", "Clear lungs.", "Normal heart. No effusion."]
    priors = ["", "p.png", "none", ""]
    predictions, references = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    predictions.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    rows = [{"id": n, "findings": "Clear.", "prior": prior} for n, prior in enumerate(priors)]
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("evaluate", predictions, references, "--metrics", "rouge_l", "-f", "json", "--bootstrap", "20")
    assert done.code == 0, done.err
    scores = json.loads(done.out)["models"][0]["scores"]
    assert scores["prior_claims"]["point"] == pytest.approx(1 / 3)
    assert scores["prior_claims_sentences"]["point"] == pytest.approx(1 / 4)
    assert scores["prior_claims_references"]["point"] == 0
    assert "p: of 3 reports without a prior image 33.3 % compare with an earlier study" in done.err
    references.write_text("".join(json.dumps({"id": n, "findings": "Clear."}) + "\n" for n in range(4)))
    unknown = run("evaluate", predictions, references, "--metrics", "rouge_l", "-f", "json", "--bootstrap", "20")
    assert "prior_claims" not in unknown.out
    asked = run("evaluate", predictions, references, "--metrics", "prior_claims", "--bootstrap", "20")
    assert asked.code == 0 and "not defined" in asked.out
