"""Decoding processes that tests share: starting one takes a second of CPU time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from encoder.reader.sandbox import Reader

# they import the class by name, some of them when a test first needs them
_USERS = (
    "encoder.datasets.cache_building", "encoder.probing.vectors", "encoder.probing.augmented",
    "encoder.probing.segmentation.data", "encoder.pretraining.probes",
)  # fmt: skip


class _Borrowed:
    """A reader that goes back to the idle ones when it is closed."""

    def __init__(self, reader: Reader, idle: list[Reader]) -> None:
        self._reader, self._idle, self._open = reader, idle, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def __enter__(self) -> _Borrowed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._idle.append(self._reader)


@pytest.fixture(scope="session")
def _idle_readers() -> Iterator[list[Reader]]:
    idle: list[Reader] = []
    yield idle
    for reader in idle:
        reader.close()


@pytest.fixture(autouse=True)
def shared_readers(_idle_readers: list[Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of the package that opens a ``Reader`` gets an idle one of an earlier test."""

    def borrow(**options: Any) -> _Borrowed:
        try:
            reader = _idle_readers.pop()
        except IndexError:
            reader = Reader(**options)
        return _Borrowed(reader, _idle_readers)

    for name in _USERS:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if name.startswith(("encoder.", "llava_rad.")) and getattr(module, "Reader", None) is Reader:
            monkeypatch.setattr(module, "Reader", borrow)
