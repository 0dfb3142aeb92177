"""An archive on loopback that a test scripts, and the images that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_rad.pacs import watch
from tests.llava_rad import small_files
from tests.llava_rad.pacs.running import IMAGES
from tests.llava_rad.pacs.scripted import Server, serving


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    uids = [{"StudyInstanceUID": f"1.2.3.{n}", "SeriesInstanceUID": f"1.2.3.{n}.1"} for n in range(IMAGES)]
    return [small_files.dicom(folder / f"{n}.dcm", seed=n, **uid) for n, uid in enumerate(uids)]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with serving() as server, serving() as thief:
        server.thief = thief  # type: ignore[attr-defined]
        yield server, thief


@pytest.fixture
def server(servers: tuple[Server, Server], files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server, thief = servers
    server.reset({f"1.2.3.{n}.1.1": path.read_bytes() for n, path in enumerate(files)})
    thief.reset({})
    for name, value in (("BACKOFF_S", 0.001), ("MAX_WAIT_S", 0.002), ("DEADLINE_S", 10.0), ("TIMEOUT_S", (10.0, 10.0))):
        monkeypatch.setattr(f"llava_rad.pacs.transport.{name}", value)
    monkeypatch.setattr("llava_rad.pacs.client.MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr("llava_rad.pacs.client.MAX_SEARCH_BYTES", 1 << 20)
    yield server
    assert thief.asked == [], "no request goes to another server"


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report becomes one document with the hash of its image."""
    monkeypatch.setattr(watch, "_documents", lambda report, sources, reader: [report.sha256.encode()])
