"""Drafts of others: reports of any model or person, read from a table and matched to images.

A draft belongs to an image by the first of these that fits: the SHA-256 of the file; its path in the worklist's folder
or zip file, of which the ending suffices, without suffix; a name: the file's or its folder's, or the Study Instance
UID, SOP Instance UID or accession number of its header. Nothing is guessed: a row that fits files of several folders
and rows that fit the same image are not used, and are listed by their numbers.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from app.review import MAX_SENTENCES, MAX_TEXT
from encoder.datasets.columns import matching
from encoder.datasets.forms import recognised
from encoder.datasets.values import is_nothing, known
from encoder.files import sha256_of
from llava_rad.benchmark.tables import TEXT_FIELDS, Row, listed, lookup, read_rows, usual_fields
from llava_rad.outputs.report import EARLIER_SCHEMAS, SCHEMA, Report, clean, sentences
from llava_rad.reports.sections import inline_parts
from metrics.base import InputError

if TYPE_CHECKING:
    from app.store import Store
    from encoder.reader.identity import Identity

_HASH: Final = re.compile("[0-9a-f]{64}")
_MIMIC_FOLDER: Final = re.compile(r"s(\d{8})")
"""Folder of a study of MIMIC-CXR, whose tables name the study without the letter."""
_SUFFIXES: Final = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
_HASHES: Final = ("input.sha256", "sha256")
_NAMES: Final = ("id", "dicom_id", "image_id", "uid", "study_id", "accession")
_ABOUT: Final = frozenset({"indication", "history", "comparison", "technique", "examination", "preamble", "date"})
"""Sections that describe the examination; they are no part of the reviewed report."""


@dataclass(frozen=True)
class ImportedDraft:
    """Draft that another model or a person wrote.

    Attributes:
        row: number in the table, from 1.
        findings: sentences.
        impression: sentences; those of further sections follow, with their headings.
        model: ``id``, ``revision``, ``sha256`` and ``demonstration`` as of a model's drafts; the SHA-256 is that of the
            table, unless the table names the model's. ``table`` is the table's SHA-256, ``row`` the number.
        boxes: of each sentence of the findings.
        report: the report of ``llava-rad generate``, or None.
    """

    row: int
    findings: tuple[str, ...]
    impression: tuple[str, ...]
    model: Mapping[str, Any]
    boxes: tuple[Sequence[Mapping[str, float]], ...] = ()
    report: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """Findings and impression."""
        return " ".join([*self.findings, *self.impression])


@dataclass(frozen=True)
class _Keys:
    """Texts by which a row names its image."""

    hashes: frozenset[str]
    paths: frozenset[tuple[str, ...]]
    names: frozenset[str]

    @property
    def first(self) -> frozenset[str] | frozenset[tuple[str, ...]]:
        """Keys of the most exact kind; two rows with the same ones are about the same image."""
        return self.hashes or self.paths or self.names


@dataclass
class ImportedDrafts:
    """Drafts of one table; threads may share them.

    Attributes:
        name: of the model or person, on the page and in exports.
        sha256: of the table.
        drafts: by row number.
    """

    name: str
    sha256: str
    drafts: Mapping[int, ImportedDraft]
    _keys: Mapping[int, _Keys]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, list[int]] = {}
        self._refused: dict[int, str] = {}
        self._by_hash: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for number, keys in self._keys.items():
            for index, values in ((self._by_hash, keys.hashes), (self._by_name, keys.names)):
                for value in values:
                    index.setdefault(value, []).append(number)

    @classmethod
    def load(cls, argument: str) -> ImportedDrafts:
        """Read a table in CSV, JSON lines or JSON; see :func:`encoder.datasets.tables.read_records`.

        Args:
            argument: ``FILE`` or ``NAME=FILE``.

        Raises:
            InputError: if it cannot be read, has no column of texts or of images, two rows are drafts of the same
                image, or a text is longer than a report can be.
        """
        name, equals, value = argument.partition("=")
        path = Path(value) if equals and name and "/" not in name else Path(argument)
        name = clean(name if path == Path(value) else path.name.partition(".")[0])[:100].strip() or "others"
        rows = read_rows(path)
        sha256 = sha256_of(path)
        text_field, impression_field = _text_fields(rows, path)
        drafts, keys = {}, {}
        for number, row in enumerate(rows, 1):
            model = {"id": name, "revision": None, "sha256": sha256, "demonstration": False}
            drafts[number] = _draft(number, row, text_field, impression_field, model, path.name)
            keys[number] = _keys_of(row)
            if not keys[number].first:
                raise InputError(
                    f"{path.name}, row {number}: it names no image",
                    hint="a column names it by SHA-256, path, file name, or id of image or study",
                )
        _drop_repeated(drafts, keys, path.name)
        return cls(name, sha256, drafts, keys)

    def place(self, files: Iterable[str], root: Path | None = None) -> None:
        """Find the rows that the paths of a worklist's files fit.

        Args:
            files: paths of the images, with ``/``.
            root: folder that they are in; None if they are of a zip file.
        """
        inside = "" if root is None else f"{root.absolute().as_posix().rstrip('/')}/"
        by_end: dict[str, list[int]] = {}
        for number, keys in self._keys.items():
            for end in {path[-1] for path in keys.paths} | keys.names:
                by_end.setdefault(end, []).append(number)
        found: dict[str, list[int]] = {}
        folders: dict[int, set[PurePosixPath]] = {}
        for file in files:
            path = PurePosixPath(file.removeprefix(inside))
            ends = {_stem(path.name), *_names_of_folder(path.parent.name)}
            rows = [number for end in ends for number in by_end.get(end, ())]
            if fitting := self._fitting(dict.fromkeys(rows), path):
                found[file] = fitting
                for number in fitting:
                    folders.setdefault(number, set()).add(path.parent)
        several = [number for number, parents in folders.items() if len(parents) > 1]
        with self._lock:
            self._refused |= dict.fromkeys(several, "it fits files of several folders")
            self._places = {
                file: rows for file, one in found.items() if (rows := [row for row in one if row not in self._refused])
            }

    def _fitting(self, rows: Iterable[int], path: PurePosixPath) -> list[int]:
        """Return the rows whose path is that of a file, by the longest ending; else those that name file or folder."""
        own = _parts(path.as_posix())
        lengths = {
            number: max((min(len(one), len(own)) for one in self._keys[number].paths if _same_end(one, own)), default=0)
            for number in rows
        }
        longest = max(lengths.values(), default=0)
        if longest:
            return [number for number, length in lengths.items() if length == longest]
        for names in ({own[-1]}, _names_of_folder(path.parent.name)):
            if named := [number for number in lengths if names & self._keys[number].names]:
                return named
        return []

    def find(self, sha256: str, place: str | None = None, identity: Identity | None = None) -> ImportedDraft | None:
        """Return the draft of an image, or None. Rows that fit the same image are refused.

        Args:
            sha256: of the image file.
            place: its path, as it was given to :meth:`place`.
            identity: of its header.
        """
        stated = set() if identity is None else {identity.study_uid, identity.instance_uid}
        if identity is not None and (accession := identity.attributes.get("AccessionNumber")):
            stated.add(accession)
        with self._lock:
            ways = (
                self._by_hash.get(sha256, []),
                self._places.get(place or "", []),
                list(dict.fromkeys(number for name in sorted(stated) for number in self._by_name.get(name, []))),
            )
            rows = next(filter(None, ways), [])
            if len(rows) > 1:
                self._refused |= dict.fromkeys(rows, "several rows fit the same image")
            usable = [number for number in rows if number not in self._refused]
        return self.drafts[usable[0]] if usable else None

    def give(self, store: Store, owner: str, study: str, draft: ImportedDraft) -> None:
        """Put a draft into a study that an image joined; it is refused if the study has another one."""
        if not store.give(owner, study, draft):
            with self._lock:
                self._refused[draft.row] = "its study has another draft"

    def unused(self, used: Iterable[int]) -> list[dict[str, Any]]:
        """List the rows that no study uses, each with its number and the reason.

        Args:
            used: numbers of the rows that studies use.
        """
        known_rows = set(used)
        with self._lock:
            return [
                {"row": number, "reason": self._refused.get(number, "no image fits it")}
                for number in self.drafts
                if number not in known_rows
            ]


def summary(unused: Sequence[Mapping[str, Any]], rows: int) -> str:
    """Describe in one line which rows of a table are not used.

    Args:
        unused: result of :meth:`ImportedDrafts.unused`.
        rows: of the table.
    """
    by_reason: dict[str, list[int]] = {}
    for one in unused:
        by_reason.setdefault(one["reason"], []).append(one["row"])
    parts = [f"{reason}: {listed(numbers)}" for reason, numbers in by_reason.items()]
    rest = f"; not used ({'; '.join(parts)})" if parts else ""
    return f"{rows - len(unused)} of {rows} drafts belong to studies{rest}"


def _text_fields(rows: Sequence[Row], path: Path) -> tuple[str, str | None]:
    """Return the column of texts, and that of impressions beside it, if any."""
    named = recognised(rows)[1].get("prediction")
    could = usual_fields(rows, named, TEXT_FIELDS["prediction"], path, "a usual name")
    if len(could) > 1:
        raise InputError(f"{path.name} has several columns of texts: {', '.join(could)}", hint="leave one of them")
    header = dict.fromkeys(name for row in rows for name in row)
    impressions = matching(header, "impression") if "findings" in could[0].lower() else []
    return could[0], next(iter(impressions), None)


def _draft(
    number: int, row: Row, text_field: str, impression_field: str | None, model: Mapping[str, Any], of: str
) -> ImportedDraft:
    table = {"table": model["sha256"], "row": number}
    if row.get("schema") in (SCHEMA, *EARLIER_SCHEMAS):
        try:
            report = Report.model_validate(dict(row))
        except ValueError:
            raise InputError(f"{of}, row {number}: it is no report of 'llava-rad generate'") from None
        found = [one for one in report.report.findings if one.text]
        boxes = tuple([box.model_dump(exclude={"image"}) for box in one.boxes or ()] for one in found)
        said = report.report.impression.sentences if report.report.impression else []
        made = ImportedDraft(
            number, tuple(one.text for one in found), tuple(one.text for one in said),
            report.model.model_dump() | table, boxes, report.model_dump(mode="json"),
        )  # fmt: skip
    else:
        text = _cell(row, text_field, number, of)
        parts = inline_parts(text)
        findings = [one.text for one in parts if one.name == "findings"] if parts else [text]
        impression = [one.text for one in parts if one.name == "impression"]
        impression += [
            f"{one.name.capitalize()}: {one.text}" for one in parts
            if one.text and one.name not in {"findings", "impression", *_ABOUT}
        ]  # fmt: skip
        if impression_field:
            impression.append(_cell(row, impression_field, number, of))
        both = [tuple(one for text in texts for one in sentences(clean(text))) for texts in (findings, impression)]
        made = ImportedDraft(number, both[0], both[1], {**model, **table})
    every = [*made.findings, *made.impression]
    if len(every) > MAX_SENTENCES or any(len(one) > MAX_TEXT for one in every):
        raise InputError(
            f"{of}, row {number}: a report has at most {MAX_SENTENCES} sentences of {MAX_TEXT:,} characters"
        )
    return made


def _cell(row: Row, name: str, number: int, of: str) -> str:
    text = lookup(row, name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{of}, row {number}: no text in {name}")
    return known(text)


def _keys_of(row: Row) -> _Keys:
    """Sort the values of a row that name an image into hashes, paths and names."""
    images = [recognised([row])[1].get("image", ""), *matching(row, "image"), *matching(row, "lateral")]
    columns = dict.fromkeys([*_HASHES, *images, *matching(row, "id"), *_NAMES, *matching(row, "study")])
    hashes, paths, names = set(), set(), set()
    for column in filter(None, columns):
        values = lookup(row, column)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, str | int) or is_nothing(str(value)):
                continue
            text = str(value).strip()
            if _HASH.fullmatch(text.lower()):
                hashes.add(text.lower())
            elif "/" in text or "\\" in text or PurePosixPath(text).suffix.lower() in _SUFFIXES:
                paths.add(_parts(text))
            else:
                names.add(text)
    return _Keys(frozenset(hashes), frozenset(path for path in paths if path), frozenset(names))


def _drop_repeated(drafts: dict[int, ImportedDraft], keys: dict[int, _Keys], of: str) -> None:
    """Drop rows that repeat another one, and refuse rows that are different drafts of the same image."""
    seen: dict[Any, int] = {}
    for number in list(drafts):
        before = seen.setdefault(keys[number].first, number)
        if before == number:
            continue
        if drafts[before].text != drafts[number].text:
            raise InputError(f"{of}: rows {before} and {number} are different drafts of the same image")
        del drafts[number], keys[number]


def _parts(path: str) -> tuple[str, ...]:
    """Return the components of a path, the last one without the suffix of an image."""
    *folders, name = [one for one in path.replace("\\", "/").split("/") if one not in ("", ".", "..")] or [""]
    return (*folders, _stem(name)) if name else ()


def _stem(name: str) -> str:
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in _SUFFIXES else name


def _same_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tell whether the shorter of two paths is the end of the longer one."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def _names_of_folder(name: str) -> set[str]:
    study = _MIMIC_FOLDER.fullmatch(name)
    return {name, study[1]} if study else {name} - {""}
