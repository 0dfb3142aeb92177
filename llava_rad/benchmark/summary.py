"""Tables and notes of a benchmark, with one content for text, Markdown, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from encoder.reader.information import by_reason
from encoder.reader.information import summary as doubtful
from llava_rad.benchmark import leaderboard
from llava_rad.benchmark.inputs import Written, counts
from llava_rad.benchmark.published import REPORTS, SCORES, SOURCE, TABLE_2, WORST_GROUP
from llava_rad.benchmark.scoring import FEW, Agreement, Compared, Scored, as_json
from llava_rad.benchmark.sections import (
    Section,
    agreement_section,
    claims_section,
    diversity_section,
    group_text,
    inputs_sections,
    interval_text,
    point_text,
    published_text,
    score_text,
    short_title,
    signed_texts,
    worst_text,
)
from llava_rad.benchmark.task import Task
from metrics.registry import headline, is_headline, labelers, title
from metrics.strata import UNKNOWN
from metrics.suite import Model
from metrics.tables import NOTICE, aligned, headline_names, latex, markdown, of_patients, p_value

SCHEMA: Final = "llava-rad.benchmark/1"
_MARKS = {"first": "better", "second": "worse", "no difference shown": "no difference shown"}


@dataclass(frozen=True)
class Origin:
    """Origin of the texts.

    Attributes:
        protocol: decoding options of the models; None if no model generated texts.
        models: facts of each model by its name (id, SHA-256, encoder).
        points: description of each reference point by its name.
        own: model of each reference point that is made of a model's reports.
        agreement: of each model's fast protocol with the paper's.
        unreadable: number of unreadable images by model, which are scored as empty reports.
        errors: number of unreadable images by model and reason.
        warnings: of each report by model, why its image is probably damaged or incomplete, else "".
        written: model and inputs of each system that a model of the run wrote.
        priors: whether each report was written with an earlier image, by system; see ``scoring.score``.
        lost: number of reports by system that were written without an image of the study that cannot be read.
    """

    protocol: dict[str, Any] | None = None
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    priors: dict[str, list[str]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Results of a benchmark."""

    task: Task
    scored: Scored
    made: Origin

    @property
    def heading(self) -> str:
        """Data set, split and number of reports."""
        split = f", split {self.task.split}" if self.task.split else ""
        return f"{self.task.name}{split}: {len(self.task.cases):,} reports"

    @property
    def columns(self) -> list[str]:
        """Scores of the main table, one of each metric: the paper's first, computed or not."""
        computed = self.scored.evaluation.models[0].intervals
        chosen = [name for name in SCORES if name in computed or name in self._absent]
        names = headline_names(computed)
        rest = [name for name in names if is_headline(name) and name not in chosen]
        return chosen + rest or names

    @property
    def _absent(self) -> dict[str, str]:
        """Reasons of scores that could not be computed, by score."""
        return {headline(name): why.reason for name, why in self.scored.evaluation.not_computed.items()}

    def sections(self) -> list[Section]:
        """Return all tables."""
        scored = self.scored
        found = [self._main(), *leaderboard.sections(self.task, scored)]
        found += inputs_sections(self.task, self.made.written.values(), scored.worths, self.columns)
        found += [*self._verdicts(), self._points()]
        found += [claims_section(scored.evaluation.models), diversity_section(scored.diversity)]
        found += [agreement_section(self.made.agreement), *self._classes(), *self._strata(), self._published()]
        return [section for section in found if len(section.cells) > 1]

    def notes(self) -> list[str]:
        """Return warnings for readers of the numbers."""
        task, scored, made = self.task, self.scored, self.made
        notes = []
        if task.published and len(task.cases) != REPORTS[task.published]:
            notes.append(
                f"The paper's numbers are of {REPORTS[task.published]:,} reports, these of {len(task.cases):,}: "
                "they cannot be compared."
            )
        if task.sampled_from is not None:
            notes.append(f"A random sample of {len(task.cases):,} of {task.sampled_from:,} reports.")
        if task.missing:
            notes.append(f"{task.missing:,} images of the data set are not there and were left out.")
        for name, count in made.unreadable.items():
            reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(made.errors[name].items()))
            notes.append(f"{name}: {count:,} images could not be read and count as empty reports ({reasons}).")
        notes += [
            f"{name}: {count:,} reports were written without a lateral or prior that cannot be read."
            for name, count in made.lost.items()
        ]
        for name, warnings in made.warnings.items():
            if text := doubtful(warnings):
                notes.append(f"{name}: {text[0].lower()}{text[1:]}")
        for name in scored.models:
            diversity = scored.diversity[name]
            if diversity.share < FEW and len(task.cases) > 1 / FEW:
                notes.append(
                    f"{name} wrote {diversity.distinct:,} different reports for {len(task.cases):,} images: "
                    "it says much the same of every image."
                )
            if made.models.get(name, {}).get("demonstration"):
                notes.append(f"{name} is a demonstration model, whose findings are not reliable.")
        notes += [f"{title(name)} was not computed: {reason}" for name, reason in self._absent.items()]
        notes += scored.evaluation.warnings
        return notes

    def weak(self) -> list[str]:
        """Return sentences that name the scores by which a model does not beat a reference point."""
        found = []
        for model in self.scored.models:
            behind: dict[str, list[str]] = {}
            for one in self._with_points(model):
                for name in self.columns:
                    if name in one.differences and one.verdict(name) != "first":
                        behind.setdefault(one.second, []).append(title(name))
            found += [f"{model} is not shown to beat {point} by {', '.join(names)}." for point, names in behind.items()]
        return found

    def to_text(self) -> str:
        """Return the brief tables and the notes as plain text."""
        parts = [NOTICE, f"{self.heading}. {self.caption}"]
        for section in self.sections():
            if section.brief:
                note = f"\n{section.note}" if section.note else ""
                parts.append(f"{section.heading}\n{aligned(section.cells)}{note}")
        parts += ["\n".join(f"! {note}" for note in self.notes())] if self.notes() else []
        return "\n\n".join(parts) + "\n"

    def to_markdown(self) -> str:
        """Return all tables as GitHub Markdown."""
        parts = [f"# Benchmark: {self.heading}", f"*{NOTICE}*", self.caption]
        parts += ["\n".join(f"- {note}" for note in self.notes())] if self.notes() else []
        for section in self.sections():
            parts += [f"## {section.heading}", markdown(section.cells), *section.note.splitlines()]
        parts += ["## Choices", "```\n" + "\n".join(self.signatures()) + "\n```"]
        return "\n\n".join(parts) + "\n"

    def to_latex(self) -> str:
        """Return all tables as LaTeX with booktabs."""
        parts = [f"% {NOTICE}\n% {self.heading}. {self.caption}"]
        parts += ["\n".join(f"% {note}" for note in self.notes())] if self.notes() else []
        for section in self.sections():
            note = "".join(f"\n% {line}" for line in section.note.splitlines())
            parts.append(f"% {section.heading}\n{latex(section.cells)}{note}")
        parts.append("\n".join(f"% {line}" for line in self.signatures()))
        return "\n\n".join(parts) + "\n"

    def to_json(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Return all results as JSON data.

        Args:
            scores: parsed result of ``metrics.tables.to_json``.
        """
        task, scored, made = self.task, self.scored, self.made
        published = TABLE_2[task.published] if task.published else ()
        return {
            "schema": SCHEMA,
            "notice": NOTICE,
            "task": task.facts() | {"steps": task.steps, "missing": task.missing, "sampled_from": task.sampled_from},
            "protocol": made.protocol,
            "models": made.models,
            "reference_points": made.points,
            "notes": self.notes(),
            "weak": self.weak(),
            "scores": scores,
            "comparisons": [
                {
                    "first": one.first,
                    "second": one.second,
                    "reports": len(task.cases) if one.reports is None else one.reports,
                    "scores": {name: as_json(value) for name, value in one.differences.items()},
                }
                for one in scored.compared
            ],
            "inputs": {name: {"reports": n, "studies": studies} for name, (n, studies) in counts(task.cases).items()},
            "worths": [
                {
                    "model": one.model,
                    "added": list(one.added),
                    "to": list(one.to.names),
                    "reports": one.reports,
                    "patients": one.patients,
                    "scores": {name: as_json(value) for name, value in one.differences.items()},
                }
                for one in scored.worths
            ],
            "diversity": {name: asdict(one) for name, one in scored.diversity.items()},
            "agreement_with_paper_protocol": {
                name: asdict(one) | {"interval": one.interval} for name, one in made.agreement.items()
            },
            "leaderboards": leaderboard.to_json(task, scored.evaluation),
            "unreadable": made.errors,
            "doubtful": {name: by_reason(found) for name, found in made.warnings.items()},
            "published": {
                "source": SOURCE,
                "reports": REPORTS[task.published] if task.published else None,
                "rows": [
                    {"encoder": row.encoder, "tokens": row.tokens}
                    | {name: getattr(row, name)._asdict() for name in SCORES}
                    for row in published
                ],
            },
        }

    def warnings(self) -> dict[str, list[str]]:
        """Return the columns of warnings beside the values of each report, named like those."""
        several = len(self.scored.evaluation.models) > 1
        return {f"{name}/warning" if several else "warning": found for name, found in self.made.warnings.items()}

    def signatures(self) -> list[str]:
        """Return one line per choice on which the numbers depend: protocol, metrics, bootstrap."""
        evaluation = self.scored.evaluation
        chosen = " ".join(f"{key}:{value}" for key, value in (self.made.protocol or {}).items())
        return [
            *([f"protocol {chosen}"] if chosen else []),
            *evaluation.signatures.values(),
            evaluation.bootstrap.signature,
            evaluation.bootstrap.comparisons,
        ]

    @property
    def caption(self) -> str:
        """Units of scores and comparisons, and protocol of the reports."""
        evaluation = self.scored.evaluation
        way = f" Reports by protocol {self.made.protocol['name']}." if self.made.protocol else ""
        unit = of_patients(evaluation.patients if self.task.has_patients else None)
        if evaluation.patients is not None and not self.task.has_patients:
            unit = "No column of patients: by patient, every study counts as a patient of its own."
        if self.task.has_patients and (alone := self.task.patients.count("")):
            unit += f" {alone:,} reports name no patient; each counts as a patient of its own."
        samples = f"{evaluation.bootstrap.samples} bootstrap samples of the reports"
        return f"Scores x 100: median [95 % interval] of {samples}. {unit}{way}"

    def _main(self) -> Section:
        cells = [["", *map(short_title, self.columns), "different reports"]]
        parts = {one.second: f" ({one.reports:,} reports)" for one in self.scored.compared if one.reports is not None}
        for number, model in enumerate(self.scored.evaluation.models):
            if number == len(self.scored.models):
                cells.append(["reference points", *[""] * (len(self.columns) + 1)])
            share = f"{100 * self.scored.diversity[model.name].share:.1f} %"
            name = model.name + parts.get(model.name, "")
            cells.append([name, *(self._cell(model, score) for score in self.columns), share])
            if self.scored.evaluation.patients is not None:
                ends = (interval_text(model.by_patient.get(score)) for score in self.columns)
                cells.append(["  by patient", *ends, ""])
        if self.task.published:
            row = TABLE_2[self.task.published][-1]
            values = [published_text(getattr(row, name)) if name in SCORES else "" for name in self.columns]
            cells.append([f"paper: {row.encoder}", *values, ""])
        note = f"Paper: {SOURCE}, {REPORTS[self.task.published]:,} reports." if self.task.published else ""
        return Section("Scores", cells, note, brief=True)

    def _cell(self, model: Model, name: str) -> str:
        return "not computed" if name in self._absent else score_text(model.intervals[name])

    def _verdicts(self) -> list[Section]:
        """Return one table per pair of models."""
        found = []
        for one in self.scored.compared:
            if one.second not in self.scored.models:
                continue
            cells = [["score", "difference", "95 % interval by patient", "p", "p (Holm)", "better"]]
            of_one = self._model_of(one.first) == self._model_of(one.second)
            names = {"first": one.first, "second": one.second}
            for name in headline_names(one.differences):
                difference, verdict = one.differences[name], one.verdict(name)
                p = p_value(difference.p), p_value(difference.p_holm)
                cells.append([title(name), *signed_texts(difference), *p, names.get(verdict, verdict)])
            note = (
                "Both on the same resampled patients; p of a paired randomisation test by patient, Holm: over all "
                "pairs of models, not over scores. Better: the interval excludes 0 and p (Holm) is below 0.05."
            )
            found.append(Section(f"{one.first} minus {one.second}", cells, note, brief=not of_one))
        return found

    def _model_of(self, system: str) -> str:
        return self.made.written[system].model if system in self.made.written else system

    def _with_points(self, model: str) -> list[Compared]:
        """Return a model's comparisons with the reference points, without those of other models' reports."""
        return [
            one
            for one in self.scored.compared
            if one.first == model and one.second in self.made.points and self.made.own.get(one.second, model) == model
        ]

    def _points(self) -> Section:
        columns = [name for name in self.columns if name not in self._absent]
        cells = [["model", "reference point", *map(short_title, columns)]]
        for model in self.scored.models:
            for one in self._with_points(model):
                verdicts = [
                    f"{signed_texts(one.differences[name])[0]} {_MARKS[one.verdict(name)]}"
                    if name in one.differences
                    else ""
                    for name in columns
                ]
                cells.append([model, one.second, *verdicts])
        note = "\n".join(f"{name}: {text}." for name, text in self.made.points.items())
        return Section("Model minus reference point", cells, note, brief=True)

    def _classes(self) -> list[Section]:
        models = self.scored.evaluation.models
        found = []
        for labeler, words in labelers().items():
            names = [name for name in models[0].intervals if name.startswith(f"{labeler}_f1") and "/" in name]
            if names:
                cells = [["class", "positives", "", *(model.name for model in models)]]
                for name in names:
                    numbers = [score_text(model.intervals[name]) for model in models]
                    cells.append([title(name), f"{models[0].positives[name]:,}", "F1", *numbers])
                    for kind in ("precision", "recall"):
                        of_class = name.replace("_f1", f"_{kind}", 1)
                        cells.append(["", "", kind, *(score_text(model.intervals[of_class]) for model in models)])
                found.append(
                    Section(f"{words} F1, precision and recall by class", cells, "Positives: positive references.")
                )
        return found

    def _strata(self) -> list[Section]:
        models = self.scored.evaluation.models
        return [self._by(column, models) for column in self.task.strata]

    def _by(self, column: str, models: Sequence[Model]) -> Section:
        """Return mean, groups, worst group and gap by one column (appendix C.6): points, with intervals by patient."""
        cells = [["score", column, "n", "patients", *(model.name for model in models)]]
        for name in self.columns:
            tables = [table for model in models if (table := model.strata[column].get(name)) is not None]
            if not tables:
                continue
            points = [
                point_text(table.average) + interval_text(model.by_patient[name], " ")
                for table, model in zip(tables, models, strict=True)
            ]
            total, patients = f"{len(self.task.cases):,}", self.scored.evaluation.patients or len(self.task.cases)
            cells.append([title(name), "all", total, f"{patients:,}", *points])
            for group, first in tables[0].groups.items():
                of_group = (table.groups.get(group) for table in tables)  # a reference point may lack its reports
                values = ["" if one is None else group_text(one.score) for one in of_group]
                cells.append(["", group, f"{first.n:,}", f"{first.patients:,}", *values])
            if tables[0].unknown:
                cells.append(["", UNKNOWN, f"{tables[0].unknown:,}", "", *["no group"] * len(models)])
            cells.append(["", f"worst, n >= {tables[0].minimum}", "", "", *map(worst_text, tables)])
            cells.append(["", "all minus worst", "", "", *(point_text(table.gap) for table in tables)])
        note = ""
        if self.task.published == "mimic-cxr" and column in {"ethnicity", "race"}:
            rows = "; ".join(f"{row.encoder} {row.average}, worst {row.worst}" for row in WORST_GROUP)
            note = f"Paper (C.6.2), ROUGE-L by ethnicity: {rows}."
        return Section(f"By {column}", cells, note)

    def _published(self) -> Section:
        cells = [["encoder", "image tokens", *map(short_title, SCORES)]]
        for row in TABLE_2[self.task.published] if self.task.published else ():
            cells.append([row.encoder, f"{row.tokens}", *(published_text(getattr(row, name)) for name in SCORES)])
        reports = f", {REPORTS[self.task.published]:,} reports" if self.task.published else ""
        return Section(f"The paper's table ({SOURCE}{reports})", cells)
