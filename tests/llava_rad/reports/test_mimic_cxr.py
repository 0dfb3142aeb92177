"""MIMIC-CXR: the phantom's tables and texts, and small trees for each rule."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from llava_rad.reports import mimic_cxr
from llava_rad.reports.pairs import Pair
from llava_rad.reports.registry import DATASETS, Found, places
from tests.llava_rad.reports.small_mimic import Image, make

REPORT = " FINAL REPORT\n FINDINGS:  {}\n \n IMPRESSION:  None.\n"
ONE = Image("10000001", "50000001", "a-1")


def find(root: Path, *, name: str = "mimic-cxr-jpg", **options: object) -> Found:
    where = {key: options.pop(key, None) for key in ("reports", "tables")}
    return DATASETS[name].find(places(root, **where), **options)  # type: ignore[arg-type]


def packed(text: str) -> str:
    return "".join(text.split())


def expected(phantoms: Path) -> dict[str, tuple[str, str]]:
    """dicom_id -> split and packed Findings of what must be found, from the phantom's tables alone."""
    jpg = phantoms / "mimic-cxr-jpg"
    with (phantoms / "mimic-cxr" / "mimic_cxr_sectioned.csv").open(newline="") as file:
        texts = {row["study"]: row["findings"] for row in csv.DictReader(file)}
    with gzip.open(jpg / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        split = {row["dicom_id"]: row["split"] for row in csv.DictReader(file)}
    with gzip.open(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["ViewPosition"] != "LATERAL"]
    return {
        row["dicom_id"]: (split[row["dicom_id"]], packed(texts[f"s{row['study_id']}"]))
        for row in rows
        if texts[f"s{row['study_id']}"]
    }


@pytest.mark.parametrize("source", ["report files", "a table of sections"])
def test_the_phantoms_pairs(phantoms: Path, source: str) -> None:
    reports = phantoms / "mimic-cxr" / ("files" if source == "report files" else "mimic_cxr_sectioned.csv")
    found = find(phantoms / "mimic-cxr-jpg", reports=reports, val_share=0)
    wanted = expected(phantoms)
    words = {"val": "validate"}
    assert found.source == source
    assert {p.id: (words.get(p.row.split, p.row.split), packed(p.findings)) for p in found.pairs} == wanted
    assert len(found.pairs) == len(wanted)
    assert {p.row.view for p in found.pairs} == {"PA", "AP"}
    assert all(p.row.path.is_file() and p.row.path.suffix == ".jpg" for p in found.pairs)
    assert all("  " not in p.findings and "\n" not in p.findings for p in found.pairs)
    assert list(found.steps.values()) == [93, 63, 63, 63, len(wanted)]


def test_dicom_takes_the_tables_of_jpg(phantoms: Path, tmp_path: Path) -> None:
    jpg = find(phantoms / "mimic-cxr-jpg", val_share=0)
    beside = find(phantoms / "mimic-cxr", name="mimic-cxr", val_share=0)
    moved = tmp_path / "moved"
    shutil.copytree(phantoms / "mimic-cxr", moved)
    named = find(moved, name="mimic-cxr", tables=phantoms / "mimic-cxr-jpg", val_share=0)
    for found in (beside, named):
        assert [(p.id, p.findings, p.row.split) for p in found.pairs] == [
            (p.id, p.findings, p.row.split) for p in jpg.pairs
        ]
        assert {p.row.path.suffix for p in found.pairs} == {".dcm"}
    with pytest.raises(LlavaRadError, match=r"no tables mimic-cxr-2\.0\.0-metadata\.csv and .*split\.csv"):
        find(moved, name="mimic-cxr")


def test_two_frontal_images_of_a_study_are_two_pairs(tmp_path: Path) -> None:
    images = [ONE, ONE._replace(name="a-2", view="AP"), ONE._replace(name="a-3", view="LATERAL")]
    found = find(make(tmp_path, images, {ONE.study: REPORT.format("Clear\n lungs.")}))
    assert [(p.id, p.row.view, p.findings) for p in found.pairs] == [
        ("a-1", "PA", "Clear lungs."),
        ("a-2", "AP", "Clear lungs."),
    ]


def test_frontal_is_ap_and_pa_and_nothing_else(tmp_path: Path) -> None:
    views = ["PA", "AP", "LATERAL", "LL", "", "AP LLD", "PA LLD", "AP AXIAL", "XTABLE LATERAL", "LAO", "pa"]
    images = [ONE._replace(name=f"a-{n}", view=view) for n, view in enumerate(views)]
    found = find(make(tmp_path, images, {ONE.study: REPORT.format("Clear.")}))
    assert [p.id for p in found.pairs] == ["a-0", "a-1"]
    assert found.steps["frontal (AP or PA)"] == 2


def test_each_filter_counts_what_it_leaves(tmp_path: Path) -> None:
    studies = [ONE._replace(study=f"5000000{n}", name=f"a-{n}") for n in range(6)]
    texts = {
        "50000000": REPORT.format("Clear."),
        "50000001": " FINAL REPORT\n IMPRESSION:  Clear.\n",
        "50000002": " FINAL REPORT\n FINDINGS AND IMPRESSION:  Clear.\n",
        "50000003": REPORT.format("PA and lateral views of the chest."),
        "50000005": REPORT.format("Not there."),
    }
    root = make(tmp_path, [*studies, ONE._replace(name="a-9", view="LATERAL")], texts)
    (root / "files/p10/p10000001/s50000005/a-5.jpg").unlink()
    found = find(root)
    assert found.steps == {
        "in the table of images": 7,
        "frontal (AP or PA)": 6,
        "image file there": 5,
        "report there, sectioned by rule": 4,
        "Findings section in it": 2,
    }
    assert found.missing == 1
    # the paper names no further filter for MIMIC-CXR: what only names views stays
    assert [p.id for p in found.pairs] == ["a-0", "a-3"]


def test_studies_treated_by_hand_are_left_out_of_report_files(tmp_path: Path) -> None:
    hand = ONE._replace(study="50913680", name="h-1")
    text = REPORT.format("Clear.")
    found = find(make(tmp_path, [ONE, hand], {ONE.study: text, hand.study: text}))
    assert [p.id for p in found.pairs] == ["a-1"]
    assert found.steps["report there, sectioned by rule"] == 1


@pytest.mark.parametrize("place", ["mimic-cxr-jpg", "mimic-cxr-jpg/reports", "mimic-cxr-jpg/mimic-cxr-reports"])
def test_reports_are_found_by_the_images(tmp_path: Path, place: str) -> None:
    root = make(tmp_path, [ONE], {ONE.study: REPORT.format("Clear.")})
    text = tmp_path / "mimic-cxr" / "files/p10/p10000001/s50000001.txt"
    target = tmp_path / place / "files/p10/p10000001/s50000001.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    text.rename(target)
    assert [p.findings for p in find(root).pairs] == ["Clear."]


def test_a_compressed_table_of_sections(tmp_path: Path) -> None:
    root = make(tmp_path, [ONE], {})
    with gzip.open(root / "mimic_cxr_sectioned.csv.gz", "wt") as file:
        file.write('study,impression,findings,last_paragraph,comparison\ns50000001,,"Clear\n lungs.",,\n')
    assert [p.findings for p in find(root).pairs] == ["Clear lungs."]


def test_tables_of_version_2_1_0(tmp_path: Path) -> None:
    root = make(tmp_path, [ONE], {ONE.study: REPORT.format("Clear.")})
    for name in ("metadata", "split"):
        (root / f"mimic-cxr-2.0.0-{name}.csv").rename(root / f"mimic-cxr-2.1.0-{name}.csv")
    assert [p.id for p in find(root).pairs] == ["a-1"]


def test_reports_that_were_downloaded_in_part_are_found(tmp_path: Path) -> None:
    studies = [ONE._replace(study=f"5000{n:04}", name=f"a-{n}") for n in range(300)]
    found = find(make(tmp_path, studies, {study.study: REPORT.format("Clear.") for study in studies[150:]}))
    assert [p.id for p in found.pairs] == [study.name for study in studies[150:]]


def test_bytes_that_are_no_utf_8_do_not_stop_the_rest(tmp_path: Path) -> None:
    root = make(tmp_path, [ONE], {ONE.study: ""})
    (tmp_path / "mimic-cxr/files/p10/p10000001/s50000001.txt").write_bytes(
        REPORT.format("Clear at 37 \xb0.").encode("latin-1").replace(b"\n", b"\r\n")
    )
    assert [p.findings for p in find(root).pairs] == ["Clear at 37 \ufffd."]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = make(tmp_path, [ONE], {})
    with pytest.raises(LlavaRadError, match=r"^MIMIC-CXR-JPG: there are neither report files nor a mimic_cxr_sec"):
        find(root)
    with pytest.raises(LlavaRadError, match="there are neither report files"):
        find(root, reports=tmp_path / "nowhere")
    with pytest.raises(LlavaRadError, match="the folder does not exist"):
        find(tmp_path / "nowhere")
    (root / "mimic_cxr_sectioned.csv").write_text("study,impression\ns50000001,Clear.\n")
    with pytest.raises(LlavaRadError, match="has no column 'findings'"):
        find(root)
    (root / "mimic_cxr_sectioned.csv").write_text("study,findings\ns50000001,\n")
    with pytest.raises(LlavaRadError, match="no pair is left after the filter 'Findings section in it'"):
        find(root)


@pytest.mark.parametrize("image", [ONE._replace(subject="../../etc"), ONE._replace(name="../x")])
def test_ids_that_lead_elsewhere_are_refused(tmp_path: Path, image: Image) -> None:
    root = make(tmp_path, [ONE], {ONE.study: REPORT.format("Clear.")})
    table = root / "mimic-cxr-2.0.0-metadata.csv"
    with table.open("a", newline="") as file:
        csv.writer(file).writerow([image.name, image.subject, image.study, "PA"])
    with pytest.raises(LlavaRadError, match="row 2 of its table of images has an id of another form"):
        find(root)


def test_a_huge_report_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, [ONE], {ONE.study: REPORT.format("Clear. " * 200_000)})
    with pytest.raises(LlavaRadError, match="larger than a report can be"):
        find(root)


def test_a_subject_in_two_splits_is_an_error(tmp_path: Path) -> None:
    images = [ONE, ONE._replace(name="a-2", split="test")]
    with pytest.raises(LlavaRadError, match=r"subjects in more than one split: 1; .* in rows 1 and 2"):
        find(make(tmp_path, images, {ONE.study: REPORT.format("Clear.")}))


def test_the_official_test_split_stays_and_validation_is_drawn(phantoms: Path) -> None:
    official, drawn = (find(phantoms / "mimic-cxr-jpg", val_share=share) for share in (0, 0.3))
    assert [p.id for p in official.pairs] == [p.id for p in drawn.pairs]
    before, after = ({p.id: p.row.split for p in one.pairs} for one in (official, drawn))
    assert {name for name in before if before[name] == "test"} == {name for name in after if after[name] == "test"}
    assert len(set(after.values())) == 3
    share = sum(split == "val" for split in after.values()) / sum(split != "test" for split in after.values())
    assert 0.2 < share < 0.4
    by_subject = {(p.row.subject, p.row.split) for p in drawn.pairs}
    assert len(by_subject) == len({p.row.subject for p in drawn.pairs})


def test_the_share_is_the_papers() -> None:
    assert DATASETS["mimic-cxr"].val_share == DATASETS["mimic-cxr-jpg"].val_share == 7250 / (146909 + 7250)
    assert round(DATASETS["mimic-cxr"].val_share, 4) == 0.0470


def test_the_complete_data_set_must_have_the_papers_test_split() -> None:
    rows = [Row(Path("x"), split=split, image=f"{split} {n}") for split in ("train", "test") for n in range(2461)]
    found = Found([Pair(row, "Clear.") for row in rows], {}, 0, "", (), whole=True)
    mimic = DATASETS["mimic-cxr"]
    assert mimic.fault(found) is None
    one_less = replace(found, pairs=found.pairs[:-1])
    assert mimic.fault(one_less) == "2,460 pairs of the split test instead of 2,461"
    assert mimic.fault(replace(one_less, whole=False)) is None
    assert mimic.fault(replace(one_less, missing=1)) is None, "files that are not there are said otherwise"


def test_the_complete_data_set_is_known_by_its_table(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mimic_cxr.IMAGES == 377_110
    assert not find(phantoms / "mimic-cxr-jpg").whole
    monkeypatch.setattr(mimic_cxr, "IMAGES", 93)
    assert find(phantoms / "mimic-cxr-jpg").whole
    assert len((phantoms / "truth" / "mimic-cxr.jsonl").read_text().splitlines()) == 93
    assert json.loads((phantoms / "truth" / "mimic-cxr.jsonl").read_text().splitlines()[0])
