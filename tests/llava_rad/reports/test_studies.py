"""Studies of several images: laterals, priors and texts, by small trees whose answers are written out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from llava_rad.reports.comparisons import compares, comparing, without_comparisons
from llava_rad.reports.pairs import Context, Pair, read_pairs, write_pairs
from llava_rad.reports.registry import DATASETS, places
from llava_rad.reports.studies import Image, Sections, join, moment


def row(name: str, study: str, view: str = "PA", subject: str = "p", split: str = "train") -> Row:
    return Row(Path("/x") / name, "d", subject, study, name, view, split)  # type: ignore[arg-type]


def joined(images: list[tuple[Row, str, str]], texts: dict[str, Sections] | None = None) -> dict[str, Context]:
    """Contexts of the frontal images by name; each image with the date and time of its table."""
    pairs = [Pair(one, "text") for one, *_ in images if one.view != "lateral"]
    found = join(
        pairs,
        [Image(one, moment(day, time)) for one, day, time in images],
        {("d", "p", study): sections for study, sections in (texts or {}).items()},
    )
    return {pair.id: pair.context for pair in found.pairs}


@pytest.mark.parametrize(
    ("day", "time", "first", "last"),
    [
        ("21800506", "213014.53100000002", 77414.531, 77414.531),
        ("21800506", "80556.5", 8 * 3600 + 5 * 60 + 56.5, 8 * 3600 + 5 * 60 + 56.5),
        ("2180-05-06", "08:05:56", 29156, 29156),
        ("2180-05-06 08:05:56", "", 29156, 29156),
        ("2180-05-06T08:05", "", 29100, 29100),
        ("21800506", "", 0, 86399),
        ("21800506", "no time", 0, 86399),
        ("21800506", "256000", 0, 86399),
        ("2180/05/06", "0", 0, 86399),
        ("6.5.2180", "08:05", 29100, 29100),
        ("06.05.2180 08:05", "", 29100, 29100),
    ],
)
def test_moments(day: str, time: str, first: float, last: float) -> None:
    found = moment(day, time)
    assert found is not None
    assert found.day == date(2180, 5, 6).toordinal()
    midnight = found.day * 86_400.0
    assert (found.first - midnight, found.last - midnight) == pytest.approx((first, last), abs=1e-3)


def test_moments_that_are_none() -> None:
    texts = ("", "x", "20211301", "___", "12345", "31/12/2019", "31.12.19", "12.31.2019")
    assert [moment(text) for text in texts] == [None] * len(texts)
    order = moment("3")
    assert order is not None and (order.first, order.last, order.day) == (3.0, 3.0, None)


def test_the_newest_earlier_study_is_the_prior() -> None:
    found = joined(
        [
            (row("c", "s3"), "20200301", ""), (row("a", "s1"), "20200101", ""), (row("b", "s2"), "20200201", ""),
            (row("b-lateral", "s2", "lateral"), "20200201", ""), (row("other", "s9", subject="q"), "20200220", ""),
        ],
        {
            "s2": Sections("findings of b", "impression", "cough", "two views", "none"),
            "s3": Sections(indication="fall"),
        },
    )  # fmt: skip
    assert found["c"] == Context(None, Path("/x/b"), "findings of b", "fall", days=29)
    assert found["b"] == Context(
        Path("/x/b-lateral"), Path("/x/a"), "", "cough", "two views", "none", "impression", days=31
    )
    assert found["a"] == Context()
    assert found["other"] == Context()


@pytest.mark.parametrize(
    ("times", "prior"),
    [
        (("080000", "080001"), True),
        (("080001", "080000"), False),
        (("080000", "080000"), False),  # not strictly earlier
        (("", "080000"), False),  # on the same day, at an unknown time
        (("080000", ""), False),
    ],
)
def test_studies_of_one_day_are_ordered_by_time(times: tuple[str, str], prior: bool) -> None:
    found = joined([(row("a", "s1"), "20200101", times[0]), (row("b", "s2"), "20200101", times[1])])
    assert (found["b"].prior is not None) is prior
    assert found["b"].days == (0 if prior else None)


def test_a_study_that_lasts_into_the_next_one_is_no_prior() -> None:
    found = joined(
        [
            (row("a", "s1"), "20200101", "080000"), (row("a2", "s1", "lateral"), "20200101", "090000"),
            (row("b", "s2"), "20200101", "083000"),
        ]
    )  # fmt: skip
    assert found["b"].prior is None


def test_a_prior_is_frontal_dated_and_of_the_same_split() -> None:
    images = [
        (row("lateral", "s1", "lateral"), "20200104", ""), (row("undated", "s2"), "", ""),
        (row("test", "s3", split="test"), "20200103", ""), (row("ap", "s4", "AP"), "20200102", ""),
        (row("pa", "s4", "PA"), "20200102", ""), (row("now", "s5"), "20200105", ""),
    ]  # fmt: skip
    assert joined(images)["now"].prior == Path("/x/pa")  # PA before AP, whatever their order
    assert joined(images)["undated"].prior is None
    assert joined(images)["test"].prior is None


def test_what_a_table_says_itself_stays() -> None:
    own = Context(prior=Path("/y/own.png"), indication="own")
    pairs = [Pair(row("b", "s2"), "text", context=own)]
    images = [Image(row("a", "s1"), moment("20200101")), Image(row("b", "s2"), moment("20200201"))]
    texts = {("d", "p", "s1"): Sections("earlier"), ("d", "p", "s2"): Sections("text", "all well", "cough")}
    (pair,) = join(pairs, images, texts).pairs
    assert pair.context == Context(prior=Path("/y/own.png"), indication="own", impression="all well")


def test_a_table_of_studies_is_written_and_read_again(tmp_path: Path) -> None:
    context = Context(tmp_path / "l.png", Path("/elsewhere/p.png"), "was clear", "cough", "PA", "none of it", "ok", 3)
    pairs = [Pair(row("a", "s1"), "text", context=context), Pair(row("b", "s2"), "text")]
    for name in ("t.jsonl", "t.csv"):
        write_pairs(pairs, tmp_path / name)
        assert [pair.context for pair in read_pairs(tmp_path / name)] == [context, Context()]
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert (first["lateral"], first["prior"], first["days"]) == ("l.png", "/elsewhere/p.png", 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior": "a.png"}, "the prior image is the image itself"),
        ({"lateral": "a.png"}, "the lateral image is the image itself"),
        ({"prior": "other.png"}, "the prior image is one of another subject, see row 2"),
        ({"prior": "test.png"}, "the prior image is one of another split, see row 3"),
        ({"lateral": "earlier.png"}, "the lateral image is one of another study, see row 4"),
        ({"prior": "earlier.png", "days": "-3"}, "not earlier"),
        ({"days": "soon"}, "no number"),
        ({"days": "inf"}, "no number"),
    ],
    ids=lambda one: "" if isinstance(one, dict) else str(one)[:30],
)
def test_priors_of_others_are_refused(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    base = {"text": "x", "subject": "p", "study": "s1", "split": "train"}
    rows = [
        base | {"image": "a.png"} | changed,
        base | {"image": "other.png", "subject": "q", "study": "s7"},
        base | {"image": "test.png", "split": "test", "study": "s8"},
        base | {"image": "earlier.png", "study": "s0"},
    ]
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(LlavaRadError, match=message) as caught:
        read_pairs(file)
    assert "row 1 " in str(caught.value)


def test_a_table_of_own_studies_is_joined_by_its_dates(tmp_path: Path) -> None:
    """A CSV in PadChest's columns: dates, patients, projections; laterals are rows of their own."""
    lines = [
        "ImageID,StudyDate_DICOM,StudyID,PatientID,Projection,Report",
        "1.png,20100101,s1,p1,PA,normal", "2.png,20100101,s1,p1,L,normal", "3.png,20110101,s2,p1,PA,derrame nuevo",
        "4.png,20110101,s3,p2,AP,normal",
    ]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    for number in range(1, 5):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    found = DATASETS["table"].find(places(tmp_path / "t.csv"))
    contexts = {pair.row.path.name: pair.context for pair in found.pairs}
    assert contexts == {
        "1.png": Context(lateral=tmp_path / "2.png"),
        "3.png": Context(prior=tmp_path / "1.png", prior_report="normal", days=365),
        "4.png": Context(),
    }


def test_dates_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Day and month of 01/02/2019 can be either; 31.12.2019 is the last day of the year, 15 days before 15 January."""
    lines = [
        "image,patient,study,view,date,findings", "1.png,007,a,PA,31.12.2019,first", "2.png,007,b,PA,15.1.2020,second",
        "3.png,008,c,PA,01/02/2019,third", "4.png,,d,PA,,fourth",
    ]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    for number in range(1, 5):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    said: list[str] = []
    found = DATASETS["table"].find(replace(places(tmp_path / "t.csv"), say=said.append))
    assert [(pair.row.subject, pair.context.days) for pair in found.pairs] == [
        ("007", None), ("007", 15), ("008", None), ("", None),
    ]  # fmt: skip
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings[0] == "warning: column 'patient': no patient in 1 rows: 4; each counts as a patient of its own"
    assert warnings[1].startswith("warning: no date is read in 1 rows: 3;") and len(warnings) == 2


COMPARING = (
    "The effusion is unchanged.", "Stable cardiomegaly.", "No change since the prior study.", "New left effusion.",
    "Compared to the previous radiograph, the lungs are clear.", "The right effusion has resolved.",
    "Interval removal of the tube.", "The catheter has been removed.", "Pneumonia has worsened.",
    "There is no longer a pneumothorax.", "Again seen is a granuloma.", "The opacity persists.",
    "Effusion is larger than before.", "Improved aeration.", "Increasing consolidation.",
)  # fmt: skip
DESCRIBING = (
    "The lungs are clear.", "Degenerative changes of the spine.", "Increased interstitial markings.", "Prior CABG.",
    "Chronic fracture.", "Old granulomatous disease.", "The heart is enlarged.", "Prior granulomatous infection.",
    "No acute abnormality.", "Decreased lung volumes.", "Postsurgical changes of the right lung.",
)  # fmt: skip


@pytest.mark.parametrize("sentence", COMPARING)
def test_sentences_that_compare(sentence: str) -> None:
    assert compares(sentence)


@pytest.mark.parametrize("sentence", DESCRIBING)
def test_sentences_that_describe(sentence: str) -> None:
    assert not compares(sentence)


def test_only_sentences_that_compare_are_left_out() -> None:
    text = "Heart size is 5.5 cm. The effusion is unchanged. No pneumothorax."
    assert without_comparisons(text) == "Heart size is 5.5 cm. No pneumothorax."
    assert comparing(text) == ["The effusion is unchanged."]
    assert without_comparisons("Stable.") == ""
