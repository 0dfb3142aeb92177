"""Tables of data sets: finding them, and the one reader of CSV, JSON lines and JSON."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from encoder.errors import LlavaRadError

LIMIT = 2 << 30
"""Largest table in characters, after unpacking."""
_LONGEST_CELL = 1 << 24


def find(root: Path, *names: str, of: str) -> Path:
    """Find the first of a data set's files that exists, also with ``.gz`` at its end.

    Args:
        root: folder of the data set.
        names: in order of preference.
        of: name of the data set, for the error message.

    Raises:
        LlavaRadError: if none exists.
    """
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise LlavaRadError(f"{of}: there is no {' or '.join(names)} in the folder", hint="name the data set's top folder")


def project(root: Path, names: Sequence[str], markers: Sequence[str], *, of: str) -> Path:
    """Find the folder of one of several data sets that lie side by side, as PhysioNet's downloads do.

    Args:
        root: contains ``NAME`` or ``NAME/VERSION`` (the highest version is taken), or is the data set itself.
        names: in order of preference.
        markers: files or folders of which the data set has one, also with ``.gz``; empty: any folder of that name.
        of: name of the data set, for the error message.

    Raises:
        LlavaRadError: if none exists.
    """
    for name in names:
        versions = sorted((root / name).glob("[0-9]*"), reverse=True) if (root / name).is_dir() else []
        for folder in (*versions, root / name):
            if folder.is_dir() and (not markers or _has(folder, markers)):
                return folder
    if markers and _has(root, markers):
        return root
    wanted = f"{' or '.join(names)}" + (f" with {' or '.join(markers)}" if markers else "")
    raise LlavaRadError(f"{of}: there is no {wanted} in the folder", hint="name the folder that has all of them in it")


def _has(folder: Path, markers: Sequence[str]) -> bool:
    return any((folder / f"{marker}{suffix}").exists() for marker in markers for suffix in ("", ".gz"))


def read_csv(path: Path, *columns: str, of: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV table, plain or gzip; blank lines are skipped.

    Args:
        path: table with a header, commas and UTF-8.
        columns: required columns.
        of: name of the table or data set, for error messages; they hold no cell of the table.

    Raises:
        LlavaRadError: if the file cannot be read or is not UTF-8 or CSV, a column is missing, or a row has another
            number of cells than the header.
    """
    cells_of_rows = csv_cells(lines(path, of=of), of=of)
    header = next(cells_of_rows, [])
    if missing := [column for column in columns if column not in header]:
        other = next((mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]), "")
        hint = "its columns are divided by semicolons or tabs: save it with commas" if other else None
        raise LlavaRadError(f"{of}: the table has no column '{missing[0]}'", hint=hint)
    for number, cells in enumerate(cells_of_rows, 1):
        if len(cells) != len(header):
            raise LlavaRadError(f"{of}: row {number} has {len(cells)} of {len(header)} cells")
        yield dict(zip(header, cells, strict=True))


def read_records(path: Path, *, of: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in CSV, JSON lines or JSON (one list of objects).

    Args:
        path: its suffix names the format: ``.csv``, ``.json``, else JSON lines; ``.gz`` may follow.
        of: name of the table, for error messages; they hold no value of the table.

    Raises:
        LlavaRadError: as :func:`read_csv`, or if a row is not a JSON object.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:]
    if kind == [".csv"]:
        yield from read_csv(path, of=of)
    elif kind == [".json"]:
        rows = _parsed("".join(lines(path, of=of)), of)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise LlavaRadError(f"{of}: it is not a list of JSON objects")
        yield from rows
    else:
        for number, line in enumerate(lines(path, of=of), 1):
            if line.strip():
                row = _parsed(line, f"{of}: line {number}")
                if not isinstance(row, dict):
                    raise LlavaRadError(f"{of}: line {number} is not a JSON object")
                yield row


def csv_cells(text: Iterable[str], *, of: str) -> Iterator[list[str]]:
    """Yield the cells of each row of CSV text; blank lines are skipped.

    Raises:
        LlavaRadError: if the text is not CSV.
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        yield from filter(None, csv.reader(text, strict=True))
    except csv.Error as error:
        raise LlavaRadError(f"{of}: the table is not CSV ({error})") from None


def lines(path: Path, *, of: str) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8, plain or gzip, with their ends.

    Raises:
        LlavaRadError: if the file cannot be read, is not UTF-8, or is longer than ``LIMIT`` characters.
    """
    left = LIMIT
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(
            path, "rt", encoding="utf-8-sig", newline=""
        ) as file:
            while line := file.readline(left + 1):
                left -= len(line)
                if left < 0:
                    raise LlavaRadError(f"{of}: the table is larger than {LIMIT >> 30} GiB")
                yield line
    except UnicodeDecodeError:
        raise LlavaRadError(f"{of}: the table is not text in UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "damaged"
        raise LlavaRadError(f"{of}: the table cannot be read ({reason})") from None


def _parsed(text: str, of: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise LlavaRadError(f"{of} is not JSON") from None
