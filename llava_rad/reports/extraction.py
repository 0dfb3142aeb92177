"""What the readers of the data sets share: where things lie, what they found, and work in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from llava_rad.reports.pairs import Pair

Progress = Callable[[str, int], Callable[[int], None]]
"""Called with what is being done and how much of it there is; gives a function to call with how much was done now."""
In = TypeVar("In")
Out = TypeVar("Out")
_THREADS = 16  # they wait for the disk, or for a file server
_CHUNK = 256


@dataclass(frozen=True)
class Places:
    """Where the parts of a data set lie.

    Attributes:
        root: its top folder, absolute.
        reports: folder or table of the reports; None: beside the images.
        tables: folder of the tables of images; None: the top folder.
    """

    root: Path
    reports: Path | None = None
    tables: Path | None = None


@dataclass(frozen=True)
class Found:
    """The pairs of a data set, and how they came to be these.

    Attributes:
        pairs: in the order of the table of images.
        steps: images that are left after each filter, in the order of the filters.
        missing: images that were left out because their file is not there.
        source: where the texts come from, in a few words.
        files: tables and folders that were read.
        whole: the tables are those of the complete public data set, whose numbers are known.
    """

    pairs: list[Pair]
    steps: dict[str, int]
    missing: int
    source: str
    files: tuple[Path, ...]
    whole: bool = False


def no_progress(what: str, total: int) -> Callable[[int], None]:
    """Shows nothing."""
    return lambda done: None


def in_threads(work: Callable[[In], Out], items: Sequence[In], advance: Callable[[int], None]) -> list[Out]:
    """What a function that waits for the disk gives for each item, in their order."""

    def several(start: int) -> list[Out]:
        return [work(item) for item in items[start : start + _CHUNK]]

    def counted(parts: Iterable[list[Out]]) -> Iterator[list[Out]]:
        for part in parts:
            advance(len(part))
            yield part

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(chain.from_iterable(counted(pool.map(several, range(0, len(items), _CHUNK)))))


def there(path: Path) -> bool:
    """Whether a file is there."""
    try:
        return path.is_file()
    except OSError:  # e.g. a folder on the way that may not be entered
        return False
