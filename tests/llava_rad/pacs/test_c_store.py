"""C-STORE to a storage provider of pynetdicom in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_rad.pacs.c_store import StorageUser
from llava_rad.pacs.jobs import Count, push
from llava_rad.pacs.transport import PacsUsageError, UnreachableError
from tests.llava_rad import small_files

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    kinds = [DX, CR, DX, CR]
    paths = [small_files.dicom(tmp_path / f"{n}.dcm", seed=n) for n in range(len(kinds))]
    for path, kind in zip(paths, kinds, strict=True):
        path.write_bytes(path.read_bytes().replace(f"{DX}\0".encode(), f"{kind}\0".encode().ljust(len(DX) + 1, b"\0")))
    return paths


Provider = Callable[[Callable[[Any, int], int]], str]


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Start a provider; it calls a function with each event and its number and returns the status."""
    from pynetdicom import AE, evt

    servers = []

    def start(answer: Callable[[Any, int], int], kinds: tuple[str, ...] = (CR, DX)) -> str:
        numbers = iter(range(1, 100))
        entity = AE("ARCHIVE")
        for kind in kinds:
            entity.add_supported_context(kind)
        handlers = [(evt.EVT_C_STORE, lambda event: answer(event, next(numbers)))]
        servers.append(entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers))
        return f"ARCHIVE@127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()


def pushed(to: str, files: list[Path], said: list[str]) -> Count:
    user = StorageUser(to)
    try:
        return push(files, user.store, tell=said.append)
    finally:
        user.close()


def named(files: list[Path], at: int) -> str:
    """The name of a file in messages."""
    return f"file {at + 1} of {len(files)} (sha256 {hashlib.sha256(files[at].read_bytes()).hexdigest()[:12]})"


def test_files_of_several_kinds_are_stored(provider: Provider, files: list[Path]) -> None:
    came = set()

    def accept(event: Any, number: int) -> int:
        came.add(str(event.request.AffectedSOPInstanceUID))
        return 0

    assert pushed(provider(accept), files, []).new == len(came) == 4


def test_a_file_that_is_refused_is_named_and_the_others_go_on(provider: Provider, files: list[Path]) -> None:
    said: list[str] = []
    count = pushed(provider(lambda event, number: 0xA700 if number == 2 else 0xB000), files, said)
    assert (count.new, count.failed, count.exit_code) == (3, 1, 3)
    assert said == [f"{named(files, 1)}: the archive refuses it (status A700H)"]


def test_an_archive_that_ends_the_association_gets_the_other_files(provider: Provider, files: list[Path]) -> None:
    said: list[str] = []
    to = provider(lambda event, number: event.assoc.abort() or 0 if number == 1 else 0)
    count = pushed(to, files, said)
    assert (count.new, count.failed) == (3, 1)
    assert said == [f"{named(files, 0)}: the archive gives no answer to it"]


def test_a_kind_that_is_not_accepted_is_named_and_the_others_go_on(provider: Provider, files: list[Path]) -> None:
    said: list[str] = []
    to = provider(lambda event, number: 0, kinds=(CR,))  # type: ignore[call-arg]
    count = pushed(to, files, said)
    assert (count.new, count.failed) == (2, 2)
    assert {line.split(": ")[0] for line in said} == {named(files, 0), named(files, 2)}


def test_an_archive_that_is_down_ends_the_run(files: list[Path]) -> None:
    said: list[str] = []
    with pytest.raises(UnreachableError):
        pushed("ARCHIVE@127.0.0.1:1", files, said)
    assert len(said) == 1 and said[0].startswith(f"{named(files, 0)}: ")


@pytest.mark.parametrize(
    "to", ["127.0.0.1:4242", "A@B", "A@B:C", "A" * 17 + "@h:1", "A@h:123456", "A@h:0", "A@h:70000", "A@h:١"]
)
def test_addresses_of_another_form_are_refused(to: str) -> None:
    with pytest.raises(PacsUsageError, match="not of the form"):
        StorageUser(to)
