"""Results in the form of leaderboards: their columns, their published rows beside ours, and the file for a submission.

Published rows are those of ``results/findings_result_*.csv`` in rajpurkarlab/ReXrank (MIT licence), read in November
2026: of IU X-ray and CheXpert Plus at 1602a4c, of MIMIC-CXR at 0b9d62e. They are numbers of whole test files, by study.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from encoder.json_files import read_json
from llava_rad.benchmark.sections import Section
from metrics.boards import BOARDS, Board, Column
from metrics.registry import METRICS
from metrics.tables import Cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llava_rad.benchmark.scoring import Scored
    from llava_rad.benchmark.task import Task
    from metrics.bootstrap import Interval
    from metrics.suite import Evaluation, Model

REXRANK: Final = "rexrank"
FIGURE: Final = "Published rows of ReXrank"
SOURCE: Final = "rajpurkarlab/ReXrank, results/findings_result_*.csv, read in November 2026"
_LARGEST: Final = 1 << 30  # bytes
_TITLES: Final = {"iu-xray": "IU X-ray", "mimic-cxr": "MIMIC-CXR", "chexpert-plus": "CheXpert Plus"}
_IDS: Final = (
    ("iu-xray", re.compile(r"CXR\d+_IM-\d+.*")),
    ("mimic-cxr", re.compile(r"s?\d{8}")),
    ("chexpert-plus", re.compile(r".*patient\d+.*")),
)
"""Data set of a file of ReXrank by the form of its ids."""


@dataclass(frozen=True)
class Published:
    """A model's row on a leaderboard.

    Attributes:
        model: name there.
        institution: of its authors.
        year: of its entry.
        values: by the name of the column.
    """

    model: str
    institution: str
    year: int
    values: Mapping[str, float]


@cache
def published() -> dict[str, list[Published]]:
    """Return the rows of ReXrank by data set, in its order."""
    names = [column.name for column in BOARDS[REXRANK].columns]
    found: dict[str, list[Published]] = {}
    lines = (files("llava_rad.benchmark") / "rexrank.csv").read_text(encoding="utf-8").splitlines()
    for dataset, model, institution, year, *values in list(csv.reader(lines))[1:]:
        row = Published(model, institution, int(year), dict(zip(names, map(float, values), strict=True)))
        found.setdefault(dataset, []).append(row)
    return found


def published_set(task: Task) -> str | None:
    """Return the data set of ReXrank whose file a task is, or None."""
    if task.name != REXRANK:
        return None
    ids = [case.id for case in task.cases]
    return next((name for name, form in _IDS if all(map(form.fullmatch, ids))), None)


def boards_of(task: Task, evaluation: Evaluation) -> list[str]:
    """Return the leaderboards whose columns are shown: the task's own, and those all of whose metrics were wanted."""
    wanted = {*evaluation.models[0].scores, *evaluation.not_computed}
    return [
        name
        for name, board in BOARDS.items()
        if task.name == name or wanted.issuperset(column.metric for column in board.columns)
    ]


def value_of(model: Model, column: Column) -> Interval | None:
    """Return a model's score in a column; None if it was not computed."""
    return next((model.intervals[name] for name in column.scores if name in model.intervals), None)


def sections(task: Task, scored: Scored) -> list[Section]:
    """Return the columns of leaderboards, and the published rows of the task's own."""
    found = []
    for name in boards_of(task, scored.evaluation):
        cells = table(BOARDS[name], scored.evaluation, scored.models)
        found.append(Section(f"Columns of {BOARDS[name].title}", cells, BOARDS[name].about, brief=True))
    if dataset := published_set(task):
        found.append(Section(f"{FIGURE}, {dataset}", published_table(dataset), note(task)))
    return found


def table(board: Board, evaluation: Evaluation, models: Sequence[str]) -> Cells:
    """Return a leaderboard's columns of all systems: score and 95 % interval.

    Args:
        board: the leaderboard.
        evaluation: scores.
        models: names of the systems that are models; the others are reference points.
    """
    cells = [["", *(column.name for column in board.columns)]]
    for number, model in enumerate(evaluation.models):
        if number == len(models):
            cells.append(["reference points", *[""] * len(board.columns)])
        cells.append([model.name, *(_cell(board, column, model, evaluation) for column in board.columns)])
    return cells


def _cell(board: Board, column: Column, model: Model, evaluation: Evaluation) -> str:
    if column.metric not in METRICS:
        return "not in this version"
    if column.metric in evaluation.not_computed:
        return "not computed"
    found = value_of(model, column)
    if found is None:
        return "not asked for"
    if found.point is None:
        return "not defined"
    ends = (
        "" if found.low is None or found.high is None else f" [{board.number(found.low)}, {board.number(found.high)}]"
    )
    return board.number(found.point) + ends


def published_table(dataset: str) -> Cells:
    """Return the published rows of a data set, the best by 1/RadCliQ-v1 first, as ReXrank ranks them."""
    board = BOARDS[REXRANK]
    rows = sorted(published()[dataset], key=lambda row: -row.values["1/RadCliQ-v1"])
    cells = [["model", "year", *(column.name for column in board.columns)]]
    for row in rows:
        numbers = (board.number(row.values[column.name]) for column in board.columns)
        cells.append([f"{row.model} ({row.institution})", str(row.year), *numbers])
    return cells


def note(task: Task) -> str:
    """Return what a reader of the published rows has to know."""
    whole, scored = task.steps.get("in the table", len(task.cases)), len(task.cases)
    less = f" They are of all {whole:,} studies of the file, ours of {scored:,}." if whole != scored else ""
    return f"{SOURCE}; Findings only, by study; numbers without intervals.{less}"


def to_json(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Return columns and published rows as JSON data, by leaderboard."""
    found: dict[str, Any] = {}
    dataset = published_set(task)
    for name in boards_of(task, evaluation):
        columns = {}
        for column in BOARDS[name].columns:
            there = {model.name: value_of(model, column) for model in evaluation.models}
            columns[column.name] = {
                "metric": column.metric if column.metric in METRICS else None,
                "scores": {
                    model: None if one is None else {"point": one.point, "low": one.low, "high": one.high}
                    for model, one in there.items()
                },
            }
        found[name] = {"columns": columns}
        if name == REXRANK and dataset is not None:
            rows = [
                {"model": row.model, "institution": row.institution, "year": row.year, "scores": dict(row.values)}
                for row in published()[dataset]
            ]
            found[name]["published"] = {"source": SOURCE, "dataset": dataset, "rows": rows}
    return found


def draw(figure: Figure, task: Task, evaluation: Evaluation, models: Sequence[str]) -> bool:
    """Draw a panel for each column of ReXrank: published rows in order as grey dots, our models as lines.

    Returns:
        False if there is nothing to draw.
    """
    dataset = published_set(task)
    if dataset is None:
        return False
    board = BOARDS[REXRANK]
    figure.set_size_inches(11, 5.2)
    panels = figure.subplots(2, -(-len(board.columns) // 2), squeeze=False).flat[: len(board.columns)]
    for column, axes in zip(board.columns, panels, strict=True):
        values = sorted(row.values[column.name] for row in published()[dataset])
        axes.plot(range(len(values)), values, ".", color="0.55", ms=5)
        for number, model in enumerate(one for one in evaluation.models if one.name in models):
            found = value_of(model, column)
            if found is None or found.point is None:
                continue
            axes.axhline(found.point, color=f"C{number}", lw=1.4, label=model.name)
            if found.low is not None and found.high is not None:
                axes.axhspan(found.low, found.high, color=f"C{number}", alpha=0.2, lw=0)
        axes.set_title(column.name)
        axes.set_xticks([])
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
        else:
            axes.set_xlabel("not computed here", fontsize=8)
    for axes in list(figure.axes)[len(board.columns) :]:
        axes.set_visible(False)
    figure.supxlabel(
        f"{_TITLES[dataset]}: dots are the {len(published()[dataset])} published rows in order, lines our models with "
        "95 % intervals",
        fontsize=8,
    )
    return True


def submission(table_file: Path, texts: Mapping[str, str]) -> str:
    """Return ReXrank's file with ``model_prediction`` in each study, for a submission.

    Args:
        table_file: ReXrank's file.
        texts: findings by study; others are empty, since its scripts read a prediction of each.

    Raises:
        OSError: if the file cannot be read.
        ValueError, KeyError: if it is not as published.
    """
    found = read_json(table_file, limit=_LARGEST)
    content: dict[str, dict[str, Any]] = found if isinstance(found, dict) else {row["id"]: row for row in found}
    for key, entry in content.items():
        entry["model_prediction"] = prediction(texts.get(key, ""))
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def prediction(findings: str) -> str:
    """Return findings in the form of ReXrank's predictions; "" stays empty."""
    return f"Findings: {findings}" if findings else ""
