"""Images without a published layout: any folder of images, or a folder with a table of its images.

Folder: the DICOM, PNG, JPEG, TIFF and WebP files in it and below it, without labels.

Table: ``labels.csv``, ``metadata.csv``, or another CSV file by its path. Required: a column of images (paths below the
table's folder). :mod:`encoder.datasets.columns` has the names by which columns are known. A column ``label`` of names,
several of them divided by ``|``, ``;`` or commas or written as a Python list, gives one label for each name. Any other
column of 1, 0, -1, true and false is a label of its own. A column named like a finding, or with labels in at least half
of its cells, must have labels in all of them or be left out by ``ignore``. A column ``mask:NAME`` names picture files
of a structure, below the table's folder; an empty cell is an image without such a mask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from encoder.datasets.columns import ATTRIBUTES, FIELDS, IGNORE, MASK, Columns, plain, spelled
from encoder.datasets.manifest import Row
from encoder.datasets.tables import as_spelled, columns_there, find, read_csv
from encoder.datasets.values import CHEXPERT, is_label, is_nothing, known, label_of, labels_of, split_of
from encoder.errors import LlavaRadError
from encoder.reader.views import view_of

TABLE_FIELDS = ("image", "subject", "study", "view", "split", *ATTRIBUTES, "label", IGNORE, f"{MASK}NAME")
"""Fields of a table of images, for which a user may name columns."""

_SUFFIXES = {".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
_NO_LABELS = {
    *(name for names in FIELDS.values() for name in names), "", "index", "unnamed0", "followup", "offset", "width",
    "height", "number", "year", "inhannover", "openlylicensed", "inicu", "wenticu", "intubated", "survival",
}  # fmt: skip
_FINDINGS = {
    *map(plain, CHEXPERT), "effusion", "infiltration", "mass", "nodule", "emphysema", "fibrosis", "hernia",
    "pleuralthickening", "tuberculosis", "covid19", "normal",
}  # fmt: skip
_TOGETHER = re.compile(r"\s*[/+&\n\t]\s*|\s+(?:and|with)\s+|\s{2,}", re.IGNORECASE)
_QUOTED_NAME = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d*)?\s*")
_FEW = 3  # a column with more numbers than these beside 1, 0 and -1 measures or counts something
_Rows = Sequence[Mapping[str, str]]


def read_folder(root: Path) -> Iterator[Row]:
    """Yield the images in the order of their paths; files without suffix count if they begin like DICOM files.

    Hidden files, DICOMDIR and symbolic links to folders are skipped.

    Raises:
        LlavaRadError: if there is no such folder, or no image in it.
    """
    root = root.absolute()
    if not root.is_dir():
        raise LlavaRadError("the folder of images does not exist")
    number = 0
    for number, path in enumerate(_images(root), 1):
        yield Row(path, dataset=root.name, image=path.relative_to(root).as_posix(), number=number)
    if not number:
        raise LlavaRadError("there is no DICOM, PNG, JPEG, TIFF or WebP file in the folder")


def read_table(
    root: Path, columns: Mapping[str, Sequence[str]] | None = None, say: Callable[[str], None] = lambda message: None
) -> Iterator[Row]:
    """Yield the rows of the table in their order.

    Args:
        root: the table, or its folder.
        columns: field of :data:`TABLE_FIELDS` -> names of columns, where they have other names than usual.
        say: called with the columns that are read and those that are not, and with what cannot be read.

    Raises:
        LlavaRadError: if there is no table, it has no column of images, it is empty, an image comes twice, a relative
            path leads out of the folder, a mask does not exist, or a split or a label is not understood; the message
            names row and column.
    """
    of = "the table of images"
    file = root if root.is_file() else find(root, "labels.csv", "metadata.csv", of=of, hint="name the table itself")
    folder, rows = file.parent.absolute(), list(read_csv(file, of=of))
    if not rows:
        raise LlavaRadError(f"{of} is empty")
    header, chosen = list(rows[0]), dict(columns or {})
    masks = {name.strip()[len(MASK) :].strip(): name for name in header if name.strip().lower().startswith(MASK)}
    masks |= {name[len(MASK) :]: spelled(header, chosen.pop(name)[0]) for name in list(chosen) if name.startswith(MASK)}
    masks = {name: column for name, column in masks.items() if column and column not in chosen.get(IGNORE, ())}
    chosen[IGNORE] = [*chosen.get(IGNORE, ()), *masks.values()]
    found = Columns.find(header, chosen, TABLE_FIELDS[: TABLE_FIELDS.index(IGNORE)], of=of)
    if not found.first("image"):
        raise LlavaRadError(
            f"{of} has no column of images",
            hint=f'name it with --column "image=COLUMN"; {columns_there(rows[0])}',
        )
    names = _label_columns(rows, found.rest, found.of.get("label", ()), of)
    say(found.read() + "".join([*(f", label {name!r}" for name in names), *(f", mask {name!r}" for name in masks)]))
    if ignored := [name for name in found.rest if name and name not in names]:
        say("columns ignored: " + ", ".join(ignored))
    for line in found.unreadable(rows):
        say(f"warning: {line}")
    classes = _classes(rows, [name for name in found.of.get("label", ()) if name not in names], names, of)
    for number, row in enumerate(rows, 1):
        image = found.cell(row, "image").replace("\\", "/")
        if not image:
            raise LlavaRadError(f"{of}: row {number} names no image")
        path = _below(folder, image, f"{of}: row {number}")
        split = found.cell(row, "split")
        if split and not split_of(split):
            raise LlavaRadError(
                f"{of}: row {number}, column '{found.first('split')}': the split is none of train, val, test or empty",
                hint="--column split= reads no split; --split 70/15/15 draws one",
            )
        named, own = classes(row), labels_of(row, names, f"{of}: row {number}")
        own = {name.strip(): value for name, value in own.items() if value is not None or name.strip() not in named}
        if odd := [name for name in own.keys() & named.keys() if {own[name], named[name]} == {0.0, 1.0}]:
            raise LlavaRadError(f"{of}: row {number}: two columns disagree on the label '{odd[0]}'")
        yield Row(
            path,
            dataset=folder.name,
            subject=found.cell(row, "subject"),
            study=found.cell(row, "study"),
            image=image,
            view=view_of(found.cell(row, "view")),
            split=split_of(split),
            labels=named | own,
            number=number,
            masks=_masks(row, masks, folder, f"{of}: row {number}") if masks and path.is_file() else {},
            attributes=found.attributes(row),
        )


def _below(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file that a table names."""
    if os.path.normpath(name).split("/")[0] == "..":
        raise LlavaRadError(
            f"{where}: the path leads out of the table's folder",
            hint="images lie in the table's folder, or their paths are absolute",
        )
    return as_spelled(folder, name)


def _masks(row: Mapping[str, str], columns: Mapping[str, str], folder: Path, where: str) -> dict[str, Path]:
    """Return the masks of a row by structure.

    Raises:
        LlavaRadError: if a file does not exist: without its mask the structure could count as absent.
    """
    names = {structure: known(row[column]).replace("\\", "/") for structure, column in columns.items()}
    found = {structure: _below(folder, name, where) for structure, name in names.items() if name}
    if missing := [structure for structure, path in found.items() if not path.is_file()]:
        raise LlavaRadError(
            f"{where}, column '{columns[missing[0]]}': the file of the mask does not exist",
            hint="the cell of an image without mask is empty",
        )
    return found


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and (path.suffix.lower() in _SUFFIXES or _is_dicom(path)):
                yield path


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _label_columns(rows: _Rows, others: Sequence[str], given: Sequence[str], of: str) -> tuple[str, ...]:
    """Choose the columns that are labels of their own: those of ``given`` that hold numbers, and suitable ``others``.

    Raises:
        LlavaRadError: if a column looks like labels and holds something else; the message names row and column.
    """
    names: list[str] = []
    for name in given:
        said = [(number, row[name].strip()) for number, row in enumerate(rows, 1) if not is_nothing(row[name])]
        odd = [number for number, text in said if not is_label(text)]
        if odd and len(odd) < len(said) and not all(_NUMBER.fullmatch(text) for _, text in said):
            raise LlavaRadError(f"{of}: row {odd[0]}, column '{name}': other rows hold a number, this one a name")
        if said and not odd:
            names.append(name)
    for name in others:
        if plain(name) in _NO_LABELS:
            continue
        said = [(number, row[name]) for number, row in enumerate(rows, 1) if not is_nothing(row[name])]
        labels = sum(is_label(text) for _, text in said)
        finding = plain(name) in _FINDINGS
        odd = [number for number, text in said if not (_is_answer(text) if finding else is_label(text))]
        values = {text for _, text in said if not is_label(text)}
        measured = len(values) > _FEW and all(map(_NUMBER.fullmatch, values))
        if odd and (finding or (2 * labels >= len(said) and not measured)):
            raise LlavaRadError(
                f"{of}: row {odd[0]}, column '{name}': it holds no label",
                hint="labels are 1, 0, -1 (uncertain) or empty, of findings also yes and no; "
                f'--column "ignore={name}" leaves the column out',
            )
        if said and not odd:
            names.append(name)
    spelling: dict[str, str] = {}
    for name in names:
        if spelling.setdefault(plain(name), name) != name:
            raise LlavaRadError(f"{of}: the columns '{spelling[plain(name)]}' and '{name}' are the same label")
    return tuple(names)


def _is_answer(text: str) -> bool:
    try:
        label_of(text)
    except ValueError:
        return False
    return True


def _classes(
    rows: _Rows, columns: Sequence[str], spelled: Sequence[str], of: str
) -> Callable[[Mapping[str, str]], dict[str, float | None]]:
    """Make the function that reads the labels of columns of names in a row; all are unknown in a row without names.

    A name in another case is the same label; ``spelled`` are the names of other labels.

    Raises:
        LlavaRadError: if a name is several known ones, such as "Edema/Effusion"; the message names the row.
    """
    other = {name.strip().lower(): name.strip() for name in spelled}
    spelling: dict[str, str] = {}
    for row in rows:
        for name in _named(row, columns):
            spelling.setdefault(name.lower(), other.get(name.lower(), name))
    names = sorted(spelling.values())
    alone = _FINDINGS | {plain(name) for name in names}
    together = {name.lower() for name in names if sum(plain(part) in alone for part in _TOGETHER.split(name)) > 1}
    for number, row in enumerate(rows, 1) if together else ():
        if any(name.lower() in together for name in _named(row, columns)):
            raise LlavaRadError(
                f"{of}: row {number}, column '{columns[0]}': a name stands for several labels",
                hint="names are divided by |, ; or commas, or written as a Python list",
            )

    def read(row: Mapping[str, str]) -> dict[str, float | None]:
        found = {spelling[name.lower()] for name in _named(row, columns)}
        return {name: float(name in found) if found else None for name in names}

    return read


def _named(row: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    texts = [known(row[column]) for column in columns]
    lists = [text.startswith("[") and text.endswith("]") for text in texts]
    parts = [
        [one or other for one, other in _QUOTED_NAME.findall(text)] if is_list else re.split(r"[|;,]", text)
        for text, is_list in zip(texts, lists, strict=True)
    ]
    return [name.strip() for names in parts for name in names if known(name)]
