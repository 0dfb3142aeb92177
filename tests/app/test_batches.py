"""Batches: every accepted file becomes a study or a refusal exactly once, also after a kill."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from pathlib import Path

import pytest

from app.batches import NOT_RECEIVED, BatchFile
from app.grouping import Grouping
from app.review import ReviewError
from app.store import Store
from app.uploads import Uploads
from scripts.soak.serving import picture, served
from tests.app.reviews import FACTS, of_batch, study_of, taken
from tests.llava_rad import small_files

pytestmark = pytest.mark.acceptance(row=30)


def test_a_batch_counts_the_outcomes_of_its_files(store: Store) -> None:
    batch = store.batches.create("ann", 4)
    for number in (1, 2, 4):
        of_batch(store, batch, number)
    store.batches.refuse("ann", batch, 3, sha256="e" * 64, reason="no image")
    store.jobs.finish(taken(store), "done", text="x.", sentences=["x."])
    store.jobs.finish(taken(store), "failed", error="no memory")
    (found,) = store.batches.progress("ann")
    assert (found["total"], found["read"], found["drafted"], found["waiting"]) == (4, 3, 1, 1)
    assert found["failed"] == [{"number": 3, "sha256": "e" * 64, "reason": "no image"}]
    assert store.batches.ended(batch)


def test_no_file_of_a_batch_is_read_twice(store: Store) -> None:
    batch = store.batches.create("ann", 2)
    of_batch(store, batch, 1)
    assert not store.batches.accept("ann", batch, 1, Path("again"), None)
    with pytest.raises(ReviewError, match="already"):
        store.create("ann", name=None, sha256="c" * 64, facts=FACTS, warnings=[], image={"id": "i"}, file=(batch, 1))
    store.batches.refuse("ann", batch, 1, sha256=None, reason="late")
    (found,) = store.batches.progress("ann")
    assert (len(store.studies("ann")), found["read"], found["failed"]) == (1, 1, [])
    for number in (0, 3, 1 << 40):
        with pytest.raises(ReviewError, match="no file of that number"):
            store.batches.require("ann", batch, number)


def test_files_that_never_arrived_end_with_the_server_and_may_come_later(store: Store) -> None:
    batch = store.batches.create("ann", 3)
    of_batch(store, batch, 2)
    store.batches.recover()
    store.batches.recover()
    (found,) = store.batches.progress("ann")
    assert [(one["number"], one["reason"]) for one in found["failed"]] == [(1, NOT_RECEIVED), (3, NOT_RECEIVED)]
    of_batch(store, batch, 3)
    (found,) = store.batches.progress("ann")
    assert (found["read"], [one["number"] for one in found["failed"]]) == (2, [1])


def test_names_that_are_no_utf8_and_control_characters_are_taken(store: Store) -> None:
    """The names of the files are Latin-1 in a folder of a UTF-8 system: Müller."""
    source = Path(os.fsdecode(b"/data/M\xfcller"))
    files = [BatchFile(source / "1.dcm", None, None), BatchFile(Path("/data/2.dcm"), None, None)]
    batch = store.batches.create("ann", 2, source=source, files=files)
    assert store.batches.paths() == {source, source / "1.dcm", Path("/data/2.dcm")}
    assert store.batches.unfinished("ann", source)
    waiting = store.batches.next("ann")
    assert waiting is not None and (waiting.batch, waiting.path) == (batch, source / "1.dcm")


def test_studies_are_named_in_printable_letters(store: Store, tmp_path: Path) -> None:
    uploads = Uploads(
        tmp_path / "in", tmp_path / "kept", store, None, None, Grouping(tmp_path / "key"), lambda: None,  # type: ignore[arg-type]
        keep_names=True,
    )  # fmt: skip
    names = ["a/\x1b[31mred\u202e.dcm", os.fsdecode(b"a/M\xfcller.dcm"), "a/Größe.dcm"]
    found = [one.name for one in uploads._files([None] * 3, names)]
    assert found == ["\\x1b[31mred\\u202e", "M\\udcfcller", "Größe"]
    uploads.close()


def test_batches_of_earlier_versions_end(store: Store) -> None:
    """Earlier versions recorded counts only: 1 read, 1 refused of 4 when they were killed."""
    batch = store.batches.create("ann", 4)
    with store._database.write() as connection:
        connection.execute("UPDATE batches SET read = 1")
        connection.execute("INSERT INTO refused VALUES (?, 2, NULL, 'no image')", (batch,))
    store.batches.recover()
    (found,) = store.batches.progress("ann")
    assert found["read"] + len(found["failed"]) == found["total"]
    assert study_of(store)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["zip", pytest.param("one by one", marks=pytest.mark.nightly)])
def test_all_files_are_there_after_a_kill(tmp_path: Path, way: str) -> None:
    images = [picture(number, side=96) for number in range(60)]
    with served(tmp_path, "--no-example") as running:
        client = running.client()
        if way == "zip":
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                for number, image in enumerate(images):
                    archive.writestr(f"{number}.png", image)
            sent = client.call("POST", "/api/batches", content.getvalue(), **{"content-type": "application/zip"})
            assert sent.status == 201
        else:
            batch = client.call("POST", "/api/batches", {"total": len(images)}).json()["batch"]
            for number, image in enumerate(images, 1):
                assert client.call("POST", f"/api/studies?batch={batch}&number={number}", image).status == 201
        while client.call("GET", "/api/batches").json()[0]["read"] < 10:
            time.sleep(0.01)
        running.kill()
    with served(tmp_path, "--no-example") as running:
        client, end = running.client(), time.monotonic() + 120
        while (batch := client.call("GET", "/api/batches").json()[0])["read"] < len(images):
            assert time.monotonic() < end, batch
            time.sleep(0.1)
        listed = client.call("GET", "/api/studies?limit=500").json()["studies"]
        kept = [client.call("GET", f"/api/studies/{one['id']}").json()["sha256"] for one in listed]
        assert sorted(kept) == sorted(hashlib.sha256(image).hexdigest() for image in images), "each once"
        assert batch["failed"] == [] and all(one["draft"] for one in listed)
        assert list((running.data / "batches").iterdir()) == []


@pytest.mark.nightly
def test_studies_of_several_images_are_whole_after_kills(tmp_path: Path) -> None:
    """Laterals come before their frontal images: some wait for them when the server is killed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for view in ("LL", "PA", "AP"):
            for study in range(12):
                uids = {"StudyInstanceUID": f"1.2.3.{study}", "SeriesInstanceUID": f"1.2.3.{study}.1"}
                number = 12 * len(archive.namelist()) + study
                path = small_files.dicom(tmp_path / "file.dcm", seed=number, ViewPosition=view, **uids)
                archive.write(path, f"{view}{study}.dcm")
    for kill, reached in ((True, 3), (True, 14), (True, 25), (False, 36)):
        with served(tmp_path, "--no-example") as running:
            client, end = running.client(), time.monotonic() + 120
            if reached == 3:
                sent = client.call("POST", "/api/batches", content.getvalue(), **{"content-type": "application/zip"})
                assert sent.status == 201
            while client.call("GET", "/api/batches").json()[0]["read"] < reached:
                assert time.monotonic() < end
                time.sleep(0.01)
            if kill:
                running.kill()
                continue
            listed = client.call("GET", "/api/studies?limit=500").json()["studies"]
            states = [client.call("GET", f"/api/studies/{one['id']}").json() for one in listed]
            assert len(states) == 12 and all(one["draft"] for one in listed)
            assert all(one["facts"]["view"] == "PA" and one["lateral"]["facts"]["view"] == "lateral" for one in states)
            assert [[one["facts"]["view"] for one in state["further"]] for state in states] == [["AP"]] * 12
            assert client.call("GET", "/api/batches").json()[0]["failed"] == []
            assert list((running.data / "batches").iterdir()) == []
