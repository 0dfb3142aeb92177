"""Data of a benchmark: the images of a split, their reference reports, groups of patients."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encoder.datasets.columns import FIELDS, field_of, matching, plain
from encoder.datasets.values import known as known_text
from encoder.errors import LlavaRadError
from llava_rad.benchmark.published import REPORTS, TABLE
from llava_rad.benchmark.tables import group_of, groups_of, listed, lookup, read_rows, read_table
from llava_rad.reports.pairs import NO_CONTEXT, Context, Pair, collapse
from llava_rad.reports.public_tables import TABLES as PUBLIC_TABLES
from llava_rad.reports.public_tables import pairs_without_images
from llava_rad.reports.registry import DATASETS, Found, Progress, no_progress, places, there
from metrics.base import MetricError
from metrics.strata import UNKNOWN

_KEYS = {
    "id": ("id", "dicom_id", "image_id", "image", "uid"),
    "study": ("study_id", "study"),
    "subject": ("subject_id", "subject", "patient_id"),
}
"""Key columns of a table of groups, the most specific first."""
_OWN = ("view", "dataset", "subject", "study")


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its reference report.

    Attributes:
        id: unique within the data set.
        reference: the Findings section.
        image: path; None if only texts are scored.
        subject: id of the patient, "" if unknown.
        study: id of the study, "" if unknown.
        view: projection.
        dataset: name.
        attributes: of the patient.
        context: further inputs of the study.
    """

    id: str
    reference: str
    image: Path | None = None
    subject: str = ""
    study: str = ""
    view: str = ""
    dataset: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    context: Context = NO_CONTEXT

    @property
    def patient(self) -> str:
        """Id that distinguishes patients: the subject, else the study, else the image."""
        return self.subject or self.study or self.id


@dataclass(frozen=True)
class Task:
    """One split of a data set.

    Attributes:
        name: of the data set.
        split: "" is the whole data set.
        cases: N cases in the order of the table.
        bank: cases of the training split, the source of the reference points' reports; may be empty.
        strata: groups of the N cases by column.
        steps: number of images after each filter of the reader.
        missing: number of images without a file, which are left out.
        sampled_from: number of cases of which these are a random sample; None if there is no sampling.
        table: published table that holds the cases, or None.
    """

    name: str
    split: str
    cases: list[Case]
    bank: list[Case] = field(default_factory=list)
    strata: dict[str, list[str]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    sampled_from: int | None = None
    table: Path | None = None

    @property
    def published(self) -> str | None:
        """Name of the data set in the paper's table, or None."""
        name = "mimic-cxr" if self.name == "mimic-cxr-jpg" else self.name
        return name if name in REPORTS else None

    @property
    def has_images(self) -> bool:
        """True if every case has an image."""
        return all(case.image is not None for case in self.cases)

    @property
    def patients(self) -> list[str]:
        """N ids of patients, "" for a case whose patient is unknown; without any patients those of the studies."""
        of_one = len({case.dataset for case in self.cases}) < 2
        kind = "subject" if self.has_patients else "study"
        ids = [getattr(case, kind) for case in self.cases]
        return [
            one if of_one or not one else f"{case.dataset}/{one}" for case, one in zip(self.cases, ids, strict=True)
        ]

    @property
    def has_patients(self) -> bool:
        """True if the data set names patients."""
        return any(case.subject for case in self.cases)

    @property
    def references(self) -> list[str]:
        """N reference reports."""
        return [case.reference for case in self.cases]

    def facts(self) -> dict[str, Any]:
        """Return the data that identify the task; runs in one folder share them."""
        digest = hashlib.sha256()
        for case in self.cases:
            for text in (case.id, case.reference):
                digest.update(len(text.encode()).to_bytes(8, "big") + text.encode())
        return {"dataset": self.name, "split": self.split, "reports": len(self.cases), "sha256": digest.hexdigest()}


def load(
    dataset: str,
    data: Path,
    *,
    images: Path | None = None,
    reports: Path | None = None,
    tables: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    strata: Sequence[str] = (),
    groups: Sequence[Path] = (),
    progress: Progress = no_progress,
) -> Task:
    """Read a data set.

    Args:
        dataset: one of ``llava_rad.benchmark.published.NAMES``; ``csv`` is any table of reports (CSV or JSON lines),
            with or without images.
        data: folder of the data set, or the table.
        images: folder of the images of a table, if not that of the table.
        reports: path of the reports, if not in ``data``.
        tables: path of the tables of images, if not in ``data``.
        split: to score; a table without splits is scored as a whole.
        limit: size of a random sample to score.
        seed: of the sample.
        strata: columns to group by: of the table, of ``groups``, or ``view``.
        groups: tables keyed by id, study_id or subject_id that have these columns. Of several rows of one key the
            most frequent value counts.
        progress: receives steps and their number.

    Raises:
        LlavaRadError: if there is nothing to score, a column is unknown, or a complete data set differs from the
            paper's numbers.
        InputError: if a table cannot be read.
    """
    if dataset == TABLE and not _names_images(data):
        cases, bank = _texts(data), []
        found_steps, missing, name = {"in the table": len(cases)}, 0, TABLE
        split = ""
    else:
        found, with_images = _found(dataset, data, images, reports, tables, progress)
        every = [_case(pair, with_image=with_images) for pair in found.pairs]
        splits = [pair.row.split for pair in found.pairs]
        if dataset == "rexrank" and len(set(splits)) == 1:  # each of its files is one split, under several names
            split = splits[0]
        if not any(splits):
            split = ""
        cases = [case for case, own in zip(every, splits, strict=True) if not split or own == split]
        bank = [case for case, own in zip(every, splits, strict=True) if split and own == "train" != split]
        found_steps, missing, name = found.steps, found.missing, dataset
    if not cases:
        raise LlavaRadError(f"the data set has no pair of the split {split!r}")
    total = len(cases)
    if limit is not None and limit < total:
        cases = sample(cases, limit, seed)
    given = [*groups, *([data] if dataset == TABLE and data.is_file() else [])]
    known = [read_rows(table) for table in given] if strata else []
    columns = {column: _groups(column, cases, known) for column in strata}
    return Task(
        name,
        split,
        cases,
        bank,
        columns,
        found_steps,
        missing,
        total if len(cases) < total else None,
        data if dataset in PUBLIC_TABLES and data.is_file() else None,
    )


def sample(cases: Sequence[Case], number: int, seed: int) -> list[Case]:
    """Draw a random sample in the order of the cases; a case's rank depends on the seed and its id only."""
    ranked = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}/{case.id}".encode()).digest())
    chosen = {case.id for case in ranked[:number]}
    return [case for case in cases if case.id in chosen]


def _found(
    dataset: str, data: Path, images: Path | None, reports: Path | None, tables: Path | None, progress: Progress
) -> tuple[Found, bool]:
    """Read a data set; return its pairs, and False if only their texts are there.

    Raises:
        LlavaRadError: see :func:`load`.
    """
    adapter = DATASETS["table" if dataset == TABLE else dataset]
    if dataset in PUBLIC_TABLES and data.is_file():
        if images is None:
            pairs = pairs_without_images(dataset, data)
            if not any(there(pair.row.path) for pair in pairs):
                return Found(pairs, {"in the table": len(pairs)}, 0, "the table", (data,)), False
        return adapter.find(places(images or data, data, tables), progress=progress), True
    if images is not None:
        raise LlavaRadError("--images is the folder of a table's images", hint="for this data set name it as --data")
    found = adapter.find(places(data, reports, tables), progress=progress)
    if fault := adapter.fault(found):
        raise LlavaRadError(
            f"{adapter.title} is complete, but there are {fault}",
            hint="llava-rad reports shows what each filter leaves",
        )
    return found, True


def _case(pair: Pair, *, with_image: bool) -> Case:
    row, image = pair.row, pair.row.path if with_image else None
    return Case(
        pair.id, pair.findings, image, row.subject, row.study, row.view, row.dataset, row.attributes, pair.context
    )


def _names_images(table: Path) -> bool:
    """Return True for a folder, and for a table with a column of images."""
    if not table.exists():
        raise LlavaRadError("there is no such table or folder of data")
    if table.is_dir():
        return True
    first = read_rows(table)[0]
    return any(first[name] for name in matching(first, "image") if plain(name) not in FIELDS["id"])


def _texts(table: Path) -> list[Case]:
    found = read_table(table, "reference")

    def known(row: Mapping[str, Any], kind: str) -> str:
        names = (name for usual in _KEYS[kind] for name in row if plain(name) == plain(usual))
        return next((text for name in names if (text := known_text(str(row[name] or "")))), "")

    earlier = matching(dict.fromkeys(name for row in found.rows.values() for name in row), "prior_report")[:1]

    def context(row: Mapping[str, Any]) -> Context:
        text = known_text(str(row.get(earlier[0]) or "")) if earlier else ""
        return Context(prior_report=collapse(text)) if text else NO_CONTEXT

    return [
        Case(key, text, None, known(row, "subject"), known(row, "study"), context=context(row))
        for key, text, row in ((key, text, found.rows[key]) for key, text in found.texts.items())
    ]


def _groups(column: str, cases: Sequence[Case], tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the group of each case from the first table that has the column, or from the data set itself."""
    for rows in tables:
        of_rows = groups_of(column, rows)
        if of_rows is None:
            continue
        kind, key = _key(rows)
        counts: dict[str, Counter[str]] = {}
        for row, group in zip(rows, of_rows, strict=True):
            counts.setdefault(str(lookup(row, key)), Counter())[group] += 1
        if kind == "id" and (twice := {name for name, found in counts.items() if found.total() > 1}):
            where = [at for at, row in enumerate(rows, 1) if str(lookup(row, key)) in twice]
            raise MetricError(f"a table of groups: {len(twice)} of its {key} come more than once: {listed(where)}")
        groups = {
            name: max(found, key=lambda group: (group != UNKNOWN, found[group])) for name, found in counts.items()
        }
        named = [groups.get(getattr(case, kind)) for case in cases]
        if all(group is None for group in named):
            raise LlavaRadError(f"no case of the data set has its {key} in the table of groups")
        return [group or UNKNOWN for group in named]
    if column in _OWN:
        return [group_of(column, getattr(case, column)) for case in cases]
    if any(field_of(column) in case.attributes for case in cases):
        return [group_of(column, case.attributes.get(field_of(column))) for case in cases]
    raise LlavaRadError(
        f"there is no column {column!r} to group by",
        hint="--groups names a table with it and with id, study_id or subject_id",
    )


def _key(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    rows = list(rows)
    for kind, usual in _KEYS.items():
        for name in (name for one in usual for name in rows[0] if plain(name) == plain(one)):
            if all(lookup(row, name) not in (None, "") for row in rows):
                return kind, name
    raise MetricError(
        "the table of groups has no column to find the cases by", hint="id, study_id or subject_id, in every row"
    )
