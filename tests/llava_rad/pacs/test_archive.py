"""Against Debian's Orthanc on loopback: studies in, reports back, nothing lost and nothing twice after kills."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.sources import Source
from llava_rad.generation.study import StudyInputs
from llava_rad.generation.study_writer import StudyWriter
from llava_rad.pacs.c_store import StorageUser
from llava_rad.pacs.client import Pacs
from llava_rad.pacs.jobs import pull, push
from llava_rad.pacs.processed import name_of
from llava_rad.pacs.transport import PASSWORD, USER, PacsError
from llava_rad.pacs.watch import watch_once
from tests.llava_rad import small_files, vision_language
from tests.llava_rad.pacs.orthanc import Archive, available, orthanc

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.skipif(not available(), reason="orthanc is not installed (Debian: apt-get install orthanc-dicomweb)"),
    pytest.mark.acceptance(row=23),
]
MAIN = [sys.executable, "-c", "from llava_rad.cli import main; main()"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("archive") / "orthanc") as found:
        yield found


@pytest.fixture
def archive(running: Archive) -> Archive:
    """The running archive, empty."""
    for patient in running.ask("/patients"):
        running.delete(f"/patients/{patient}")
    return running


def study(folder: Path, number: int, **attributes: object) -> bytes:
    """A chest radiograph of a study of its own."""
    uids = {f"{name}InstanceUID": f"1.2.3.{number}.{place}" for place, name in enumerate(("Study", "Series", "SOP"), 1)}
    known = {"PatientID": f"P-{number}", "PatientName": f"Doe^{number}", "StudyDate": "20261126"}
    path = folder / f"{number}.dcm"
    return small_files.dicom(path, seed=number, **(uids | known | attributes)).read_bytes()


def reports(archive: Archive) -> list[dict[str, str]]:
    return [one for one in archive.instances() if one["Modality"] == "SR"]


def test_ten_studies_in_and_ten_reports_back(archive: Archive, tmp_path: Path, tiny: Path) -> None:
    for number in range(10):
        archive.store(study(tmp_path, number))
    archive.store(study(tmp_path, 10, ViewPosition="LL"))
    said: list[str] = []
    folder = tmp_path / "out"
    folder.mkdir()
    pacs = Pacs(archive.url)
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        first = watch_once(pacs, folder, StudyWriter(writer), store=True, tell=said.append)
        assert (first.new, first.refused) == (10, 1)
        assert len(said) == 1 and "1.2.3" not in said[0] and "P-10" not in said[0]
        stored = reports(archive)
        assert len(stored) == 20, "a report and a table of labels each"
        again = watch_once(pacs, folder, StudyWriter(writer), store=True)
        assert (again.new, again.known) == (0, 11) and len(reports(archive)) == 20
    assert len(list(folder.glob("*.json"))) == 10
    if shutil.which("dsrdump"):
        for one in stored[:6]:
            (tmp_path / "sr.dcm").write_bytes(archive.file(one["ID"]))
            assert subprocess.run(["dsrdump", str(tmp_path / "sr.dcm")], capture_output=True).returncode == 0
    patients = {archive.ask(f"/instances/{one['ID']}/patient")["MainDicomTags"]["PatientID"] for one in stored}
    assert patients == {f"P-{number}" for number in range(10)}, "each beside its own image"


def test_images_come_as_they_were_stored_and_once(archive: Archive, tmp_path: Path) -> None:
    contents = {study(tmp_path, number) for number in range(5)}
    for content in contents:
        archive.store(content)
    folder = tmp_path / "pulled"
    folder.mkdir()
    pacs = Pacs(archive.url)
    assert pull(pacs, folder).new == 5
    assert {path.read_bytes() for path in folder.glob("*.dcm")} == contents
    assert not any("P-" in path.name or "1.2" in path.name for path in folder.iterdir())
    again = pull(pacs, folder)
    assert (again.new, again.known) == (0, 5)
    next(folder.glob("*.dcm")).unlink()
    assert pull(pacs, folder).new == 1
    only = tmp_path / "one"
    only.mkdir()
    assert pull(pacs, only, studies=["1.2.3.2.1"]).new == 1
    later = tmp_path / "later"
    later.mkdir()
    assert pull(pacs, later, date="20270101-").new == 0


def test_a_name_and_a_password_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with orthanc(tmp_path / "orthanc", password="secret") as archive:
        archive.store(study(tmp_path, 1))
        with pytest.raises(PacsError, match="refuses the credentials") as refused:
            list(Pacs(archive.url).studies())
        assert USER in str(refused.value.hint)
        monkeypatch.setenv(USER, "ann")
        monkeypatch.setenv(PASSWORD, "wrong")
        with pytest.raises(PacsError, match="refuses the credentials"):
            list(Pacs(archive.url).studies())
        monkeypatch.setenv(PASSWORD, "secret")
        assert list(Pacs(archive.url).studies()) == ["1.2.3.1.1"]
        monkeypatch.delenv(USER)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert list(Pacs(archive.url).studies()) == ["1.2.3.1.1"]


def test_storing_twice_is_storing_once_and_no_dicom_is_refused(archive: Archive, tmp_path: Path) -> None:
    pacs, content = Pacs(archive.url), study(tmp_path, 1)
    pacs.store([content])
    pacs.store([content, content])
    assert len(archive.instances()) == 1
    with pytest.raises(PacsError, match=r"refuses|HTTP 4"):
        pacs.store([b"no DICOM"])


def test_old_archives_get_files_by_c_store(archive: Archive, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for number in range(len(paths)):
        study(tmp_path, number)
    (tmp_path / "no.dcm").write_text("no DICOM")
    said: list[str] = []
    user = StorageUser(f"ARCHIVE@127.0.0.1:{archive.dicom_port}")
    count = push([paths[0], tmp_path / "no.dcm", *paths[1:]], user.store, tell=said.append)
    user.close()
    assert (count.new, count.failed) == (3, 1) and len(archive.instances()) == 3
    digest = hashlib.sha256(b"no DICOM").hexdigest()[:12]
    assert said == [f"file 2 of 4 (sha256 {digest}): no DICOM file: its preamble is missing"]
    with pytest.raises(PacsError, match="cannot be reached"):
        StorageUser("ARCHIVE@127.0.0.1:1").store(paths[0])


def test_the_draft_is_the_one_that_generate_writes(archive: Archive, tmp_path: Path, tiny: Path) -> None:
    content = study(tmp_path, 1)
    archive.store(content)
    folder = tmp_path / "out"
    folder.mkdir()
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        watch_once(Pacs(archive.url), folder, StudyWriter(writer))
        (expected,) = writer.write([Source(1, data=content)])
    (path,) = folder.glob("*.json")
    assert path.read_text() == expected.to_json() + "\n"  # type: ignore[union-attr]
    assert reports(archive) == [], "nothing is stored unless asked for"


def test_a_study_is_one_report_with_lateral_and_prior(archive: Archive, tmp_path: Path, study_model: Path) -> None:
    """The archive finds the earlier study by patient and date; what comes after the report changes nothing."""
    archive.store(study(tmp_path, 1, PatientID="P-9", StudyDate="20250101"))
    archive.store(study(tmp_path, 2, PatientID="P-8", StudyDate="20260101"))
    archive.store(study(tmp_path, 3, PatientID="P-9"))
    side = {"StudyInstanceUID": "1.2.3.3.1", "PatientID": "P-9", "PatientName": "Doe^3", "ViewPosition": "LL"}
    archive.store(study(tmp_path, 4, **side))
    folder, said = tmp_path / "out", list[str]()
    folder.mkdir()
    with ReportWriter(GenerationOptions(model=study_model)) as writer:
        count = watch_once(Pacs(archive.url), folder, StudyWriter(writer), store=True, tell=said.append)
        assert (count.new, count.refused, count.failed, said) == (3, 0, 0, [])
        inputs = StudyInputs(lateral=tmp_path / "4.dcm", prior=tmp_path / "1.dcm")
        with ReportWriter(GenerationOptions(model=study_model), inputs) as alone:
            (expected,) = alone.write([Source(1, data=(tmp_path / "3.dcm").read_bytes())])
        found = json.loads((folder / f"{name_of('1.2.3.3.1')}.json").read_text())
        assert found["report"]["text"] == expected.text  # type: ignore[union-attr]
        assert any("written from more than this image" in one for one in found["warnings"])
        assert len(reports(archive)) == 6, "a report and a table of labels for each study"
        archive.store(study(tmp_path, 5, **side | {"ViewPosition": "PA"}))
        late = watch_once(Pacs(archive.url), folder, StudyWriter(writer), store=True, tell=said.append)
        assert (late.new, late.known) == (0, 5) and "came after its report" in said[0]
        assert len(reports(archive)) == 6


@pytest.mark.parametrize(
    ("studies", "rounds"),
    [pytest.param(10, 2, marks=pytest.mark.slow), pytest.param(50, 10, marks=pytest.mark.nightly)],
)
def test_kills_of_watcher_and_archive_lose_nothing_and_store_nothing_twice(
    studies: int, rounds: int, tmp_path: Path, tiny: Path
) -> None:
    draw = random.Random(0)
    with orthanc(tmp_path / "orthanc") as archive:
        for number in range(studies):
            archive.store(study(tmp_path, number))
        for number in range(0, studies, 3):  # laterals of some
            uid = {"StudyInstanceUID": f"1.2.3.{number}.1", "PatientID": f"P-{number}", "ViewPosition": "LL"}
            archive.store(study(tmp_path, studies + number, **uid | {"PatientName": f"Doe^{number}"}))
        folder = tmp_path / "out"
        command = [
            *MAIN, "pacs", "watch", "--url", archive.url, "-o", str(folder), "--store", "--once", "--model", str(tiny),
        ]  # fmt: skip
        for round_ in range(rounds):
            watcher = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
            # the first seconds go to imports: the kill is to come while studies are being done
            end = time.monotonic() + 60
            before = len(list(folder.glob("*.json")))
            while watcher.poll() is None and len(list(folder.glob("*.json"))) == before and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
            if round_ % 2:
                archive.kill()
                archive.start()
            if watcher.poll() is None:
                os.killpg(watcher.pid, signal.SIGKILL)
            watcher.wait()
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        stored = reports(archive)
        assert len(stored) == len({one["SOPInstanceUID"] for one in stored}) == 2 * studies
        assert len(list(folder.glob("*.json"))) == studies


def test_a_watcher_goes_on_when_the_archive_comes_back(archive: Archive, tmp_path: Path, tiny: Path) -> None:
    pacs, folder = Pacs(archive.url), tmp_path / "out"
    folder.mkdir()
    archive.kill()
    with ReportWriter(GenerationOptions(model=tiny)) as writer:
        with pytest.raises(PacsError, match="cannot be reached"):
            watch_once(pacs, folder, StudyWriter(writer), store=True)
        archive.start()
        archive.store(study(tmp_path, 1))
        assert watch_once(pacs, folder, StudyWriter(writer), store=True).new == 1


def test_an_answer_that_comes_late_is_waited_for(archive: Archive, tmp_path: Path) -> None:
    archive.store(study(tmp_path, 1))
    pacs = Pacs(archive.url)
    archive.kill()
    threading.Timer(0.7, archive.start).start()
    assert list(pacs.studies()) == ["1.2.3.1.1"], "requests that fail on the way are tried again"


@pytest.mark.acceptance(row=18)
def test_header_values_stay_out_of_everything_but_the_archive(archive: Archive, tmp_path: Path, tiny: Path) -> None:
    from tests.encoder.dicom_files import to_bytes
    from tests.encoder.reader.test_privacy import canaries

    source, words = canaries()
    assert source.Modality == "CR"
    for name in ("StudyInstanceUID", "SeriesInstanceUID"):
        setattr(source, name, "1.2.826.0.1.3680043.9999.1234567890123")
    archive.store(to_bytes(source))
    folder = tmp_path / "out"
    done = subprocess.run(
        [*MAIN, "pacs", "watch", "--url", archive.url, "-o", str(folder), "--once", "--model", str(tiny)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "1 drafts written" in done.stderr and len(list(folder.glob("*.json"))) == 1
    said = done.stdout + done.stderr + "".join(str(path) for path in folder.iterdir())
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert [word for word in words if word in said or word.encode() in kept] == []


def test_the_draft_of_a_model_that_others_trained_is_stored_beside_its_image(
    archive: Archive, tmp_path: Path, replica: Callable[[str], Path]
) -> None:
    """A frontal and a lateral image go in; one report comes back, the text of ``generate`` with the same images."""
    from highdicom.sr import srread

    model = replica(vision_language.FAST)
    archive.store(study(tmp_path, 1))
    side = {"StudyInstanceUID": "1.2.3.1.1", "PatientID": "P-1", "PatientName": "Doe^1", "ViewPosition": "LL"}
    archive.store(study(tmp_path, 2, **side))
    folder, options = tmp_path / "out", vision_language.options(model)
    folder.mkdir()
    with ReportWriter(options) as writer:
        count = watch_once(Pacs(archive.url), folder, StudyWriter(writer), store=True)
    assert (count.new, count.refused, count.failed) == (1, 0, 0)
    with ReportWriter(options, StudyInputs(lateral=tmp_path / "2.dcm")) as alone:
        (expected,) = alone.write([Source(1, data=(tmp_path / "1.dcm").read_bytes())])
    stored = [archive.file(one["ID"]) for one in reports(archive)]
    texts = {finding.text for finding in expected.report.findings}  # type: ignore[union-attr]
    (document,) = [
        one
        for one in map(srread, map(io.BytesIO, stored))
        if texts <= {element.value for element in one.iterall() if element.keyword == "TextValue"}
    ]
    assert (document.StudyInstanceUID, document.PatientID) == ("1.2.3.1.1", "P-1")
