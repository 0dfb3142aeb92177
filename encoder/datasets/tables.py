"""Tables of data sets: finding them, and the one reader of CSV, JSON lines and JSON."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from encoder.datasets.values import split_of
from encoder.errors import LlavaRadError

LIMIT = 2 << 30
"""Largest table in characters, after unpacking."""
_LONGEST_CELL = 1 << 24
LONGEST_LINE = 1 << 26
"""Characters of a line of CSV text."""
_LISTED, _SHOWN = 30, 40
_STATED = re.compile(r'"?sep=([,;\t])"?')  # first line of a CSV file for Excel
_LONGEST_NAME = 80
_VALUE = re.compile(r"[\^{}\"]|[0-9]{5}|\.(?:dcm|dicom|png|jpe?g|tiff?|webp)$", re.IGNORECASE)
_NO_HEADER = "its first row holds values, not names of columns"
_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "list", ".jsonl": "lines", ".ndjson": "lines"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_GZIP = b"\x1f\x8b"
_MAGIC = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "Parquet",
}
"""First bytes of files that are no text, and what they are."""


def find(root: Path, *names: str, of: str, hint: str = "name the data set's top folder") -> Path:
    """Find the first of a data set's files that exists, also with ``.gz`` at its end.

    Args:
        root: folder of the data set.
        names: in order of preference.
        of: name of the data set, for the error message.
        hint: advice of the error message.

    Raises:
        LlavaRadError: if none exists.
    """
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise LlavaRadError(f"{of}: there is no {' or '.join(names)} in the folder", hint=hint)


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
        path: table in UTF-8 with a header. Cells are divided by commas; by tabs or semicolons if the header has no
            comma, and by tabs if the file's name ends in ``.tsv``. A first line such as ``sep=;`` states the separator.
        columns: required columns.
        of: name of the table or data set, for error messages; they hold no cell of the table.

    Raises:
        LlavaRadError: if the file cannot be read or is not UTF-8 or CSV, a column is missing or comes twice, or a row
            has another number of cells than the header.
    """
    tabs = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:] == [".tsv"]
    cells_of_rows = csv_cells(lines(path, of=of, longest=LONGEST_LINE), of=of, separator="\t" if tabs else None)
    header = next(cells_of_rows, [])
    if twice := [column for column, count in Counter(header).items() if column.strip() and count > 1]:
        if _are_values(header):
            raise LlavaRadError(f"{of}: the table has two equal cells in its header", hint=_NO_HEADER)
        raise LlavaRadError(f"{of}: the table has the column '{twice[0]}' twice")
    if missing := [column for column in columns if column not in header]:
        raise LlavaRadError(f"{of}: the table has no column '{missing[0]}'", hint=columns_there(header))
    unnamed = [position for position, column in enumerate(header) if not column.strip()]
    for number, cells in enumerate(cells_of_rows, 1):
        if len(cells) != len(header):
            hint = "a cell that contains the separator, a quote or a line break stands in double quotes"
            raise LlavaRadError(f"{of}: row {number} has {len(cells)} of {len(header)} cells", hint=hint)
        if len(unnamed) > 1 and any(cells[position].strip() for position in unnamed):
            raise LlavaRadError(f"{of}: row {number} has a cell in a column without a name")
        yield dict(zip(header, cells, strict=True))


def as_spelled(folder: Path, name: str) -> Path:
    """Return the path of a file that a table names, in the spelling of the file system if only that exists.

    Letters with marks have two spellings in Unicode: macOS and archives made there write ``u`` and a combining mark
    where tables write one letter.

    Args:
        folder: which a relative name starts from, absolute.
        name: path, with ``/``.
    """
    path = Path(os.path.normpath(folder / name))
    if name.isascii() or os.path.lexists(path):
        return path
    others = (Path(os.path.normpath(folder / unicodedata.normalize(form, name))) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.lexists(other)), path)


def keyed(rows: Iterable[dict[str, str]], column: str, *, of: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with its id.

    Raises:
        LlavaRadError: if an id comes twice in rows that differ.
    """
    seen: dict[str, tuple[int, dict[str, str]]] = {}
    for number, row in enumerate(rows, 1):
        first, before = seen.setdefault(row[column], (number, row))
        if before != row:
            raise LlavaRadError(f"{of}: rows {first} and {number} have the same {column} and differ")
        yield row[column], row


def columns_there(header: Iterable[str]) -> str:
    """List the columns of a table for the hint of an error; of a table without a header, nothing of its first row."""
    header = list(header)
    if _are_values(header):
        return _NO_HEADER
    names = [repr(name[:_SHOWN]) for name in header if name.strip()]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"its columns are {', '.join(names[:_LISTED])}{more}" if names else "it has no header"


def _are_values(header: Iterable[str]) -> bool:
    """Tell whether a first row holds values: a name of a file or a person, an id, a report."""
    return any(_VALUE.search(cell) or len(cell) > _LONGEST_NAME for cell in header)


def read_records(path: Path, *, of: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in CSV, JSON lines or JSON.

    JSON is a list of rows, rows by id (as ReXrank's, ReXGradient's and RadGraph's files; the id becomes a column
    ``id``), or lists of rows by split (as R2Gen's; the split becomes a column ``split``). Each row is an object.

    Args:
        path: its suffix names the format: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.json``, which may also hold
            JSON lines; ``.gz`` may follow. Under another name, text that begins with ``{`` or ``[`` is JSON.
        of: name of the table, for error messages; they hold no value of the table.

    Raises:
        LlavaRadError: as :func:`read_csv`, or if the file is JSON of another form, has a key twice, or a text that is
            no Unicode.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = _KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        begin = next((line.lstrip()[:1] for line in lines(path, of=of) if line.strip()), "")
        kind = "list" if begin in ("{", "[") else "csv"
    if kind == "csv":
        yield from read_csv(path, of=of)
    elif kind == "list" and not _has_lines(path, of):
        yield from _rows(_parsed("".join(lines(path, of=of)), of), of)
    else:
        for number, line in enumerate(lines(path, of=of), 1):
            if line.strip():
                row = _parsed(line, f"{of}: line {number}")
                if not isinstance(row, dict):
                    raise LlavaRadError(f"{of}: line {number} is not a JSON object")
                yield row


def _has_lines(path: Path, of: str) -> bool:
    """Tell whether a file is JSON lines: several lines, of which the first is an object of its own."""
    first, *more = itertools.islice((line for line in lines(path, of=of) if line.strip()), 2) or [""]
    try:
        return bool(more) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _rows(document: Any, of: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON document."""
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        yield from document
    elif isinstance(document, dict) and document and all(isinstance(row, dict) for row in document.values()):
        for key, row in document.items():
            if str(row.get("id", key)) != key:
                raise LlavaRadError(f"{of}: an object has another id than its key")
            yield {"id": key, **row}
    elif isinstance(document, dict) and document and all(map(split_of, document)) and _of_rows(document.values()):
        for key, rows in document.items():
            if any(split_of(str(row.get("split", key))) != split_of(key) for row in rows):
                raise LlavaRadError(f"{of}: a row has another split than the list that it is in")
            yield from ({**row, "split": key} for row in rows)
    else:
        raise LlavaRadError(
            f"{of}: it is JSON of a form that is not known",
            hint="read are a list of objects, objects by id (ReXrank, ReXGradient, RadGraph), and lists of objects by "
            "split (R2Gen's annotation.json)",
        )


def _of_rows(lists: Iterable[Any]) -> bool:
    return all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in lists)


def csv_cells(text: Iterable[str], *, of: str, separator: str | None = ",") -> Iterator[list[str]]:
    """Yield the cells of each row of CSV text; blank lines are skipped.

    Args:
        text: lines with their ends.
        of: name of the table, for error messages.
        separator: None takes the one of the header (a comma, or else a tab or semicolon), or of a first line such as
            ``sep=;``, which is no row.

    Raises:
        LlavaRadError: if the text is not CSV, or a row holds white space only.
    """
    csv.field_size_limit(_LONGEST_CELL)
    rest = iter(text)
    if separator is None:
        first = next(rest, "")
        stated = _STATED.fullmatch(first.rstrip("\r\n"))
        separator, rest = (stated[1], rest) if stated else (None, itertools.chain([first], rest))
    if separator is None:
        begin = []
        for line in rest:
            begin.append(line)
            if line.strip() and not sum(one.count('"') for one in begin) % 2:  # a header may have line breaks
                break
        widths = {mark: _columns(begin, mark) for mark in ",\t;"}
        separator = next((mark for mark, width in widths.items() if width > 1), ",")
        if widths[separator] == 1 and 0 in widths.values() and begin:  # not one column, but damaged quotes
            raise LlavaRadError(f"{of}: the table is not CSV (quotes in its header)")
        rest = itertools.chain(begin, rest)
    try:
        for number, cells in enumerate(filter(None, csv.reader(rest, strict=True, delimiter=separator))):
            if len(cells) == 1 and not cells[0].strip():  # a cell or a blank line?
                raise LlavaRadError(f"{of}: row {number} is blank but not empty", hint="remove its white space")
            yield cells
    except csv.Error as error:
        reason = "a cell is longer than 16 MiB" if "limit" in str(error) else str(error)
        raise LlavaRadError(f"{of}: the table is not CSV ({reason})") from None


def _columns(header: Sequence[str], separator: str) -> int:
    try:
        return len(next(filter(None, csv.reader(header, strict=True, delimiter=separator)), []))
    except csv.Error:
        return 0


def lines(path: Path, *, of: str, longest: int = LIMIT) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8, plain or gzip, with their ends.

    Args:
        path: the file.
        of: name of the table, for error messages.
        longest: most characters of a line; a longer one is refused before it is in memory.

    Raises:
        LlavaRadError: if the file cannot be read, is not UTF-8, holds the character NUL, has a longer line, or is
            longer than ``LIMIT`` characters.
    """
    left, begin = LIMIT, True
    try:
        with _opened(path) as file:
            while line := file.readline(min(left, longest) + 1):
                left -= len(line)
                if left < 0:
                    raise LlavaRadError(f"{of}: the table is larger than {LIMIT >> 30} GiB")
                if len(line) > longest:
                    raise LlavaRadError(f"{of}: the table has a line of more than {longest >> 20} MiB")
                if "\0" in line:
                    raise LlavaRadError(f"{of}: the table is not text in UTF-8: it holds the character NUL")
                yield line.lstrip("\ufeff") if begin else line
                begin = False
    except UnicodeDecodeError:
        raise LlavaRadError(
            f"{of}: the table is not text in UTF-8{_looks_like(path)}", hint="save it as CSV in UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "damaged"
        raise LlavaRadError(f"{of}: the table cannot be read ({reason})") from None


def _opened(path: Path) -> TextIO:
    """Open plain or gzip text, told by the content."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig", newline="")


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(4)
    found = next((name for mark, name in _MAGIC.items() if begin.startswith(mark)), None)
    return f" but {found}" if found else ""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _parsed(text: str, of: str) -> Any:
    try:
        # NaN, which Python's json module writes for pandas' missing values, is null
        found = json.loads(
            text, object_pairs_hook=_no_key_twice, parse_constant=lambda word: None if word == "NaN" else float(word)
        )
    except (ValueError, RecursionError):
        raise LlavaRadError(f"{of} is not JSON, or an object has a key twice") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise LlavaRadError(f"{of} holds half of a character (a lone surrogate such as \\ud800)") from None
    return found
