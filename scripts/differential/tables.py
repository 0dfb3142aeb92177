"""Reader of tables against pandas, on drawn CSV files.

Each table has drawn cells (quotes, separators, line breaks, other scripts, words for nothing, long texts) and up to two
faults (ragged rows, blank lines, wrong quotes, NUL, other encodings, columns twice, cut gzip files). pandas reads it
with strict options. A fault of ours is a table that both read with different cells, or that ours reads and pandas
refuses, or that ours refuses although nothing is wrong with it.
"""

from __future__ import annotations

import gzip
import random
import re
import tempfile
import warnings
from pathlib import Path

from encoder.datasets.tables import read_csv
from encoder.errors import LlavaRadError
from scripts.differential.harness import Case, Outcome, Subject

Cells = list[list[str]]
Rows = list[dict[str, str]]
_NAMES = (
    "image",
    "File Name",
    "findings",
    "PatientID",
    "view",
    "split",
    "Edema",
    "größe",
    "a,b",
    'a "b"',
    "x\ny",
    "n;m",
)
_CELLS = (
    "", " ", "a", "PA", "0", "1.0", "007", "nan", "NA", "None", "true", "-", "___", "Größe", "胸部", "a b ", " a",
    "Heart size is normal, lungs are clear.", "one;two", "one\ttwo", 'a 5 mm "nodule"', '"', '""', "line\nbreak",
    "line\r\nbreak", "a\rb", ",", "\n", "#", "# note", "'single'", "\\n", "a\\", "\u00a0", "\u2028", "\ufeff", "1,5",
)  # fmt: skip
_LETTERS = "abZ09 ,;\t\n\r\"'\\#._-äß€\u0301\u00a0\u2028\u200b胸😀\x1c\x85\x0b"
_FAULTS = (
    "extra cell", "missing cell", "blank lines", "white lines", "column twice", "no name", "bare quote", "open quote",
    "bare separator", "NUL", "latin-1", "UTF-16", "UTF-16 without BOM", "cut gzip", "trailing separators", "empty file",
    "header only", "long cell", "BOM twice",
)  # fmt: skip


def draw(rng: random.Random) -> Case:
    """Draw a table: cells (the header first), separator, names of faults, content and name of the file."""
    separator = rng.choice(",,,,,;\t")
    width = rng.choice((1, 2, 2, 3, 3, 4, 6))
    header = rng.sample([name for name in _NAMES if separator == "," or "," not in name], width)
    if width == 1:  # no separator stands in the table, so a comma is the only one that can be told from the header
        separator, header = ",", [header[0].replace(";", "-")]
    cells = [header, *([_cell(rng) for _ in header] for _ in range(rng.randrange(1, 9)))]
    faults = rng.sample(_FAULTS, rng.choice((0, 0, 1, 1, 2)))
    cells = _with_faults(cells, faults, rng)
    ends = rng.choice(("\n", "\n", "\r\n", "\r"))
    always = width == 1 or rng.random() < 0.3  # an empty cell of a single column is a blank line without quotes
    text = "".join(separator.join(_quoted(cell, separator, always) for cell in line) + ends for line in cells)
    data = _encoded(_spoiled(text, faults, separator, ends, rng), faults, rng)
    packed = "cut gzip" in faults or rng.random() < 0.15
    if packed:
        data = gzip.compress(data, mtime=0)
    if "cut gzip" in faults:
        data = data[: rng.randrange(12, len(data) - 4)]
    suffix = ".tsv" if separator == "\t" and rng.random() < 0.5 else ".csv"
    name = f"table{suffix}{'.gz' if packed else ''}"
    return {"cells": cells, "separator": separator, "faults": faults, "data": data, "name": name}


def _cell(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(_CELLS)
    return "".join(rng.choices(_LETTERS, k=rng.randrange(12)))


def _quoted(cell: str, separator: str, always: bool) -> str:
    if not always and not set(cell) & {separator, '"', "\r", "\n"}:
        return cell
    return '"' + cell.replace('"', '""') + '"'


def ours(path: Path) -> Rows | str:
    """Read a table by the project's reader: its rows, or the reason of the refusal."""
    try:
        return list(read_csv(path, of="the table"))
    except LlavaRadError as error:
        return re.sub(r"\d+", "N", re.sub(r"'.*?'", "NAME", str(error), flags=re.DOTALL))


def by_pandas(path: Path, separator: str) -> Rows | str:
    """Read a table by pandas with strict options: its rows, or the reason of the refusal."""
    import pandas

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = pandas.read_csv(
                path, sep=separator, header=None, index_col=False, dtype=str, keep_default_na=False, na_filter=False,
                on_bad_lines="error", encoding="utf-8-sig", encoding_errors="strict", skip_blank_lines=True,
                low_memory=False, engine="c",
            )  # fmt: skip
    except (ValueError, OSError, EOFError, Warning, pandas.errors.ParserError) as error:
        return type(error).__name__
    header, *rows = [list(map(str, row)) for row in frame.itertuples(index=False)]
    return [dict(zip(header, row, strict=True)) for row in rows]


def compare(case: Case) -> Outcome:
    """Read a table with both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, case["name"])
        path.write_bytes(case["data"])
        mine, other = ours(path), by_pandas(path, case["separator"])
    cells, faults = case["cells"], case["faults"]
    if isinstance(mine, str):
        both = "both refuse" if isinstance(other, str) else "only ours refuses"
        blank = len(cells[0]) == 1 and "is blank" in mine  # a cell or a line? no file can say
        return Outcome(f"{both}: {mine}", fault=not faults and not blank)
    if isinstance(other, str):
        if not mine and other == "EmptyDataError":
            return Outcome("both find no row")
        return Outcome(f"only pandas refuses: {other}", fault=True)
    if mine != other:
        return Outcome("different cells", fault=True)
    if not faults and mine != [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]:
        return Outcome("other cells than drawn", fault=True)
    return Outcome("the same cells")


def _with_faults(cells: Cells, faults: list[str], rng: random.Random) -> Cells:
    """Change the cells of a table."""
    row = rng.randrange(1, len(cells))
    if "extra cell" in faults:
        cells[row] = [*cells[row], rng.choice(_CELLS)]
    if "missing cell" in faults:
        cells[row] = cells[row][:-1]
    if "column twice" in faults:
        cells = [[*line, line[0] if line else ""] for line in cells]
    if "no name" in faults:
        cells[0] = [*cells[0][:-1], ""]
    if "trailing separators" in faults:
        cells = [[*line, "", ""] for line in cells]
    if "long cell" in faults and cells[row]:
        cells[row][0] = "x" * 200_000
    return cells[:1] if "header only" in faults else cells


def _spoiled(text: str, faults: list[str], separator: str, ends: str, rng: random.Random) -> str:
    """Change the text of a table."""
    if "empty file" in faults:
        return ""
    if "blank lines" in faults:
        text = f"{ends}{text}{ends}{ends}"
    if "white lines" in faults:
        text += f"  {ends} {ends}"
    place = rng.randrange(len(text) + 1)
    for fault, mark in (("bare quote", '"'), ("bare separator", separator), ("NUL", "\0")):
        if fault in faults:
            text = text[:place] + mark + text[place:]
    if "open quote" in faults:
        text += f'"open{ends}'
    if rng.random() < 0.2:
        text = text.rstrip("\r\n")
    return text


def _encoded(text: str, faults: list[str], rng: random.Random) -> bytes:
    if "latin-1" in faults:
        return text.encode("latin-1", "replace") + b"\xe9"
    if "UTF-16" in faults:
        return text.encode("utf-16")
    if "UTF-16 without BOM" in faults:
        return text.encode("utf-16-le")
    data = text.encode("utf-8-sig" if rng.random() < 0.3 else "utf-8")
    return b"\xef\xbb\xbf" + data if "BOM twice" in faults else data


SUBJECT = Subject("tables", "pandas", 0.30, draw, compare)
