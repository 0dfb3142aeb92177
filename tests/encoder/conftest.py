"""One reader for all tests of this folder, because its child process starts slowly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from encoder.reader.sandbox import Reader


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader() as one:
        yield one
