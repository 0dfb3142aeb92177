"""Measurements: values by hand, undoable, and part of the signed version."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from app import exports, measurements, research_set
from app.images import ImageFolder
from app.review import ReviewError
from app.store import Store
from encoder.reader.identity import Identity
from encoder.reader.sandbox_worker import read_image
from tests.app.reviews import FACTS, MODEL, act, drafted, taken
from tests.encoder.dicom_files import dataset, to_bytes
from tests.llava_rad.outputs.reports import report as written


def study_with(store: Store, spacing: dict[str, Any] | None) -> str:
    image = {"id": "i", "width": 400, "height": 300, "spacing": spacing}
    return store.create("ann", name=None, sha256="c" * 64, facts=FACTS, warnings=[], image=image)


def measured(store: Store, study: str, points: Any, **more: Any) -> dict[str, Any]:
    action = {"kind": "length", "image": "i", "points": points} | more
    found: dict[str, Any] = act(store, study, "measure", **action)["measurements"][-1]
    return found


@pytest.mark.parametrize(
    ("spacing", "value", "unit", "note"),
    [
        ({"mm": 0.2, "at": "patient"}, 10.0, "mm", ""),
        ({"mm": 0.144, "at": "detector"}, 7.2, "mm", "at the detector: the structure itself is smaller"),
        ({"mm": 0.2, "at": "unknown"}, 10.0, "mm", "the file does not tell whether its pixel spacing was calibrated"),
        (None, 50.0, "px", "the file states no pixel spacing"),
    ],
    ids=["calibrated", "detector", "unknown", "none"],
)
def test_a_length_is_the_distance_times_the_spacing(
    store: Store, spacing: dict[str, Any] | None, value: float, unit: str, note: str
) -> None:
    study = study_with(store, spacing)
    found = measured(store, study, [[10, 20.5], [40, 60.5]])  # 30 and 40: 50 pixels
    assert (found["value"], found["unit"], found["note"]) == (value, unit, note)
    assert found["points"] == [[10.0, 20.5], [40.0, 60.5]]


def test_a_cardiothoracic_ratio_needs_no_spacing(store: Store) -> None:
    study = study_with(store, None)
    points = [[100, 200], [250, 200], [50, 220], [350, 220]]
    found = measured(store, study, points, kind="cardiothoracic", note=" portable\tfilm ")
    assert (found["value"], found["unit"], found["note"]) == (0.5, "ratio", "portable film")


def test_measurements_are_undone_and_removed_like_other_steps(store: Store) -> None:
    study = drafted(store, "Clear.")
    store.set_context("ann", study, "prior", {"sha256": "e" * 64, "image": {"id": "p", "width": 9, "height": 9}})
    first = measured(store, study, [[0, 0], [9, 9]], image="p")
    act(store, study, "accept", sentence="s1")
    second = measured(store, study, [[0, 0], [0, 9]], image="p")
    state = act(store, study, "unmeasure", id=first["id"])
    assert state["measurements"] == [second]
    assert act(store, study, "undo")["measurements"] == [first, second]
    state = act(store, study, "undo")
    assert state["measurements"] == [first] and state["sentences"][0]["state"] == "accepted"
    signed = act(store, study, "sign")
    assert signed["signed"][0]["document"]["measurements"] == [first]
    with pytest.raises(ReviewError, match="signed"):
        measured(store, study, [[0, 0], [9, 9]], image="p")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "area"}, "no such kind"),
        ({"image": "another"}, "no such image"),
        ({"points": [[1, 2]]}, "needs 2 points"),
        ({"points": [[1, 2], [3, 4], [5, 6]]}, "needs 2 points"),
        ({"points": "1,2"}, "needs 2 points"),
        ({"points": [[1, 2], [3]]}, "pair of numbers"),
        ({"points": [[1, 2], [400.5, 4]]}, "outside"),
        ({"points": [[-0.1, 2], [3, 4]]}, "outside"),
        ({"points": [[1, 2], [float("nan"), 4]]}, "outside"),
        ({"points": [[1, 2], [True, 4]]}, "outside"),
        ({"points": [[1, 2], ["3", 4]]}, "outside"),
        ({"points": [[1, 2], [1, 2]]}, "same point"),
        ({"points": [[1, 2], [1.001, 2]]}, "same point"),
        ({"kind": "cardiothoracic", "points": [[1, 2], [3, 4], [5, 5], [5, 5]]}, "same point"),
        ({"note": 7}, "is a text"),
        ({"note": "x" * 201}, "at most 200"),
    ],
    ids=[str(number) for number in range(16)],
)
def test_wrong_measurements_are_refused_and_change_nothing(store: Store, changes: Any, reason: str) -> None:
    study = study_with(store, None)
    before = store.state("ann", study)
    with pytest.raises(ReviewError, match=reason):
        measured(store, study, **{"points": [[1, 2], [3, 4]]} | changes)
    assert store.state("ann", study) == before


def test_a_measurement_that_is_not_there_cannot_be_removed(store: Store) -> None:
    study = study_with(store, None)
    with pytest.raises(ReviewError, match="no such measurement"):
        act(store, study, "unmeasure", id="m1")


def test_a_measurement_is_changed_in_its_place_and_that_is_undone(store: Store) -> None:
    study = study_with(store, {"mm": 0.2, "at": "patient"})
    first = measured(store, study, [[0, 0], [30, 40]], note="left lung")
    second = measured(store, study, [[1, 2], [3, 4]])
    state = act(store, study, "measure", id=first["id"], kind="length", image="i", points=[[0, 0], [60, 80]])
    changed = first | {"points": [[0.0, 0.0], [60.0, 80.0]], "value": 20.0}
    assert state["measurements"] == [changed, second]
    assert act(store, study, "undo")["measurements"] == [first, second]
    assert act(store, study, "redo")["measurements"] == [changed, second]
    for wrong, reason in (
        ({"id": "m1"}, "no such measurement"),
        ({"kind": "cardiothoracic", "points": [[1, 2], [3, 4], [5, 6], [7, 8]]}, "keeps its kind"),
        ({"points": [[1, 2], [1, 2]]}, "same point"),
    ):
        action = {"id": first["id"], "kind": "length", "image": "i", "points": [[1, 2], [3, 4]]} | wrong
        with pytest.raises(ReviewError, match=reason):
            act(store, study, "measure", **action)
    assert store.state("ann", study)["measurements"] == [changed, second]


def test_there_is_a_largest_number_of_measurements(store: Store) -> None:
    study = study_with(store, None)
    for _ in range(50):
        measured(store, study, [[1, 2], [3, 4]])
    with pytest.raises(ReviewError, match="at most 50"):
        measured(store, study, [[1, 2], [3, 4]])


# hospital formats


ORIENTATIONS = ("L\\F", "R\\F", "R\\H", "L\\H", "F\\R", "H\\L", "F\\L", "H\\R")


@pytest.mark.parametrize("spacing", [[0.2, 0.2], [0.4, 0.2], [0.2, 0.4]], ids=["square", "tall", "wide"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=[one.replace("\\", "") for one in ORIENTATIONS])
def test_points_go_back_to_the_pixels_of_the_file(orientation: str, spacing: list[float]) -> None:
    values = np.full((120, 90), 200)
    values[:60, :45] = np.arange(60 * 45).reshape(60, 45) // 30
    values[86:89, 22:25] = 4095  # its middle: column 23.5, row 87.5
    image = read_image(
        to_bytes(dataset(values, PatientOrientation=orientation.split("\\"), PixelSpacing=spacing)), force=True
    )
    assert image.spacing is not None and image.spacing.mm == 0.2
    rows, columns = np.nonzero(image.pixels > 3000)
    height, width = image.pixels.shape
    found = measurements.file_point(
        columns.mean() + 0.5, rows.mean() + 0.5, {"width": width, "height": height}, image.facts.to_dict()
    )
    assert found == pytest.approx((23.5, 87.5), abs=0.3)


def test_documents_have_the_measurements_of_their_version_in_pixels_of_the_files(store: Store) -> None:
    identity = Identity("1.2.1", "1.2.2", "1.2.3", "1.2.4", {"PatientID": "7"}).to_dict()
    facts = FACTS | {"rows": 400, "columns": 300, "rotated": 90, "mirrored": True}
    image = {"id": "i", "width": 400, "height": 300, "spacing": {"mm": 0.5, "at": "patient"}, "identity": identity}
    study = store.create("ann", name=None, sha256="c" * 64, facts=facts, warnings=[], image=image)
    lateral = {"sha256": "d" * 64, "facts": FACTS | {"rows": 9, "columns": 9}, "warnings": [],
               "image": {"id": "l", "width": 9, "height": 9}}  # fmt: skip
    store.set_context("ann", study, "lateral", lateral)
    store.jobs.add("ann", study)
    report = written("c" * 64, "Clear.").model_dump(mode="json")
    store.jobs.finish(taken(store), "done", text="Clear.", sentences=["Clear."], report=report, model=MODEL)
    measured(store, study, [[10, 20], [10, 60]])
    measured(store, study, [[1, 1], [4, 5]], image="l")
    act(store, study, "accept", sentence="s1")
    act(store, study, "sign")
    act(store, study, "reopen")
    first = measured(store, study, [[100, 200], [250, 200], [50, 220], [350, 220]], kind="cardiothoracic")
    state = store.state("ann", study)
    now, before = exports.document(state), exports.document(state, 1)
    assert [len(one.measurements) for one in (now, before)] == [3, 2]
    length, other = before.measurements
    # mirrored back to x 390, then turned back: column y, row width - x
    assert (length.points, length.lengths, length.unit) == (((20.0, 10.0), (60.0, 10.0)), (20.0,), "mm")
    assert length.image.instance_uid == "1.2.3" and other.image.study_uid == "1.2.1" and other.unit == "px"
    assert now.measurements[2].ratio == first["value"] == 0.5 and now.measurements[2].lengths == (75.0, 150.0)
    assert now.review is not None and now.review.predecessor is not None
    assert now.review.predecessor.uid("report") == before.uid("report") != now.uid("report")
    assert before.review is not None and before.review.predecessor is None
    assert exports.report_json(state)["measurements"] == state["measurements"]
    text = exports.report_text(state, 1)
    assert "MEASUREMENTS:\n- Length 20.0 mm\n- Length 5.0 px (the file states no pixel spacing)\n" in text
    store.set_context("ann", study, "lateral", None)
    assert len(exports.document(store.state("ann", study)).measurements) == 2, "its image is gone"


def test_a_research_set_has_measurements_of_its_own_images_and_no_identifiers(store: Store, tmp_path: Path) -> None:
    images = ImageFolder(tmp_path / "images")
    picture = read_image(to_bytes(dataset(PatientOrientation=["R", "F"], PixelSpacing=[0.5, 0.5])), force=True)
    identity = Identity("1.2.771", "1.2.772", "1.2.773", "1.2.840.10008.5.1.4.1.1.1", {"PatientID": "P771"}).to_dict()

    def part(sha256: str) -> dict[str, Any]:
        kept = images.keep(picture) | {"identity": identity}
        return {"image": kept, "facts": picture.facts.to_dict(), "warnings": [], "sha256": sha256}

    study = store.create("ann", name=None, **part("c" * 64))
    lateral = part("d" * 64)
    store.set_context("ann", study, "lateral", lateral)
    store.jobs.add("ann", study)
    report = written("c" * 64, "Clear.").model_dump(mode="json")
    store.jobs.finish(taken(store), "done", text="Clear.", sentences=["Clear."], report=report, model=MODEL)
    image = store.state("ann", study)["image"]["id"]
    measured(store, study, [[10, 20], [40, 60]], image=image)
    measured(store, study, [[1, 1], [4, 5]], image=lateral["image"]["id"])
    act(store, study, "accept", sentence="s1")
    for _ in range(2):
        act(store, study, "sign")
        act(store, study, "reopen")
    act(store, study, "sign")
    research_set.write(store, images, "ann", tmp_path / "set.zip", dicom=True)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert all(word not in content for content in contents.values() for word in (b"1.2.77", b"P771"))
    (record,) = map(json.loads, contents["reports.jsonl"].splitlines())
    assert [one["value"] for one in record["measurements"]] == [25.0]
    found = pydicom.dcmread(io.BytesIO(contents[f"reports/{study}.dcm"]))
    texts = [one.TextValue for one in found.ContentSequence if one.ValueType == "TEXT"]
    assert [text for text in texts if text.startswith("Measurement")] == [
        "Measurement: Length 25.0 mm (the file does not tell whether its pixel spacing was calibrated)"
    ]
    assert "PredecessorDocumentsSequence" not in found
