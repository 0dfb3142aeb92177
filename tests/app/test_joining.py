"""Images of one study become one study, and earlier studies of a patient its priors."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from app.batches import Batches
from app.grouping import Grouping
from app.images import ImageFolder
from app.readers import Readers
from app.review import ReviewError, StaleError
from app.store import Store
from app.uploads import Uploads
from encoder.errors import ReadError
from tests.app.reviews import MODEL, act, taken
from tests.llava_rad import small_files


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with Readers(each=1) as running:
        yield running


@dataclass
class Parts:
    """Store and uploads of one folder, and a maker of DICOM files."""

    folder: Path
    readers: Readers
    takes: tuple[str, ...] = ()
    made: int = 0
    names: bool = False

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "reviews.sqlite")
        self.uploads = Uploads(
            self.folder / "incoming", self.folder / "batches", self.store, ImageFolder(self.folder / "images"),
            self.readers, Grouping(self.folder / "key"), lambda: None, takes=lambda: self.takes,
            keep_names=self.names,
        )  # fmt: skip

    def file(self, study: str = "a", patient: str = "4711", **attributes: Any) -> Path:
        """Write an image, different from all others, of a study."""
        self.made += 1
        uids = {"StudyInstanceUID": generate_uid(entropy_srcs=[study, patient]), "SeriesInstanceUID": generate_uid()}
        return small_files.dicom(
            self.folder / f"{self.made}.dcm", seed=self.made, **uids, PatientID=patient, **attributes
        )

    def open(self, path: Path, **more: Any) -> dict[str, Any]:
        return self.store.state("ann", self.uploads.study("ann", path, **more).study)

    def study(self, study: str, date: str, **attributes: Any) -> str:
        return str(self.open(self.file(study, StudyDate=date, **attributes))["id"])

    def signed(self, study: str, text: str) -> None:
        act(self.store, study, "add", text=text)
        act(self.store, study, "sign")

    def read(self, batch: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            (found,) = [one for one in self.store.batches.progress("ann") if one["id"] == batch]
            if found["read"] + len(found["failed"]) == found["total"]:
                return found
            time.sleep(0.01)
        raise AssertionError("the batch does not end")

    def states(self) -> list[dict[str, Any]]:
        return [self.store.state("ann", study) for study in self.store.studies("ann")]


@pytest.fixture
def parts(tmp_path: Path, readers: Readers) -> Parts:
    return Parts(tmp_path, readers)


def test_images_of_one_study_join_it_in_their_roles(parts: Parts) -> None:
    first = parts.open(parts.file())
    for view in ("LL", "RL", "PA", "LLO"):
        opened = parts.uploads.study("ann", parts.file(ViewPosition=view))
        assert opened == (first["id"], True), view
    state = parts.store.state("ann", first["id"])
    assert state["lateral"]["facts"]["view"] == "lateral"
    assert [one["facts"]["view"] for one in state["further"]] == ["lateral", "PA", "oblique"]
    assert state["sha256"] == first["sha256"] and state["revision"] == first["revision"] + 4
    assert not any("refusal" in text for one in [state["lateral"], *state["further"]] for text in one["warnings"])
    assert parts.store.worklist("ann")["studies"][0]["images"] == 5
    ids = {one["image"]["id"] for one in [state, state["lateral"], *state["further"]]}
    assert len(ids) == 5


def test_other_studies_patients_and_users_are_not_joined(parts: Parts) -> None:
    first = parts.open(parts.file())["id"]
    found = {
        parts.open(parts.file("b"))["id"], parts.open(parts.file(patient="4712"))["id"],
        parts.uploads.study("bob", parts.file()).study,
    }  # fmt: skip
    assert len(found | {first}) == 4


def test_a_lateral_by_itself_is_refused_and_other_images_of_a_study_too(parts: Parts) -> None:
    with pytest.raises(ReadError) as refused:
        parts.open(parts.file(ViewPosition="LL"))
    assert (refused.value.reason, refused.value.forcible) == ("lateral", True)
    parts.open(parts.file())
    with pytest.raises(ReadError, match="body part"):
        parts.open(parts.file(ViewPosition="LL", BodyPartExamined="HAND"))
    with pytest.raises(ReadError, match="raw detector"):
        parts.open(parts.file(ViewPosition="LL", PresentationIntentType="FOR PROCESSING"))
    assert len(parts.states()) == 1 and parts.states()[0]["lateral"] is None


def test_the_same_file_again_is_a_study_of_its_own_and_the_next_image_joins_the_newer_one(parts: Parts) -> None:
    file = parts.file()
    first, second = parts.uploads.study("ann", file), parts.uploads.study("ann", file)
    assert not first.joined and not second.joined and first.study != second.study
    assert parts.uploads.study("ann", parts.file(ViewPosition="LL")) == (second.study, True)


def test_a_signed_or_discarded_study_is_not_joined(parts: Parts) -> None:
    first = parts.open(parts.file())["id"]
    parts.signed(first, "Clear.")
    second = parts.open(parts.file())["id"]
    assert second != first
    act(parts.store, second, "discard")
    assert parts.open(parts.file())["id"] not in (first, second)


def test_a_full_study_is_followed_by_another(parts: Parts) -> None:
    found = [parts.open(parts.file())["id"] for _ in range(22)]
    assert len(set(found[:21])) == 1 and found[21] != found[0]


def test_an_image_can_be_added_to_a_chosen_study(parts: Parts) -> None:
    study = parts.open(parts.file())["id"]
    picture = small_files.picture(parts.folder / "x.png", seed=90)
    parts.uploads.add("ann", study, picture)
    parts.uploads.add("ann", study, parts.file(ViewPosition="LL"))
    state = parts.store.state("ann", study)
    assert state["lateral"] is not None and [one["facts"]["format"] for one in state["further"]] == ["png"]
    for other, reason in ((parts.file(patient="4712"), "another patient"), (parts.file("b"), "another study")):
        with pytest.raises(ReadError, match=reason) as refused:
            parts.uploads.add("ann", study, other)
        assert refused.value.forcible
        parts.uploads.add("ann", study, other, force=True)
    parts.signed(study, "Clear.")
    with pytest.raises(ReviewError, match="signed"):
        parts.uploads.add("ann", study, picture)


def test_a_frontal_image_takes_the_place_of_a_lateral_that_was_forced(parts: Parts) -> None:
    forced = parts.open(parts.file(ViewPosition="LL"), force=True)
    assert any("refusal" in text for text in forced["warnings"])
    parts.store.jobs.add("ann", forced["id"])
    parts.store.jobs.finish(taken(parts.store), "done", text="One.", sentences=["One."], model=MODEL, inputs={})
    state = parts.open(parts.file())
    assert state["id"] == forced["id"] and state["facts"]["view"] == "PA" and state["sha256"] != forced["sha256"]
    assert state["lateral"]["sha256"] == forced["sha256"] and state["lateral"]["image"] == forced["image"]
    assert not any("refusal" in text for text in state["warnings"] + state["lateral"]["warnings"])
    assert state["draft"]["state"] == "queued", "the draft was of the lateral"
    parts.store.jobs.finish(taken(parts.store), "done", text="One.", sentences=["One."], model=MODEL, inputs={})
    act(parts.store, state["id"], "accept", sentence="s1")
    assert parts.open(parts.file())["sha256"] == state["sha256"]


def test_a_further_image_can_be_removed(parts: Parts) -> None:
    study = parts.open(parts.file())["id"]
    parts.open(parts.file())
    state = parts.open(parts.file())
    first, second = (one["image"]["id"] for one in state["further"])
    with pytest.raises(StaleError):
        parts.store.remove_further("ann", study, first, revision=1)
    parts.store.remove_further("ann", study, first, revision=state["revision"])
    state = parts.store.state("ann", study)
    assert [one["image"]["id"] for one in state["further"]] == [second]
    with pytest.raises(ReviewError, match="no such further image"):
        parts.store.remove_further("ann", study, first, revision=state["revision"])


def test_a_prior_or_lateral_of_another_patient_is_refused(parts: Parts) -> None:
    study = parts.open(parts.file())["id"]
    for kind, view in (("prior", "PA"), ("lateral", "LL")):
        other = parts.file("b", patient="4712", ViewPosition=view)
        with pytest.raises(ReadError, match="another patient"):
            parts.uploads.context_image("ann", study, kind, other)  # type: ignore[arg-type]
        parts.uploads.context_image("ann", study, kind, other, force=True)  # type: ignore[arg-type]
    parts.uploads.context_image("ann", study, "prior", parts.file("b"))


# priors


def test_the_latest_earlier_study_of_the_patient_is_the_prior_with_its_signed_report(parts: Parts) -> None:
    oldest, older = parts.study("a", "20180101"), parts.study("b", "20190101")
    parts.study("c", "20200101", PatientName="Else^Some", PatientBirthDate="19700101")
    parts.signed(older, "No effusion.")
    now = parts.store.state("ann", parts.study("d", "20210101"))
    prior = now["prior"]
    assert (prior["study"], prior["report"], prior["found"], prior["date"]) == (older, "No effusion.", True, None)
    assert prior["image"] == parts.store.state("ann", older)["image"]
    assert now["fields"]["prior_report"] == "No effusion."
    assert parts.store.state("ann", older)["prior"]["study"] == oldest, "it has one of its own"
    assert parts.store.state("ann", oldest)["prior"] is None


def test_studies_that_arrive_out_of_order_get_their_priors(parts: Parts) -> None:
    newest, oldest, middle = (parts.study(name, date) for name, date in
                              (("c", "20210101"), ("a", "20190101"), ("b", "20200101")))  # fmt: skip
    found = {study: (parts.store.state("ann", study)["prior"] or {}).get("study") for study in (newest, oldest, middle)}
    assert found == {newest: middle, oldest: None, middle: oldest}


def test_studies_of_one_day_are_ordered_by_time(parts: Parts) -> None:
    noon = parts.study("b", "20200101", StudyTime="120000")
    morning = parts.study("a", "20200101", StudyTime="0800")
    unknown = parts.study("c", "20200101")
    assert parts.store.state("ann", noon)["prior"]["study"] == morning
    assert parts.store.state("ann", unknown)["prior"] is None


def test_without_dates_only_a_study_signed_before_is_a_prior(parts: Parts) -> None:
    first = parts.open(parts.file("a"))["id"]
    assert parts.open(parts.file("b"))["prior"] is None
    parts.signed(first, "Clear.")
    assert parts.open(parts.file("c"))["prior"]["study"] == first


def test_the_users_choice_of_the_prior_stays(parts: Parts) -> None:
    parts.study("b", "20190101")
    study = parts.study("d", "20210101")
    parts.store.set_context("ann", study, "prior", None)
    parts.study("c", "20200101")
    assert parts.store.state("ann", study)["prior"] is None
    parts.uploads.context_image("ann", study, "prior", parts.file("e"))
    assert parts.store.state("ann", study)["prior"]["found"] is False


def test_a_prior_is_not_exchanged_under_a_decided_report(parts: Parts) -> None:
    earlier = parts.study("b", "20190101")
    study = parts.study("d", "20210101")
    act(parts.store, study, "add", text="Clear.")
    parts.study("c", "20200101")
    assert parts.store.state("ann", study)["prior"]["study"] == earlier


def test_nobodys_studies_and_those_of_others_are_no_priors(parts: Parts) -> None:
    parts.open(parts.file("a", patient="ANONYMOUS", StudyDate="20190101"))
    assert parts.open(parts.file("b", patient="ANONYMOUS", StudyDate="20200101"))["prior"] is None
    parts.uploads.study("bob", parts.file("c", StudyDate="20190101"))
    assert parts.open(parts.file("d", StudyDate="20200101"))["prior"] is None


def test_a_draft_is_written_again_for_an_image_that_the_model_takes(parts: Parts) -> None:
    parts.takes = ("lateral", "prior")
    study = parts.study("b", "20200101")
    parts.store.jobs.add("ann", study)
    parts.store.jobs.finish(taken(parts.store), "done", text="One.", sentences=["One."], model=MODEL, inputs={})
    parts.open(parts.file("b", ViewPosition="LL"))
    assert parts.store.jobs.draft("ann", study)["state"] == "queued"  # type: ignore[index]
    parts.store.jobs.finish(taken(parts.store), "done", text="Two.", sentences=["Two."], model=MODEL, inputs={})
    parts.study("a", "20190101")
    assert parts.store.jobs.draft("ann", study)["state"] == "queued"  # type: ignore[index]
    parts.store.jobs.finish(taken(parts.store), "done", text="Two.", sentences=["Two."], model=MODEL, inputs={})
    act(parts.store, study, "accept", sentence="s1")
    parts.takes = ("further",)
    parts.open(parts.file("b"))
    assert parts.store.jobs.draft("ann", study)["state"] == "done", "decided"  # type: ignore[index]


# batches


def test_a_batch_of_studies_becomes_studies_whatever_the_order_of_its_files(parts: Parts) -> None:
    files = [
        parts.file("a", ViewPosition="LL"), parts.file("b"), parts.file("c", ViewPosition="LL"), parts.file("a"),
        parts.file("b", ViewPosition="RL"), parts.file("a"),
    ]  # fmt: skip
    with zipfile.ZipFile(parts.folder / "studies.zip", "w") as archive:
        for number, file in enumerate([*files, files[1]]):
            archive.write(file, f"{number}.dcm")
    found = parts.read(parts.uploads.unpack("ann", parts.folder / "studies.zip", received=False))
    assert (found["total"], found["read"]) == (7, 6)
    (failed,) = found["failed"]
    assert failed["number"] == 3 and "lateral" in failed["reason"], "its study has no frontal image"
    b, a = parts.states()
    assert a["lateral"] is not None and len(a["further"]) == 1
    assert b["lateral"] is not None and b["further"] == []
    assert found["waiting"] == 2, "one draft for each study"


def test_files_sent_one_by_one_join_too_and_wait_for_what_is_still_to_come(parts: Parts) -> None:
    batch = parts.store.batches.create("ann", 3)
    files = [parts.file("a", ViewPosition="LL"), parts.file("b", ViewPosition="LL"), parts.file("a")]
    parts.uploads.accept("ann", batch, 1, files[0], file_name=None)
    parts.uploads.accept("ann", batch, 2, files[1], file_name=None)
    end = time.monotonic() + 30
    while waits(parts.store.batches) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert parts.states() == []
    parts.uploads.accept("ann", batch, 3, files[2], file_name=None)
    found = parts.read(batch)
    assert (found["read"], [one["number"] for one in found["failed"]]) == (2, [2])
    assert parts.states()[0]["lateral"] is not None


def test_a_lateral_does_not_wait_for_a_file_that_is_refused_or_never_comes(parts: Parts) -> None:
    batch = parts.store.batches.create("ann", 3)
    parts.uploads.accept("ann", batch, 1, parts.file("a", ViewPosition="LL"), file_name=None)
    parts.uploads.refuse("ann", batch, 2, "too large")
    end = time.monotonic() + 30
    while waits(parts.store.batches) < 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    again = Parts(parts.folder, parts.readers)  # the server was killed
    again.uploads.resume()
    assert [one["number"] for one in again.read(batch)["failed"]] == [1, 2, 3]


def test_pictures_of_a_folder_join_by_their_names(parts: Parts) -> None:
    for name in ("p1/LAT", "p1/PA", "p2/frontal", "p3/1", "p3/2"):
        path = parts.folder / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts.made += 1
        small_files.picture(path, seed=parts.made)
    found = parts.read(parts.uploads.folder("ann", parts.folder / "set"))
    assert (found["read"], found["failed"]) == (5, [])
    assert sorted(one["lateral"] is not None for one in parts.states()) == [False, False, False, True]


def test_a_worklist_that_is_started_again_reads_only_new_files(parts: Parts) -> None:
    work = parts.folder / "work"
    (work / "p1").mkdir(parents=True)
    for number, name in enumerate(("p1/LAT", "p1/PA", "a", "same", "as_a")):
        small_files.picture(work / f"{name}.png", seed=2 if name == "as_a" else number)
    parts.file("d").replace(work / "d.dcm")
    first = parts.read(parts.uploads.folder("ann", work))
    assert (first["read"], len(parts.states())) == (6, 4), "one file twice is one study"
    for _ in parts.states():
        parts.store.jobs.finish(taken(parts.store), "done", text="x.", sentences=[])
    signed, discarded, *_ = [one["id"] for one in parts.states()]
    parts.signed(signed, "x.")
    act(parts.store, discarded, "discard")
    again = Parts(parts.folder, parts.readers, made=100)
    small_files.picture(work / "new.png", seed=9)
    found = again.read(again.uploads.folder("ann", work))
    assert (found["read"], found["failed"], found["waiting"]) == (7, [], 1), "only the new one is drafted"
    assert len(again.states()) == 5


@pytest.mark.parametrize("names", [True, False])
def test_a_refused_file_is_named_only_where_names_are_kept(parts: Parts, names: bool) -> None:
    parts = Parts(parts.folder, parts.readers, names=names)
    parts.file(ViewPosition="LL").rename(parts.folder / "Doe.dcm")
    with zipfile.ZipFile(parts.folder / "studies.zip", "w") as archive:
        archive.write(parts.folder / "Doe.dcm", "Doe.dcm")
    (failed,) = parts.read(parts.uploads.unpack("ann", parts.folder / "studies.zip", received=False))["failed"]
    assert failed["reason"].startswith("Doe: ") == ("Doe" in failed["reason"]) == names


def test_a_file_that_is_uploaded_again_in_a_zip_file_is_a_study_of_its_own(parts: Parts) -> None:
    for _ in range(2):
        with parts.uploads.file() as (file, path):
            with zipfile.ZipFile(file, "w") as archive:
                archive.write(small_files.picture(parts.folder / "a.png"), "a.png")
            file.flush()
            parts.read(parts.uploads.unpack("ann", path))
    assert len(parts.states()) == 2


def waits(batches: Batches) -> int:
    query = "SELECT count(*) FROM batch_files WHERE waits_for IS NOT NULL"
    return int(batches._database.read().execute(query).fetchone()[0])
