"""A watch by studies: lateral and prior, late images, repeated views, kills, one report for a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import ReadError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.sources import Source
from llava_rad.generation.study_writer import StudyWriter
from llava_rad.pacs import watch
from llava_rad.pacs.client import Instance, Pacs
from llava_rad.pacs.processed import READ_TRIES, Pauses, name_of
from llava_rad.pacs.transport import PacsError
from llava_rad.pacs.watch import watch_once
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run
from tests.llava_rad.pacs.scripted import Server, text


@dataclass
class Archive:
    """As much of an archive as a watch asks: images by study and SOP Instance UID.

    Attributes:
        held: content of each image.
        when: patient, date and time of each study.
        stored: documents.
        broken: studies whose images cannot be fetched.
    """

    held: dict[str, dict[str, bytes]] = field(default_factory=dict)
    when: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def studies(self, **_: object) -> list[str]:
        return list(self.held)

    def images(self, study: str, *_: object) -> list[Instance]:
        return [Instance(study, f"{study}.1", uid) for uid in sorted(self.held[study])]

    def image(self, instance: Instance) -> bytes:
        if instance.study in self.broken:
            raise PacsError("the archive sends no image (HTTP 404)")
        return self.held[instance.study][instance.instance]

    def of_patient(self, patient: str, until: str, *_: object) -> dict[str, tuple[str, str]]:
        self.asked.append(patient)
        return {study: when[1:] for study, when in self.when.items() if when[0] == patient and when[1] <= until}

    def store(self, files: Sequence[bytes]) -> None:
        self.stored += files


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture(scope="module")
def writer(study_model: Path) -> Iterator[StudyWriter]:
    with ReportWriter(GenerationOptions(model=study_model)) as found:
        yield StudyWriter(found)


@pytest.fixture(autouse=True)
def documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report becomes one document with the hash of its frontal image."""
    monkeypatch.setattr(watch, "_documents", lambda report, sources, reader: [report.input.sha256.encode()])


def put(
    archive: Archive, folder: Path, study: str, name: str, day: str = "20260301", patient: str = "P1", **more: Any
) -> bytes:
    """Put an image of a study into the archive; its UID is the study's and the name's."""
    folder.mkdir(exist_ok=True)
    seed = more.pop("seed", sum(f"{study} {name}".encode()))
    uid = f"{study}.1.{sum(name.encode())}"
    content = small_files.dicom(
        folder / f"{study}-{name}.dcm", seed=seed, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1",
        SOPInstanceUID=uid, StudyDate=day, PatientID=patient, **more,
    ).read_bytes()  # fmt: skip
    archive.held.setdefault(study, {})[uid] = content
    archive.when[study] = (patient, day, str(more.get("StudyTime", "")))
    return content


def watched(archive: Archive, folder: Path, writer: StudyWriter, said: list[str], **more: Any) -> watch.Count:
    folder.mkdir(exist_ok=True)
    count = watch_once(archive, folder, writer, tell=said.append, **more)  # type: ignore[arg-type]
    assert not [line for line in said if "1.2.3" in line or "P1" in line or "Doe" in line]
    return count


def report(folder: Path, study: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name_of(study)}.json").read_text())
    return found


def test_a_study_is_one_report_with_lateral_and_prior(
    archive: Archive, writer: StudyWriter, study_model: Path, tmp_path: Path, run: Run
) -> None:
    """The same text as ``generate`` with the same images; the prior is the patient's newest earlier study."""
    put(archive, tmp_path / "in", "1.2.3.1", "oldest", "20240101")
    put(archive, tmp_path / "in", "1.2.3.2", "old", "20250101")
    put(archive, tmp_path / "in", "1.2.3.3", "other patient", "20260101", "P2")
    now = put(archive, tmp_path / "in", "1.2.3.4", "now")
    put(archive, tmp_path / "in", "1.2.3.4", "side", ViewPosition="LL")
    put(archive, tmp_path / "in", "1.2.3.5", "later", "20260401")
    said: list[str] = []
    count = watched(archive, tmp_path / "out", writer, said, store=True)
    assert (count.new, count.refused, count.known) == (5, 0, 0) and said == []
    assert len(list((tmp_path / "out").glob("*.json"))) == 5 == len(archive.stored)
    found = report(tmp_path / "out", "1.2.3.4")
    assert found["input"]["sha256"] == hashlib.sha256(now).hexdigest()
    folder = tmp_path / "in"
    images = [
        folder / "1.2.3.4-now.dcm",
        "--lateral",
        folder / "1.2.3.4-side.dcm",
        "--prior",
        folder / "1.2.3.2-old.dcm",
    ]
    done = run("generate", *images, "--model", study_model, "-f", "json")
    assert json.loads(done.out)["report"] == found["report"]
    again = watched(archive, tmp_path / "out", writer, said, store=True)
    assert (again.new, again.known) == (0, 6) and len(archive.stored) == 5


def test_a_model_of_one_image_asks_for_no_priors(archive: Archive, tiny: Path, tmp_path: Path) -> None:
    put(archive, tmp_path / "in", "1.2.3.1", "old", "20250101")
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    put(archive, tmp_path / "in", "1.2.3.4", "side", ViewPosition="LL")
    with ReportWriter(GenerationOptions(model=tiny)) as alone:
        assert watched(archive, tmp_path / "out", StudyWriter(alone), []).new == 2
    assert archive.asked == []


@pytest.mark.parametrize(
    ("old", "now", "expected"),
    [
        ({"day": "20250101"}, {}, True),
        ({"day": "20250101", "PatientBirthDate": "19500101"}, {"PatientBirthDate": "19600101"}, False),
        ({"day": "20250101", "patient": "ANONYMOUS"}, {"patient": "ANONYMOUS"}, False),
        ({"day": "20260301"}, {}, False),
        ({"day": "20260301", "StudyTime": "0800"}, {"StudyTime": "0900"}, True),
        ({"day": "20250101", "ViewPosition": "LL"}, {}, False),
        ({"day": "20250101", "BodyPartExamined": "HAND"}, {}, False),
    ],
    ids=["earlier", "another birth", "nobody", "same day", "an hour before", "lateral alone", "a hand"],
)
def test_priors(
    archive: Archive, writer: StudyWriter, tmp_path: Path, old: dict[str, Any], now: dict[str, Any], expected: bool
) -> None:
    put(archive, tmp_path / "in", "1.2.3.1", "old", **old)
    put(archive, tmp_path / "in", "1.2.3.4", "now", **now)
    watched(archive, tmp_path / "out", writer, [])
    said = [
        one for one in report(tmp_path / "out", "1.2.3.4")["warnings"] if "written from more than this image" in one
    ]
    assert bool(said) is expected


def test_a_prior_that_cannot_be_fetched_is_said_and_left_out(
    archive: Archive, writer: StudyWriter, tmp_path: Path
) -> None:
    put(archive, tmp_path / "in", "1.2.3.1", "old", "20250101")
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    archive.broken = {"1.2.3.1"}
    said: list[str] = []
    count = watched(archive, tmp_path / "out", writer, said)
    assert (count.new, count.failed) == (1, 1)
    assert any("cannot be fetched, the report is written without it" in line for line in said)


def test_a_study_waits_until_its_images_stay_the_same(archive: Archive, writer: StudyWriter, tmp_path: Path) -> None:
    """A lateral that comes while the study waits is part of it, and begins the time anew; a later one is too late."""
    out, said, settings = tmp_path / "out", list[str](), {"settle": 60.0}
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1000.0).waiting == 1
    put(archive, tmp_path / "in", "1.2.3.4", "side", ViewPosition="LL")
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1060.0).waiting == 2
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1119.0).waiting == 2
    assert not list(out.glob("*.json"))
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1120.0).new == 1
    assert any("lateral" in one for one in report(out, "1.2.3.4")["warnings"])
    before = report(out, "1.2.3.4")
    put(archive, tmp_path / "in", "1.2.3.4", "third")
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1200.0).waiting == 1
    late = watched(archive, out, writer, said, **settings, clock=lambda: 1300.0)
    assert (late.new, late.known) == (0, 3) and "1 images came after its report" in said[-1]
    assert report(out, "1.2.3.4") == before
    assert watched(archive, out, writer, said, **settings, clock=lambda: 1400.0).known == 3 and len(said) == 1


def test_a_clock_that_was_set_back_begins_the_time_anew(archive: Archive, writer: StudyWriter, tmp_path: Path) -> None:
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    times = iter([5000.0, 100.0, 130.0, 161.0])
    waiting = [
        watched(archive, tmp_path / "out", writer, [], settle=60.0, clock=lambda: next(times)).waiting for _ in range(4)
    ]
    assert waiting == [1, 1, 1, 0]


def test_a_lateral_waits_for_its_frontal_image(archive: Archive, writer: StudyWriter, tmp_path: Path) -> None:
    said: list[str] = []
    put(archive, tmp_path / "in", "1.2.3.4", "side", ViewPosition="LL")
    alone = watched(archive, tmp_path / "out", writer, said)
    assert (alone.new, alone.refused) == (0, 1) and "the study has no frontal image" in said[-1]
    assert watched(archive, tmp_path / "out", writer, said).known == 1
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    both = watched(archive, tmp_path / "out", writer, said)
    assert both.new == 1 and any("lateral" in one for one in report(tmp_path / "out", "1.2.3.4")["warnings"])


def test_the_choice_among_repeated_and_duplicated_views_is_logged(
    archive: Archive, writer: StudyWriter, tmp_path: Path
) -> None:
    put(archive, tmp_path / "in", "1.2.3.4", "aa", ViewPosition="AP")
    better = put(archive, tmp_path / "in", "1.2.3.4", "bb")
    put(archive, tmp_path / "in", "1.2.3.4", "cc", seed=sum(b"1.2.3.4 bb"))
    put(archive, tmp_path / "in", "1.2.3.4", "dd", BodyPartExamined="HAND")
    said: list[str] = []
    count = watched(archive, tmp_path / "out", writer, said)
    assert (count.new, count.refused) == (1, 1)
    study = f"study {name_of('1.2.3.4')[:12]}: "
    assert f"{study}the study has 2 frontal images (AP, PA): image 2 of the study is used" in said
    assert f"{study}the study has 1 images that are copies of others: each is used once" in said
    assert report(tmp_path / "out", "1.2.3.4")["input"]["sha256"] == hashlib.sha256(better).hexdigest()


def test_images_of_two_patients_under_one_study_are_refused(
    archive: Archive, writer: StudyWriter, tmp_path: Path
) -> None:
    put(archive, tmp_path / "in", "1.2.3.4", "a")
    put(archive, tmp_path / "in", "1.2.3.4", "b", patient="P2")
    said: list[str] = []
    count = watched(archive, tmp_path / "out", writer, said, store=True)
    assert (count.new, count.refused, archive.stored) == (0, 2, [])
    assert "several patients" in said[-1] and not list((tmp_path / "out").glob("*.json"))


def test_an_image_of_another_study_gets_no_report(archive: Archive, tiny: Path, tmp_path: Path) -> None:
    """An archive that answers with another patient's image; the report would have the name of the study asked for."""
    put(archive, tmp_path / "in", "1.2.3.4", "a")
    other = put(archive, tmp_path / "in", "1.2.3.5", "b", patient="P2")
    archive.held["1.2.3.4"] = dict.fromkeys(archive.held["1.2.3.4"], other)
    said: list[str] = []
    with ReportWriter(GenerationOptions(model=tiny)) as found:
        count = watched(archive, tmp_path / "out", StudyWriter(found), said, store=True)
    assert (count.new, count.failed) == (1, 1) and archive.stored == [hashlib.sha256(other).hexdigest().encode()]
    assert said == [
        f"study {name_of('1.2.3.4')[:12]}: the archive sends an image of another study; it will be tried again"
    ]
    assert [path.stem for path in (tmp_path / "out").glob("*.json")] == [name_of("1.2.3.5")]


@pytest.mark.parametrize("step", ["written", "stored"])
def test_a_kill_between_two_steps_gives_one_report(
    archive: Archive, writer: StudyWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed before and after the upload; another frontal image, which would be preferred, arrives in between."""
    first = put(archive, tmp_path / "in", "1.2.3.4", "a", ViewPosition="AP")

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*((archive, "store") if step == "written" else (watch.ProcessedImages, "done")), kill)
        with pytest.raises(Killed):
            watched(archive, tmp_path / "out", writer, [], store=True)
    put(archive, tmp_path / "in", "1.2.3.4", "b")
    said: list[str] = []
    count = watched(archive, tmp_path / "out", writer, said, store=True)
    assert count.new == 1 and len(list((tmp_path / "out").glob("*.json"))) == 1
    assert set(archive.stored) == {hashlib.sha256(first).hexdigest().encode()}
    assert watched(archive, tmp_path / "out", writer, said, store=True).known == 2


def test_a_busy_machine_refuses_one_image_in_the_end_and_writes_from_the_others(
    archive: Archive, writer: StudyWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(archive, tmp_path / "in", "1.2.3.4", "now")
    slow = put(archive, tmp_path / "in", "1.2.3.4", "side", ViewPosition="LL")
    read = writer._writer.read

    def busy(recipe: Any, source: Source, force: bool) -> Any:
        if source.data == slow:
            raise ReadError("timeout", "the image took longer than 10 s to read")
        return read(recipe, source, force)

    monkeypatch.setattr(writer._writer, "read", busy)
    pauses = Pauses(0.0)
    for tries in range(1, READ_TRIES + 1):
        count = watched(archive, tmp_path / "out", writer, [], pauses=pauses)
        last = tries == READ_TRIES
        assert (count.new, count.failed, count.refused) == (int(last), int(not last), int(last))
    assert not any("written from more" in one for one in report(tmp_path / "out", "1.2.3.4")["warnings"])
    assert watched(archive, tmp_path / "out", writer, []).known == 2


def test_only_some_of_very_many_images_are_fetched(
    archive: Archive, writer: StudyWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_IMAGES", 2)
    for name in "abc":
        put(archive, tmp_path / "in", "1.2.3.4", name)
    said: list[str] = []
    assert watched(archive, tmp_path / "out", writer, said).new == 1
    assert "3 images are too many, the first 2 are read" in said[0]
    assert watched(archive, tmp_path / "out", writer, said).known == 3


def test_studies_of_a_patient_are_asked_for_by_id_and_day(server: Server) -> None:
    def results(path: str, asked: dict[str, str], found: list[Any]) -> list[Any]:
        if "PatientID" not in asked or asked.get("offset") or asked["ModalitiesInStudy"] != "DX":
            return []
        assert (asked["PatientID"], asked["StudyDate"]) == ("A 1&x", "-20260301")
        first = {"0020000D": text("1.5", "UI"), "00080020": text("20250101", "DA"), "00080030": text("0800", "TM")}
        return [first | {"00100020": text("A 1&x", "LO")}, {"0020000D": text("1.6", "UI")}]

    server.results = results
    said: list[str] = []
    pacs = Pacs(server.url, tell=said.append)
    assert pacs.of_patient("A 1&x", "20260301", ("CR", "DX")) == {"1.5": ("20250101", "0800"), "1.6": ("", "")}
    assert pacs.of_patient("A*", "20260301", ("DX",)) == {}, "an ID with a wildcard names others too"
    server.results = lambda path, asked, found: [{"0020000D": text("1.7", "UI"), "00100020": text("B", "LO")}]
    assert pacs.of_patient("A", "20260301", ("DX",)) == {} and "ignores patient IDs" in said[-1]
    assert "A 1" not in " ".join(said)
