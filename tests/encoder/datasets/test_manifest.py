"""The table of images: what goes in comes out, who is left out, and nested subsets. Expected values are by hand."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from encoder.datasets.manifest import Count, Row, counts, read_manifest, write_manifest
from encoder.datasets.splits import disjoint, select
from encoder.errors import LlavaRadError


def row(subject: str, image: str, dataset: str = "a", **values: object) -> Row:
    return Row(Path("/data") / dataset / image, dataset, subject, "", image, **values)  # type: ignore[arg-type]


def cohort(subjects: int = 40, each: int = 3) -> list[Row]:
    return [
        row(f"p{s}", f"{s}_{i}.png", view=("PA", "lateral", "unknown")[i]) for s in range(subjects) for i in range(each)
    ]


def test_a_name_that_is_no_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    rows = [Row(tmp_path / os.fsdecode(b"M\xfcller.png"), number=1)]
    with pytest.raises(LlavaRadError, match="not UTF-8"):
        write_manifest(rows, tmp_path / "m.csv")
    assert list(tmp_path.iterdir()) == []


def test_round_trip(tmp_path: Path) -> None:
    rows = [
        Row(tmp_path / "x" / 'a,"b.png', "set", "p1", "s1", "i1", "PA", "train", {"Edema": 1.0, "Mass": -1.0}, 1),
        Row(tmp_path / "x" / "Röntgen.png", "set", "p2", "s2", "i2", "unknown", "", {"Edema": None, "Mass": 0.0}, 2),
    ]
    write_manifest(rows, tmp_path / "m.csv", root=tmp_path / "x")
    again = read_manifest(tmp_path / "m.csv")
    assert again == rows
    assert [r.number for r in again] == [1, 2]
    assert (tmp_path / "m.csv").read_text().splitlines()[:2] == [
        "# llava-rad.manifest/1 root=x",
        "path,dataset,subject,study,image,view,split,label:Edema,label:Mass",
    ]
    assert os.listdir(tmp_path) == ["m.csv"], "no temporary file stays"  # noqa: PTH208


def test_an_aspect_is_a_number_and_changes_the_pixels(tmp_path: Path) -> None:
    plain, squashed = Row(tmp_path / "1.png"), Row(tmp_path / "2.png", number=2, attributes={"aspect": "0.8"})
    assert plain.aspect is None and squashed.aspect == 0.8
    contents = {row.content("ab" * 32) for row in (plain, squashed, replace(squashed, inverted=True))}
    assert len(contents) == 3 and "ab" * 32 in contents
    assert replace(squashed, attributes={"aspect": "0.80"}).content("ab" * 32) == squashed.content("ab" * 32)
    for bad in ("wide", "0", "nan", "5", "-1"):
        with pytest.raises(LlavaRadError, match="row 2 of the manifest: aspect is no number between"):
            _ = replace(squashed, attributes={"aspect": bad}).aspect


def test_inverted_images_have_a_column_that_other_manifests_lack(tmp_path: Path) -> None:
    plain, inverted = Row(tmp_path / "1.png", number=1), Row(tmp_path / "2.png", inverted=True, number=2)
    write_manifest([plain, inverted], tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines()[1].split(",")[6:] == ["split", "inverted"]
    assert read_manifest(tmp_path / "m.csv") == [plain, inverted]
    (tmp_path / "m.csv").write_text("path,inverted\n1.png,0\n2.png,1\n")
    assert [row.inverted for row in read_manifest(tmp_path / "m.csv")] == [False, True]
    (tmp_path / "m.csv").write_text("path,inverted\n1.png,\n2.png,MONOCHROME1\n")
    with pytest.raises(LlavaRadError, match="row 2 of the manifest: inverted is none of 1, 0 or empty"):
        read_manifest(tmp_path / "m.csv")


def test_a_data_set_can_be_moved_with_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "here" / "data").mkdir(parents=True)
    write_manifest([Row(tmp_path / "here/data/1.png")], tmp_path / "here" / "m.csv", root=tmp_path / "here" / "data")
    (tmp_path / "here").rename(tmp_path / "there")
    assert [r.path for r in read_manifest(tmp_path / "there/m.csv")] == [tmp_path / "there/data/1.png"]


def test_a_root_elsewhere_is_absolute_and_paths_outside_of_it_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    rows = [Row(tmp_path / "data" / "1.png"), Row(tmp_path / "other" / "2.png")]
    write_manifest(rows, tmp_path / "m" / "m.csv", root=tmp_path / "data")
    (tmp_path / "m").rename(tmp_path / "n")
    assert read_manifest(tmp_path / "n" / "m.csv") == rows


def test_a_table_by_hand_needs_a_path_only(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label:TB\nsub/../1.png,1\n/abs/2.png,\n")
    one, two = read_manifest(tmp_path / "m.csv")
    assert (one.path, two.path) == (tmp_path / "1.png", Path("/abs/2.png"))
    assert (one.view, one.split, one.labels, two.labels) == ("unknown", "", {"TB": 1.0}, {"TB": None})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image\n1.png\n", "no column 'path'"),
        ("path,subjekt\n1.png,JANE\n", "unknown column; did you mean 'subject'?"),
        ("path,view\n1.png,PA\n2.png,JANE\n", "row 2 .* view"),
        ("path,split\n1.png,dev\n", "row 1 .* split"),
        ("path,label:TB\n1.png,1\nJANE.png,0.5\n", "row 2 .* label"),
        ("path,view\nJANE.png\n", "row 1 .* has 1 cells, its header 2"),
        ("path,view\n,PA\n", "row 1 .* no usable path"),
        ("path,path\n1,2\n", "column twice"),
        ("path,attribute:a,attribute:a\n1,2,3\n", "column twice"),
        ("path,masks:a\nJANE.png,2\n", "unknown column; columns are .*, label:NAME, mask:NAME and attribute:NAME"),
        ("path,mask:a\n1,\nJANE.png,JANE\0\n", "NUL"),
        ("# llava-rad.manifest/2 root=.\npath\n1.png\n", "unknown format"),
        ("", "no column 'path'"),
        (b"path\n\xff\xfe\n".decode("latin-1"), "UTF-8"),
    ],
)
def test_errors_name_the_row_and_nothing_of_the_patient(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "JANE.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(LlavaRadError, match=says) as raised:
        read_manifest(file)
    assert "JANE" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="does not exist"):
        read_manifest(tmp_path / "none.csv")


def test_equal_label_sets_are_shared(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label:A,label:B\n" + "".join(f"{i}.png,{i % 2},0\n" for i in range(100)))
    assert len({id(r.labels) for r in read_manifest(tmp_path / "m.csv")}) == 2


def test_masks_and_attributes_come_back(tmp_path: Path) -> None:
    rows = [
        Row(tmp_path / "x" / "1.png", masks={"left lung": tmp_path / "m-masks" / "1.png", "b": tmp_path / "x/m/2.png"}),
        Row(tmp_path / "x" / "2.png", masks={"b": Path("/elsewhere/3.png")}, attributes={"sex": "F", "age": "54"}),
        Row(tmp_path / "x" / "3.png", labels={"TB": 1.0}, attributes={"age": "60"}),
    ]
    write_manifest(rows, tmp_path / "m.csv", root=tmp_path / "x")
    assert (tmp_path / "m.csv").read_text() == (
        "# llava-rad.manifest/1 root=x\n"
        "path,dataset,subject,study,image,view,split,label:TB,mask:b,mask:left lung,attribute:age,attribute:sex\n"
        "1.png,,,,,unknown,,,m/2.png,../m-masks/1.png,,\n"
        "2.png,,,,,unknown,,,/elsewhere/3.png,,54,F\n"
        "3.png,,,,,unknown,,1,,,60,\n"
    )
    again = read_manifest(tmp_path / "m.csv")
    assert [r.masks for r in again] == [r.masks for r in rows]
    assert [r.attributes for r in again] == [r.attributes for r in rows]
    assert again[1] != Row(again[1].path, labels={"TB": None}, attributes={"sex": "F", "age": "54"}), "masks count"
    assert hash(again[0]) == hash(Row(again[0].path)), "and do not stand in the way of hashing"


def test_rows_without_masks_and_attributes_share_what_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,mask:a,attribute:sex\n1.png,,\n2.png,,F\n3.png,,F\n")
    one, two, three = read_manifest(tmp_path / "m.csv")
    assert one.masks is two.masks
    assert one.attributes is Row(Path("/1")).attributes
    assert two.attributes is three.attributes
    assert not one.masks
    assert not one.attributes


def test_views_and_splits() -> None:
    rows = [
        row("1", "a", view="PA", split="train"), row("2", "b", view="frontal", split="val"),
        row("3", "c", view="lateral", split="train"), row("4", "d", view="unknown", split=""),
        row("5", "e", view="AP", split="train"),
    ]  # fmt: skip
    frontal = select(rows, views=("frontal",))
    assert [r.image for r in frontal.rows] == ["a", "b", "e"]
    assert frontal.dropped == {"view": 2}
    chosen = select(rows, views=("frontal",), splits=("train",))
    assert [r.image for r in chosen.rows] == ["a", "e"]
    assert chosen.dropped == {"view": 2, "split": 1}
    assert len(select(rows, views=("frontal", "lateral")).rows) == 4
    assert select(rows).rows == rows


def test_subjects_and_images_of_evaluation_sets_are_left_out() -> None:
    rows = [row("1", "1a"), row("1", "1b"), row("2", "2a"), row("1", "1a", "b"), row("", "x"), row("", "y")]
    chosen = select(rows, exclude=[row("1", "1z"), row("", "x")])
    # subject 1 of data set b is somebody else; without a subject only the image itself is known
    assert [(r.dataset, r.image) for r in chosen.rows] == [("a", "2a"), ("b", "1a"), ("a", "y")]
    assert chosen.dropped == {"excluded subject": 2, "excluded image": 1}
    renamed = Row(Path("/data/a/2a"), "elsewhere", "", "", "other")
    assert "2a" not in [r.image for r in select(rows, exclude=[renamed]).rows], "the same file under another name"


def test_a_file_of_two_manifests_is_taken_once() -> None:
    chosen = select([row("1", "a"), row("1", "b"), row("1", "a")])
    assert [r.image for r in chosen.rows] == ["a", "b"]
    assert chosen.dropped == {"duplicate": 1}


def test_subsets_are_nested_exact_and_by_subject() -> None:
    rows = cohort()
    last: set[str] = set()
    for number in (2, 3, 10, 31, 60, 119, 120):
        chosen = select(rows, subset=number, seed=5).rows
        images = {r.image for r in chosen}
        assert len(chosen) == number
        assert last <= images
        assert [r for r in rows if r.image in images] == chosen, "the order stays"
        whole = Counter(r.subject for r in chosen)
        assert sum(n < 3 for n in whole.values()) <= 1, "all but one subject come with all images"
        last = images


def test_subsets_by_share_and_seed() -> None:
    rows = cohort()
    assert len(select(rows, subset=0.25).rows) == 30
    assert select(rows, subset=1.0).rows == rows
    assert select(rows, subset=0.25).dropped == {"subset": 90}
    assert select(rows, subset=30, seed=1).rows == select(rows, subset=0.25, seed=1).rows
    assert select(rows, subset=30, seed=1).rows != select(rows, subset=30, seed=2).rows
    # every subject has the same chance: over 400 seeds subject 0 is drawn about 100 times (5 sigma: 43)
    drawn = sum(any(r.subject == "p0" for r in select(rows, subset=30, seed=s).rows) for s in range(400))
    assert 57 < drawn < 143
    with pytest.raises(LlavaRadError, match="of 121 images is wanted, but there are 120"):
        select(rows, subset=121)
    with pytest.raises(LlavaRadError, match="whole number"):
        select(rows, subset=1.5)


def test_a_subset_does_not_depend_on_the_order_of_the_rows_and_grows_with_the_data() -> None:
    rows = cohort()
    chosen = {r.image for r in select(rows, subset=30).rows}
    assert {r.image for r in select(rows[::-1], subset=30).rows} == chosen
    more = [*rows, *(row(f"q{s}", f"q{s}") for s in range(20))]
    kept = {r.image for r in select(more, subset=30).rows if r.subject.startswith("p")}
    assert len(kept - chosen) <= 2, "new subjects push old ones out from the end of the order, and change nothing else"


def test_counts() -> None:
    rows = [row("1", "a", view="PA"), row("1", "b", view="lateral"), row("2", "c", view="PA"), row("", "d", "b")]
    assert counts(rows) == {
        "a": {"all": Count(3, 2), "PA": Count(2, 2), "lateral": Count(1, 1)},
        "b": {"all": Count(1, 0), "unknown": Count(1, 0)},
    }


def test_one_patient_in_two_splits_is_an_error() -> None:
    good = [row("1", "a", split="train"), row("1", "a", "b", split="val"), row("", "x", split="train")]
    disjoint([*good, row("", "y", split="val")])
    bad = [*good, Row(Path("/z"), "a", "1", split="test", number=17)]
    with pytest.raises(LlavaRadError, match=r"more than one split: 1; .* rows 0 and 17"):
        disjoint(bad)


def test_the_csv_is_plain(tmp_path: Path) -> None:
    write_manifest([row("1", "a", view="PA", labels={"TB": 1.0})], tmp_path / "m.csv", root=Path("/data"))
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert lines[0] == "# llava-rad.manifest/1 root=/data"
    assert list(csv.DictReader(lines[1:])) == [
        {
            "path": "a/a",
            "dataset": "a",
            "subject": "1",
            "study": "",
            "image": "a",
            "view": "PA",
            "split": "",
            "label:TB": "1",
        }
    ]
