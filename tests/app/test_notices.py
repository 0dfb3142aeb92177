"""Notices: what is loud, what is quiet, and where they appear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import encoder.reader
from app import notices
from app.store import Store
from encoder.reader.admission import OVERRIDDEN
from encoder.reader.information import WARNING
from llava_rad.outputs.compose import UNFAMILIAR
from tests.app.reviews import drafted, study_of, taken


@pytest.mark.parametrize(
    "text",
    [
        UNFAMILIAR,
        "the image has burned-in text, which may show the patient's identity",
        "the image was mirrored: its patient orientation has left and right exchanged",
        "the image was rotated 90 degrees clockwise to stand upright, by its patient orientation",
        "PresentationLUTShape contradicts the photometric interpretation, which was followed",
        "the detector image was flipped or rotated without stated orientation: left and right are not checked",
        "the stated view is none that this reader knows: it may be no frontal view",
        "decubitus view: the patient lies on a side",
        "the draft was stopped before its end",
        "the report was cut off after 256 tokens",
        WARNING + "it has hardly any contrast, or few grey levels",
        OVERRIDDEN + "the image shows a body part other than the chest",
        "a warning that nobody has classified yet",
    ],
)
def test_what_may_change_the_reading_is_loud(text: str) -> None:
    assert notices.level_of(text) == "loud"


@pytest.mark.parametrize(
    "text",
    [
        "the view (PA, AP, lateral) is not stated",
        "the patient orientation is not stated: left and right are not checked",
        "a picture file states no view, polarity or orientation: none of them is checked",
        "the modality is not stated",
        "the body part is not stated",
        "the file has no DICOM preamble",
        "colour picture with equal channels: read as grey",
        notices.DEMONSTRATION,
    ],
)
def test_what_a_header_lacks_is_quiet(text: str) -> None:
    assert notices.level_of(text) == "quiet"


def test_every_quiet_beginning_is_one_of_a_warning() -> None:
    folders = [Path(encoder.reader.__path__[0]), Path(encoder.reader.__path__[0]).parents[1] / "llava_rad" / "outputs"]
    source = "".join(file.read_text() for folder in folders for file in folder.glob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for start in (*notices._TECHNICAL, *notices._NOT_STATED):
        assert start in source, start


def test_notices_of_a_study() -> None:
    unstated, mirrored = "the view (PA, AP, lateral) is not stated", "the image was mirrored: exchanged"
    found = notices.of(
        [unstated],
        lateral={"warnings": [f"{OVERRIDDEN}the image is a lateral view, but a frontal view is needed", mirrored]},
        prior={"warnings": [unstated]},
        further=[{"warnings": [mirrored, f"{OVERRIDDEN}the image is an oblique view, but a frontal view is needed"]}],
        draft=[unstated, UNFAMILIAR],
        demonstration=True,
    )
    assert [(one["level"], one["about"], one["text"]) for one in found] == [
        ("loud", "draft", UNFAMILIAR), ("loud", "lateral", mirrored), ("loud", "further", mirrored),
        ("quiet", "draft", notices.DEMONSTRATION), ("quiet", "image", unstated), ("quiet", "prior", unstated),
    ]  # fmt: skip
    assert notices.line(found[1]) == f"Lateral: {mirrored}" and notices.line(found[4]) == unstated


def test_no_notice_speaks_of_the_command_line() -> None:
    (found,) = notices.of([f"{OVERRIDDEN}the image shows a body part other than the chest"])
    assert found["text"] == "read although it was refused: the image shows a body part other than the chest"


def test_a_draft_without_text_is_named(store: Store) -> None:
    study = study_of(store)
    store.jobs.add("ann", study)
    store.jobs.finish(taken(store), "done", text="")
    assert {"level": "loud", "about": "draft", "text": "the model wrote nothing"} in store.state("ann", study)[
        "notices"
    ]
    other = drafted(store, "One.")
    store.jobs.add("ann", other)
    store.jobs.stop("ann", other)
    assert [one["text"] for one in store.state("ann", other)["notices"]] == ["look", notices.DEMONSTRATION]
