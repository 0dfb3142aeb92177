"""One small module for each data set: from its own layout of files and tables to rows of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from encoder.datasets import folder, table
from encoder.manifest import Count, Row


@dataclass(frozen=True)
class Adapter:
    """A data set whose layout is known.

    Attributes:
        name: on the command line.
        title: what it is, in a few words.
        read: yields the rows of the data set in a folder; raises LlavaRadError naming the file that it misses.
        published: the paper's number of images and subjects (table D.1), or None.
        published_of: which rows those numbers count.
    """

    name: str
    title: str
    read: Callable[[Path], Iterator[Row]]
    published: Count | None = None
    published_of: str = ""


DATASETS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("folder", "any folder of images", folder.read),
        Adapter("table", "any folder with a table labels.csv or metadata.csv of its images", table.read),
    )
}
