"""Studies opened by StudyInstanceUID: fetched from an archive once, users apart, nothing of the UID in a log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from app import fetching
from app.accounts import add_user
from app.database import NotFound
from app.fetching import Fetching
from app.grouping import Grouping
from app.readers import Readers
from app.server import Settings
from encoder.errors import ConfigError, LlavaRadError, ReadError
from llava_rad.pacs.client import Instance
from scripts.soak.serving import Client, Served, served
from tests.app.reviews import act
from tests.app.test_joining import Parts
from tests.app.test_joining import readers as readers
from tests.llava_rad import small_files
from tests.llava_rad.pacs.orthanc import Archive, available, orthanc

UID, LATERAL, HAND, SECOND = "1.2.3.77", "1.2.3.78", "1.2.3.79", "1.2.3.80"
VIEWER = "https://viewer.example/ohif/viewer?StudyInstanceUIDs={uid}&hangingprotocolId=chest"


class Held:
    """Archive that holds files, by study."""

    def __init__(self) -> None:
        self.files: dict[str, list[Path]] = {}

    def __call__(self, url: str) -> Held:
        return self

    def close(self) -> None:
        pass

    def images(self, uid: str) -> Iterator[Instance]:
        return (Instance(uid, "1", str(number)) for number in range(len(self.files.get(uid, ()))))

    def image(self, instance: Instance) -> bytes:
        return self.files[instance.study][int(instance.instance)].read_bytes()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    archive = Held()
    monkeypatch.setattr(fetching, "Pacs", archive)
    return archive


@pytest.fixture
def parts(tmp_path: Path, readers: Readers) -> Parts:
    return Parts(tmp_path, readers)


@pytest.fixture
def opens(parts: Parts, held: Held) -> Fetching:
    return Fetching("http://localhost", parts.store, parts.uploads, parts.readers, Grouping(parts.folder / "key"))


def uid_of(path: Path) -> str:
    return str(dcmread(path).StudyInstanceUID)


def test_an_open_study_gets_what_came_later_and_a_signed_one_stays(parts: Parts, held: Held, opens: Fetching) -> None:
    lateral, frontal = parts.file(ViewPosition="LL"), parts.file()
    uid = uid_of(frontal)
    held.files[uid] = [lateral, frontal]  # the lateral view comes first
    first = opens.study("ann", uid)
    state = parts.store.state("ann", first.study)
    assert first.notes == [] and state["facts"]["view"] == "PA" and state["lateral"]["facts"]["view"] == "lateral"
    held.files[uid].append(parts.file())
    assert opens.study("ann", uid).study == first.study
    assert len(parts.store.state("ann", first.study)["further"]) == 1
    assert opens.study("ann", uid) == first, "nothing is added twice"
    parts.signed(first.study, "Normal.")
    assert opens.study("ann", uid) == first
    held.files[uid].append(parts.file())
    again = opens.study("ann", uid)
    assert again.study == first.study
    assert again.notes == ["the archive has 1 image that the study lacks; it stays as it is"]
    assert len(parts.states()) == 1


def test_a_discarded_study_is_opened_anew(parts: Parts, held: Held, opens: Fetching) -> None:
    frontal = parts.file()
    held.files[uid_of(frontal)] = [frontal]
    first = opens.study("ann", uid_of(frontal)).study
    act(parts.store, first, "discard")
    assert opens.study("ann", uid_of(frontal)).study != first


def test_an_image_of_another_study_ends_it(parts: Parts, held: Held, opens: Fetching) -> None:
    held.files["1.2.3"] = [parts.file()]
    with pytest.raises(LlavaRadError, match="sends an image of another study"):
        opens.study("ann", "1.2.3")
    assert parts.states() == [] and list((parts.folder / "incoming").iterdir()) == []


def test_images_that_are_refused_or_too_many_are_noted(
    parts: Parts, held: Held, opens: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontal = parts.file()
    held.files[uid_of(frontal)] = [parts.file(BodyPartExamined="HAND"), frontal, parts.file()]
    monkeypatch.setattr(fetching, "MAX_IMAGES", 2)
    notes = opens.study("ann", uid_of(frontal)).notes
    assert len(notes) == 2 and notes[0].startswith("1 image of the study: ")
    assert notes[1] == "only the first 2 images were fetched, or 1 GiB"


def test_nothing_is_read_for_who_has_left(parts: Parts, held: Held, opens: Fetching) -> None:
    held.files["1.2.3"] = [parts.file()]
    with pytest.raises(ReadError, match="nobody waits"):
        opens.study("ann", "1.2.3", wanted=lambda: False)


def test_a_study_without_radiographs_is_not_found(opens: Fetching) -> None:
    with pytest.raises(NotFound, match="the archive has no such study, or none with radiographs"):
        opens.study("ann", "1.2.3")


@pytest.mark.parametrize(
    "viewer",
    ["javascript:alert('{uid}')", "https://viewer.example/", "https://viewer.example/{uid}/{uid}", "https://a b/{uid}"],
)
def test_the_viewers_address_is_a_url_with_a_place_for_the_uid(tmp_path: Path, viewer: str) -> None:
    with pytest.raises(ConfigError, match="the viewer's address"):
        Settings(data=tmp_path, viewer=viewer, identifiers=True).check()


def test_links_to_the_viewer_need_identifiers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names the study"):
        Settings(data=tmp_path, viewer=VIEWER).check()
    Settings(data=tmp_path, viewer=VIEWER, identifiers=True).check()


# Debian's Orthanc and a running server

pacs = [
    pytest.mark.pacs,
    pytest.mark.skipif(not available(), reason="orthanc is not installed (Debian: apt-get install orthanc-dicomweb)"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive with a study of two views, a lateral alone, a hand, and one more study."""
    folder = tmp_path_factory.mktemp("archive")
    with orthanc(folder / "orthanc", password="secret") as running:
        views = [(UID, "PA", "CHEST"), (UID, "LL", "CHEST"), (LATERAL, "LL", "CHEST"), (HAND, "PA", "HAND")]
        for number, (uid, view, part) in enumerate([*views, (SECOND, "AP", "CHEST")]):
            uids = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.{number}"}
            known = {"ViewPosition": view, "BodyPartExamined": part, "PatientID": f"P-{uid}"}
            running.store(small_files.dicom(folder / "a.dcm", seed=number, **uids, **known).read_bytes())
        yield running


@pytest.fixture(scope="module")
def server(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fetching")
    for name in ("ann", "bob", "cat"):
        add_user(folder / "users", name, f"{name}'s secret")
    options = ("--auth-file", str(folder / "users"), "--no-model", "--identifiers", "--viewer-url", VIEWER)
    url = archive.url.replace("://", "://ann:secret@")
    with served(
        folder, *options, "--archive-url", url, first="import llava_rad.pacs.transport as t; t.BACKOFF_S = 0.01"
    ) as running:
        yield running


def client(server: Served, name: str) -> Client:
    found = server.client()
    assert found.login(name, f"{name}'s secret").status == 303
    return found


def fetched(user: Client, uid: object) -> tuple[int, dict[str, Any]]:
    answer = user.call("POST", "/api/archive/study", {"uid": uid})
    return answer.status, answer.json()


def studies(user: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = user.call("GET", "/api/studies").json()["studies"]
    return found


class TestOrthanc:
    """Every test leaves the archive as it was."""

    pytestmark = pacs

    def test_a_study_is_fetched_once_and_linked_to_the_viewer(self, server: Served) -> None:
        ann = client(server, "ann")
        status, state = fetched(ann, UID)
        assert (status, state["notes"], state["status"]) == (200, [], "pending")
        assert (state["facts"]["view"], state["lateral"]["facts"]["view"]) == ("PA", "lateral")
        assert state["viewer"] == f"https://viewer.example/ohif/viewer?StudyInstanceUIDs={UID}&hangingprotocolId=chest"
        assert ann.call("GET", f"/api/studies/{state['id']}").json()["viewer"] == state["viewer"]
        status, again = fetched(ann, UID)
        assert (again["id"], again["revision"]) == (state["id"], state["revision"])
        assert len(studies(ann)) == 1 and list((server.data / "incoming").iterdir()) == []
        own = {"StudyInstanceUID": "1.2.3.99", "SeriesInstanceUID": "1.2.3.99.1"}
        uploaded = ann.study(small_files.dicom(server.data.parent / "b.dcm", seed=9, **own).read_bytes())
        assert "=1.2.3.99&" in uploaded["viewer"]

    def test_another_users_review_is_not_touched(self, server: Served) -> None:
        ann, bob, cat = (client(server, name) for name in ("ann", "bob", "cat"))
        state = fetched(ann, SECOND)[1]
        state = ann.act(state, "add", text="Clear.").json()
        signed = ann.act(state, "sign").json()
        assert signed["status"] == "signed"
        theirs = fetched(bob, SECOND)[1]
        assert theirs["id"] != state["id"] and theirs["status"] == "pending" and theirs["sentences"] == []
        assert bob.call("GET", f"/api/studies/{state['id']}").status == 404
        assert fetched(ann, SECOND)[1]["id"] == state["id"] and len(studies(bob)) == 1
        assert ann.call("GET", f"/api/studies/{state['id']}").json()["revision"] == signed["revision"]
        assert ann.call("POST", f"/api/studies/{state['id']}/assign", {"user": "cat"}).status == 200
        assert fetched(cat, SECOND)[1]["id"] == state["id"], "an assigned study is the reviewer's, too"

    @pytest.mark.parametrize(("uid", "reason"), [(LATERAL, "lateral"), (HAND, "")])
    def test_a_study_without_a_frontal_chest_is_refused(self, server: Served, uid: str, reason: str) -> None:
        cat = client(server, "cat")
        before = studies(cat)
        status, body = fetched(cat, uid)
        assert status == 415 and body["error"].startswith("no image of the study can be read: ")
        assert reason in body["reason"] and studies(cat) == before

    def test_an_unknown_study_is_not_found(self, server: Served) -> None:
        status, body = fetched(client(server, "cat"), "1.2.3.4.5.6")
        assert (status, body["error"]) == (404, "the archive has no such study, or none with radiographs")

    @pytest.mark.parametrize("uid", ["", "1.2.3/../77", "1.2.3.77?x=1", "*", "1" * 65, "1..2", "١.٢", 7, None, ["1.2"]])
    def test_what_is_no_uid_is_refused(self, server: Served, uid: object) -> None:
        status, body = fetched(client(server, "cat"), uid)
        assert status == 422 and str(uid or "-") not in body["error"]

    @pytest.mark.acceptance(row=17)
    def test_only_the_page_of_a_logged_in_user_opens_studies(self, server: Served) -> None:
        body = {"uid": UID}
        assert server.client().call("POST", "/api/archive/study", body).status == 401
        bob = client(server, "bob")
        assert bob.call("POST", "/api/archive/study", body, origin="https://viewer.example").status == 403
        assert bob.call("GET", "/api/archive/study").status == 404
        bob.headers = {}
        assert bob.call("POST", "/api/archive/study", body).status == 403
        for name in ("open.html", "open.js", "returning.js"):
            answer = server.client().call("GET", f"/ui/{name}")
            assert answer.status == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]

    @pytest.mark.acceptance(row=18)
    def test_no_log_and_no_address_has_the_uid(self, server: Served) -> None:
        ann = client(server, "ann")
        fetched(ann, UID)
        assert UID not in server.log.read_text()
        assert UID not in str([row | {"search": ""} for row in studies(ann)])

    def test_an_archive_that_is_down_is_said_and_known_again_later(self, server: Served, archive: Archive) -> None:
        ann = client(server, "ann")
        archive.kill()
        try:
            status, body = fetched(ann, UID)
            assert (status, body) == (503, {"error": "the archive cannot be reached"})
        finally:
            archive.start()
        assert fetched(ann, UID)[0] == 200


def test_without_an_archive_nothing_is_fetched(local: Served) -> None:
    status, body = fetched(local.client(), UID)
    assert (status, body["error"]) == (404, "the application was started without an archive")
