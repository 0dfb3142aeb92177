"""``llava-rad reports``: what it writes, prints and refuses, and that the other commands take its table."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from encoder.datasets.splits import disjoint
from llava_rad.reports import mimic_cxr
from llava_rad.reports.pairs import read_pairs
from llava_rad.reports.registry import DATASETS
from tests.llava_rad.conftest import Run
from tests.llava_rad.reports.small_mimic import Image, make, put

CANARY = "QCANARYQ"
TEXT = f" FINAL REPORT\n FINDINGS:  {CANARY} lungs are clear.\n \n IMPRESSION:  {CANARY}\n"


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Two patients with findings in train, one in test, one without findings; canaries in texts and folder names."""
    images = [
        Image("11111111", "51111111", "a-1"),
        Image("11111111", "51111111", "a-2", view="LATERAL"),
        Image("12222222", "52222222", "b-1", view="AP"),
        Image("13333333", "53333333", "c-1", split="test"),
        Image("14444444", "54444444", "d-1"),
    ]
    texts = {image.study: TEXT for image in images[:-1]} | {"54444444": " FINAL REPORT\n IMPRESSION:  Clear.\n"}
    return make(tmp_path / CANARY, images, texts)


def test_counts_stand_beside_the_papers(run: Run, mimic: Path, tmp_path: Path) -> None:
    done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl", "--val-share", "0.5")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "images                                        left",
        "in the table of images                           5",
        "frontal (AP or PA)                               4",
        "image file there                                 4",
        "report there, sectioned by rule                  4",
        "Findings section in it                           3",
        "",
        "split                   images  subjects     paper",
        "train                        1         1   146,909",
        "val                          1         1     7,250",
        "test                         1         1     2,461",
        "",
        "texts: report files",
        "further inputs: lateral 1, impression 3",
    ]
    assert [(p.id, p.row.view) for p in read_pairs(tmp_path / "t.jsonl")] == [
        ("a-1", "PA"),
        ("b-1", "AP"),
        ("c-1", "PA"),
    ]


def test_counts_as_json(run: Run, mimic: Path, tmp_path: Path) -> None:
    done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.csv", "-f", "json", "--val-share", "0")
    content = json.loads(done.out)
    assert content == {
        "dataset": "mimic-cxr-jpg",
        "source": "report files",
        "steps": {
            "in the table of images": 5,
            "frontal (AP or PA)": 4,
            "image file there": 4,
            "report there, sectioned by rule": 4,
            "Findings section in it": 3,
        },
        "missing": 0,
        "splits": {
            "train": {"images": 2, "subjects": 2},
            "val": {"images": 0, "subjects": 0},
            "test": {"images": 1, "subjects": 1},
        },
        "paper": {"train": 146909, "val": 7250, "test": 2461},
        "only_views": 0,
        "context": {"lateral": 1, "impression": 3},
        "comparing": 0,
        "shortened": 0,
        "written": 3,
    }


def test_the_table_holds_what_training_needs(run: Run, mimic: Path, tmp_path: Path) -> None:
    run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl", "--val-share", "0")
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert first == {
        "id": "a-1",
        "image": f"{CANARY}/mimic-cxr-jpg/files/p11/p11111111/s51111111/a-1.jpg",
        "findings": f"{CANARY} lungs are clear.",
        "dataset": "mimic-cxr",
        "subject": "11111111",
        "study": "51111111",
        "view": "PA",
        "split": "train",
        "lateral": f"{CANARY}/mimic-cxr-jpg/files/p11/p11111111/s51111111/a-2.jpg",
        "impression": CANARY,
    }


def test_missing_images_are_left_out_and_end_with_3(run: Run, mimic: Path, tmp_path: Path) -> None:
    (mimic / "files/p11/p11111111/s51111111/a-1.jpg").unlink()
    (mimic / "files/p11/p11111111/s51111111/a-2.jpg").unlink()  # not frontal, so that nobody misses it
    done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl")
    assert done.code == 3
    assert done.err == "llava-rad: 1 of 4 frontal images are not in the folder and were left out\n"
    assert [p.id for p in read_pairs(tmp_path / "t.jsonl")] == ["b-1", "c-1"]


def test_a_complete_data_set_with_other_numbers_ends_with_1(
    run: Run, mimic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mimic_cxr, "IMAGES", 5)
    done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl")
    assert done.code == 1
    assert done.err == (
        "llava-rad: error: MIMIC-CXR-JPG is complete, but there are 1 pairs of the split test instead of 2,461\n"
    )
    assert "texts: report files" in done.out
    assert len(read_pairs(tmp_path / "t.jsonl")) == 3


def test_refusals(run: Run, mimic: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    table = mimic / "mimic-cxr-2.0.0-split.csv"
    image = mimic / "files/p11/p11111111/s51111111/a-1.jpg"
    sections = tmp_path / "mine.csv"
    sections.write_text(f"study,findings\ns51111111,{CANARY}\n")
    bad = tmp_path / "bad.csv"
    bad.write_text(f"image,text\n{CANARY},\n")
    for arguments, code, says in (
        (
            ("mimic", mimic, "-o", out),
            2,
            "choose one of mimic-cxr, mimic-cxr-jpg, iu-xray, rexrank, rexgradient, chexpert-plus, table",
        ),
        (("mimic-cxr-jpg", mimic), 2, "--output"),
        (("mimic-cxr-jpg", mimic, "-o", tmp_path / "t.txt"), 2, "ends in .jsonl or .csv"),
        (("mimic-cxr-jpg", mimic, "-o", out, "--split", "dev"), 2, "choose one of train, val, test"),
        (("mimic-cxr-jpg", mimic, "-o", out, "--val-share", "1"), 2, "--val-share"),
        (("mimic-cxr-jpg", mimic, "-o", tmp_path / "no" / "t.csv"), 2, "folder does not exist"),
        (("mimic-cxr-jpg", mimic, "-o", table), 2, "exists already"),
        (("mimic-cxr-jpg", mimic, "-o", table, "--overwrite"), 2, "one of the inputs"),
        (("mimic-cxr-jpg", mimic, "--reports", sections, "-o", sections, "--overwrite"), 2, "one of the inputs"),
        (("mimic-cxr-jpg", mimic, "-o", image.with_suffix(".csv"), "--split", "val"), 1, "no pair of the split"),
        (("mimic-cxr-jpg", tmp_path / "none", "-o", out), 1, "the folder does not exist"),
        (("mimic-cxr-jpg", mimic, "-o", out, "--reports", tmp_path / "none"), 1, "neither report files nor"),
        (("mimic-cxr-jpg", mimic, "-o", out, "--tables", tmp_path), 1, "there are no tables"),
        (("iu-xray", mimic, "-o", out), 1, "there is no indiana_projections.csv"),
        (("table", bad, "-o", out), 1, "1 rows of the table of pairs have no text: 1"),
        (("table", tmp_path / "none.csv", "-o", out), 1, "does not exist"),
        (("table", mimic, "-o", out), 1, "there is no pairs.jsonl or pairs.csv in the folder"),
    ):
        done = run("reports", *arguments)
        assert (done.code, says in " ".join(done.err.replace("│", " ").split())) == (code, True), (arguments, done.err)
        assert done.out == ""
        assert CANARY not in done.err
    assert not out.exists()
    assert table.read_text().startswith("dicom_id")
    assert sections.read_text().startswith("study")


def test_no_text_id_or_name_is_printed(run: Run, mimic: Path, tmp_path: Path) -> None:
    for arguments in ((), ("-f", "json"), ("--sha256",), ("--split", "test")):
        done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl", "--overwrite", *arguments)
        assert done.code == 0
        for secret in (CANARY, "1111", "2222", "3333", "a-1"):
            assert secret not in done.out + done.err


def test_a_patient_in_two_splits_is_an_error(run: Run, tmp_path: Path) -> None:
    images = [Image("11111111", "51111111", "a-1"), Image("11111111", "52222222", "b-1", split="test")]
    root = make(tmp_path / "m", images, {image.study: TEXT for image in images})
    done = run("reports", "mimic-cxr-jpg", root, "-o", tmp_path / "t.jsonl")
    assert done.code == 1
    assert "subjects in more than one split: 1; the first of them in rows 1 and 2" in done.err
    assert "1111" not in done.err
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", b"x")
    (tmp_path / "mine.csv").write_text("image,text,subject,split\na.png,Clear.,1,train\nb.png,Clear.,1,val\n")
    done = run("reports", "table", tmp_path / "mine.csv", "-o", tmp_path / "t.jsonl")
    assert done.code == 1
    assert "subjects in more than one split" in done.err
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.slow
def test_the_seed_decides_validation(run: Run, phantoms: Path, tmp_path: Path) -> None:
    tables = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run("reports", "mimic-cxr-jpg", phantoms / "mimic-cxr-jpg", "-o", tmp_path / f"{name}.jsonl", "--seed", seed,
            "--val-share", "0.3")  # fmt: skip
        tables[name] = (tmp_path / f"{name}.jsonl").read_bytes()
        disjoint(pair.row for pair in read_pairs(tmp_path / f"{name}.jsonl"))
    assert tables["a"] == tables["b"] != tables["c"]
    test = [{p.id for p in read_pairs(tmp_path / f"{n}.jsonl") if p.row.split == "test"} for n in "ac"]
    assert test[0] == test[1] != set()


def test_one_split_can_be_written(run: Run, phantoms: Path, tmp_path: Path) -> None:
    done = run("reports", "mimic-cxr", phantoms / "mimic-cxr", "-o", tmp_path / "t.csv", "--split", "test")
    written = read_pairs(tmp_path / "t.csv")
    assert {pair.row.split for pair in written} == {"test"}
    assert f"written: {len(written)} pairs\n" in done.out
    assert "train " in done.out, "the counts are those of all"


def test_ids_by_content(run: Run, phantoms: Path, tmp_path: Path) -> None:
    run("reports", "iu-xray", phantoms / "iu-xray", "-o", tmp_path / "plain.jsonl")
    done = run("reports", "iu-xray", phantoms / "iu-xray", "-o", tmp_path / "t.jsonl", "--sha256")
    assert (done.code, done.err) == (0, "")
    plain, hashed = read_pairs(tmp_path / "plain.jsonl"), read_pairs(tmp_path / "t.jsonl")
    assert [p.id for p in hashed] == [hashlib.sha256(p.row.path.read_bytes()).hexdigest() for p in plain]
    assert [(p.row.path, p.findings) for p in hashed] == [(p.row.path, p.findings) for p in plain]


def test_of_files_with_the_same_bytes_the_first_stays(run: Run, mimic: Path, tmp_path: Path) -> None:
    done = run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl", "--sha256")  # all hold b"x"
    assert done.err == "llava-rad: 2 images have the bytes of an earlier one and were left out\n"
    (only,) = read_pairs(tmp_path / "t.jsonl")
    assert (only.id, only.row.path.name) == (hashlib.sha256(b"x").hexdigest(), "a-1.jpg")


def test_generated_reports_join_the_table_by_content(run: Run, chest: list[Path], tiny: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    with mine.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "report", "split"), *((p, f"Text {n}.", "test") for n, p in enumerate(chest))]
        )
    for name in ("truth.jsonl", "truth.csv"):
        done = run("reports", "table", mine, "--sha256", "--split", "test", "-o", tmp_path / name)
        assert done.code == 0
    out = tmp_path / "out.jsonl"
    for part in (chest[:4], chest[4:]):  # as xargs does it, whose command lines hold some hundred names
        assert run("generate", *part, "--model", tiny, "--max-new-tokens", "4", "-f", "jsonl", "-o", out).code == 0
    for name in ("truth.jsonl", "truth.csv"):
        done = run("evaluate", out, tmp_path / name, "--metrics", "rouge_l", "-f", "json", "--strata", "view")
        assert done.code == 0, done.err
        truth, read, priors = done.err.splitlines()
        assert read == f"llava-rad: out.jsonl: {len(chest)} reports, text from report.text, ids from input.sha256"
        assert truth.startswith(f"llava-rad: {name}: {len(chest)} reports, text from findings")
        assert priors.startswith(f"llava-rad: out: of {len(chest)} reports without a prior image")
        assert json.loads(done.out)["reports"] == len(chest)
    # a table against itself: the references are the Findings
    done = run("evaluate", tmp_path / "truth.csv", tmp_path / "truth.jsonl", "--metrics", "rouge_l", "-f", "json")
    assert json.loads(done.out)["models"][0]["scores"]["rouge_l"]["point"] == 1.0


def test_any_table_is_checked_and_normalised(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a.png", "b.png", "c.png"):
        put(folder / name, b"x")
    (folder / "mine.csv").write_text(
        'file,caption,patient_id,view,split,more\na.png,"Clear\n lungs.",7,PA,train,1\nb.png,Clear.,8,lateral,train,1\n'
        "c.png,Clear.,9,,validate,1\ngone.png,Clear.,9,,validate,1\n"
    )
    done = run("reports", "table", folder / "mine.csv", "-o", tmp_path / "t.jsonl")
    assert done.code == 3
    assert done.err.splitlines() == [
        "llava-rad: columns read: image from 'file', findings from 'caption', subject from 'patient_id', view, split",
        "llava-rad: columns ignored: more",
        "llava-rad: 1 of 3 frontal images are not in the folder and were left out",
    ]
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == [
        {"id": "a.png", "image": "data/a.png", "findings": "Clear lungs.", "dataset": "", "subject": "7", "study": "",
         "view": "PA", "split": "train"},
        {"id": "c.png", "image": "data/c.png", "findings": "Clear.", "dataset": "", "subject": "9", "study": "",
         "view": "unknown", "split": "val"},
    ]  # fmt: skip
    assert "paper" not in done.out


def test_images_that_are_not_frontal_are_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    left_out = (
        "Lateral view", "lateral left", "SWIMMERS", "LAO", "RAO", "LPO", "Left Lateral", "L-LAT", "XTABLE LATERAL",
        "LLAT", "oblique", "COSTAL",
    )  # fmt: skip
    views = (*left_out, "PA", "A.P.", "", "nan", "AP/LAT", "routine")
    lines = [f"{number}.png,{view},train,Clear {number}." for number, view in enumerate(views)]
    for number in range(len(views)):
        put(tmp_path / f"{number}.png", b"x")
    (tmp_path / "mine.csv").write_text("\n".join(["image,view,split,findings", *lines]) + "\n")
    done = run("reports", "table", tmp_path / "mine.csv", "-o", tmp_path / "t.jsonl", "-f", "json")
    assert done.code == 0 and json.loads(done.out)["steps"] == {
        "in the table": 18, "view known or not stated": 16, "not lateral, oblique or special": 4,
        "image file there": 4,
    }  # fmt: skip
    assert [pair.row.view for pair in read_pairs(tmp_path / "t.jsonl")] == ["PA", "AP", "unknown", "unknown"]
    done = run("reports", "table", tmp_path / "mine.csv", "-o", tmp_path / "u.jsonl", "--unknown-views", "-f", "json")
    assert done.code == 0 and json.loads(done.out)["steps"]["image file there"] == 6


def test_findings_that_only_name_views_are_counted(run: Run, tmp_path: Path) -> None:
    image = Image("11111111", "51111111", "a-1")
    root = make(tmp_path / "m", [image], {image.study: " A\n FINDINGS:  PA and lateral views of the chest.\n"})
    done = run("reports", "mimic-cxr-jpg", root, "-o", tmp_path / "t.jsonl", "--val-share", "0")
    assert "Findings that only name views (kept): 1\n" in done.out


def test_progress_is_shown_on_a_terminal_only(mimic: Path, tmp_path: Path, run: Run) -> None:
    from tests.llava_rad.commands.test_terminal import on_terminal  # skips where there is none

    code, pieces = on_terminal("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "t.jsonl", err=True)
    shown = b"".join(pieces).decode()
    assert code == 0
    assert "images:" in shown and "reports:" in shown
    assert CANARY not in shown
    assert run("reports", "mimic-cxr-jpg", mimic, "-o", tmp_path / "u.jsonl").err == ""


def test_help_names_every_data_set(run: Run) -> None:
    text = " ".join(run("reports", "--help").out.split())
    assert [name for name in DATASETS if name not in text] == []


def test_sentences_that_compare_are_counted_and_left_out_on_request(run: Run, tmp_path: Path) -> None:
    """The pair with a prior keeps its sentence; one with nothing else to say is left out."""
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [
        ("i1", "The heart is large. The effusion is unchanged.", ""),
        ("i2", "The heart is large. The effusion is unchanged.", "a.png"),
        ("i3", "Stable chest.", ""),
        ("i4", "The lungs are clear.", ""),
    ]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "image", "text", "prior"), *((a, f"{a}.png", b, c) for a, b, c in rows)])
    for name, *_ in rows:
        (tmp_path / f"{name}.png").write_bytes(b"x")
    counted = run("reports", "table", tmp_path / "t.csv", "-o", tmp_path / "all.jsonl", "-f", "json")
    assert (json.loads(counted.out)["comparing"], json.loads(counted.out)["shortened"]) == (2, 0)
    assert [p.findings for p in read_pairs(tmp_path / "all.jsonl")] == [text for _, text, _ in rows]
    done = run("reports", "table", tmp_path / "t.csv", "-o", tmp_path / "few.jsonl", "-f", "json", "--no-comparisons")
    assert (json.loads(done.out)["comparing"], json.loads(done.out)["shortened"]) == (0, 2)
    assert [(p.id, p.findings) for p in read_pairs(tmp_path / "few.jsonl")] == [
        ("i1", "The heart is large."), ("i2", rows[1][1]), ("i4", rows[3][1]),
    ]  # fmt: skip
