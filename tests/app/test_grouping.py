"""Keys of studies and patients: equal where identifiers are, unreadable without the installation's key."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import stat
from pathlib import Path

import pytest

from app.grouping import Grouping
from app.store import Store
from encoder.errors import LlavaRadError
from encoder.reader.identity import Identity
from scripts.soak.serving import served
from tests.app.reviews import FACTS
from tests.llava_rad import small_files

STUDY = "1.2.840.1"


def identity(study: str = STUDY, **attributes: str) -> Identity:
    return Identity(study, "1.2.1", "1.2.2", "1.2.3", {"PatientID": "4711"} | attributes)


@pytest.fixture
def grouping(tmp_path: Path) -> Grouping:
    return Grouping(tmp_path / "key")


def test_the_key_is_private_random_and_lasts(tmp_path: Path) -> None:
    first = Grouping(tmp_path / "one").of(identity())
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert Grouping(tmp_path / "one").of(identity()) == first
    other = Grouping(tmp_path / "two").of(identity())
    assert None not in (first.study, first.patient) and {first.study, first.patient}.isdisjoint(
        {other.study, other.patient}
    )
    (tmp_path / "two").write_bytes(b"short")
    with pytest.raises(LlavaRadError, match="damaged"):
        Grouping(tmp_path / "two")


def test_another_key_than_that_of_the_studies_is_noticed_once(tmp_path: Path) -> None:
    """A restored database without the key of its backup: earlier studies of a patient would be missed silently."""
    key, kept = tmp_path / "key", tmp_path / "kept"
    store = Store(tmp_path / "reviews.sqlite")
    assert not store.has_other_key(Grouping(key)), "a new folder"
    first = Grouping(key)
    store.create(
        "ann", name=None, sha256="c" * 64, facts=FACTS, warnings=[], image={"id": "i"}, group=first.of(identity())
    )
    assert not store.has_other_key(first)
    key.rename(kept)
    assert store.has_other_key(Grouping(key))
    assert not store.has_other_key(Grouping(key)), "said once"
    kept.replace(key)
    assert store.has_other_key(Grouping(key)), "studies of the time between have another one"
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        connection.execute("PRAGMA application_id = 0")  # written by an earlier version
    assert not store.has_other_key(Grouping(key))
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        connection.execute("PRAGMA application_id = 0")
    key.unlink()
    assert store.has_other_key(Grouping(key))


def test_a_server_whose_key_is_gone_says_so(tmp_path: Path) -> None:
    image = small_files.dicom(tmp_path / "image.dcm", StudyInstanceUID=STUDY, PatientID="4711")
    with served(tmp_path, "--no-model") as running:
        running.client().study(image.read_bytes())
        (running.data / "key").unlink()
    assert "warning" not in running.log.read_text()
    with served(tmp_path, "--no-model") as running:
        pass
    assert "put back the key of the same backup" in running.log.read_text()


def test_the_keys_are_hmacs_of_the_identifiers(grouping: Grouping, tmp_path: Path) -> None:
    key = (tmp_path / "key").read_bytes()
    expected = hmac.new(key, b"study\x001.2.840.1\x004711\x00", hashlib.sha256).hexdigest()
    assert grouping.of(identity()).study == expected


@pytest.mark.parametrize(
    ("changes", "study", "patient"),
    [
        ({}, True, True),
        ({"study": "1.2.840.2"}, False, True),
        ({"PatientID": "4712"}, False, False),
        ({"IssuerOfPatientID": "Ward 9"}, False, False),
        ({"PatientBirthDate": "19500101"}, True, False),
        ({"PatientName": "Doe^Jane"}, True, True),
        ({"AccessionNumber": "7", "StudyDate": "20200101"}, True, True),
    ],
    ids=["same", "study", "id", "issuer", "birth", "name", "date"],
)
def test_images_and_studies_belong_together_by_these(
    grouping: Grouping, changes: dict[str, str], study: bool, patient: bool
) -> None:
    first, second = grouping.of(identity()), grouping.of(identity(**changes))
    assert (first.study == second.study, first.patient == second.patient) == (study, patient)


NOBODY = [
    "", "0", "0000", "-", "ANON", "Anonymous^1", "anon123", "UNKNOWN", "n/a", "XXXX", "99999", "Test", "DEID42",
    "Patient-ID",
]  # fmt: skip
PEOPLE = ["10", "4711", "123456", "P-0001", "Tester", "Nathan", "10000032", "patient00001", "AA1"]


@pytest.mark.parametrize("name", NOBODY)
def test_ids_that_stand_for_nobody_identify_no_patient(grouping: Grouping, name: str) -> None:
    found = grouping.of(identity(PatientID=name, StudyDate="20200101"))
    assert (found.patient, found.moment) == (None, None) and found.study is not None


@pytest.mark.parametrize("name", PEOPLE)
def test_ids_of_people_are_not_taken_for_nobodys(grouping: Grouping, name: str) -> None:
    assert grouping.of(identity(PatientID=name)).patient is not None


def test_only_the_order_in_time_of_a_patients_studies_remains(grouping: Grouping) -> None:
    def moment(day: str, time: str = "", patient: str = "4711") -> int:
        found = grouping.of(identity(PatientID=patient, StudyDate=day, StudyTime=time)).moment
        assert found is not None
        return found

    moments = [moment("19991231"), moment("20000101"), moment("20000101", "09"), moment("20000101", "0930"),
               moment("20000101", "093001.5")]  # fmt: skip
    assert [later - moments[0] for later in moments] == [0, 86400, 118800, 120600, 120601]
    assert moment("20000101") != moment("20000101", patient="4712"), "patients have shifts of their own"
    assert grouping.of(identity()).moment is None


def test_pictures_of_a_folder_are_a_study_if_their_names_say_so(grouping: Grouping) -> None:
    names = [
        "patient1/study1/view1_frontal.jpg", "patient1/study1/view2_lateral.jpg",
        "patient1/study2/view1_frontal.jpg",
        "p2/PA.png", "p2/LL.png", "p2/LAT.png",
        "flat/a_frontal.png", "flat/b_frontal.png", "flat/b_lateral.png",
        "numbers/1.png", "numbers/2.png",
        "mixed/frontal.png", "mixed/7.png",
        "both/lateral1.png", "both/lateral2.png",
    ]  # fmt: skip
    found = grouping.folders(names)
    keys = [grouping.named(one) for one in found]
    assert keys[0].study is not None and keys[0].study == keys[1].study
    assert [one.lateral for one in keys[:2]] == [False, True]
    assert keys[3].study == keys[4].study == keys[5].study != keys[0].study
    assert [at for at, one in enumerate(found) if one is None] == [2, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert grouping.folders(names)[0] != found[0], "another batch is of other studies"
