"""Scoring of the merged predictions, and the files of the results folder."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ReadError
from encoder.files import sha256_of
from encoder.preprocessing import rad_dino
from llava_rad.benchmark import leaderboard
from llava_rad.benchmark import reference_points as points
from llava_rad.benchmark.disagreements import disagreements
from llava_rad.benchmark.disagreements import lines as disagreement_lines
from llava_rad.benchmark.folder import slugs
from llava_rad.benchmark.images import Images
from llava_rad.benchmark.inputs import FRONTAL
from llava_rad.benchmark.page import CLASSES, REPORTS, SCORES, WORTH, page, plots
from llava_rad.benchmark.plan import Plan
from llava_rad.benchmark.predictions import TAKEN, Prediction, read_predictions, write_predictions
from llava_rad.benchmark.run import BenchmarkRun
from llava_rad.benchmark.scoring import Agreement, score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.tables import Table, join, read_table
from llava_rad.generation.checkpoint_model import FoundCheckpoint
from llava_rad.outputs.files import write_whole
from metrics import tables
from metrics.cache import Cache
from metrics.comparisons import GIVEN, NOT_GIVEN
from metrics.registry import PRIOR_CLAIMS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FIGURES = {
    SCORES: "scores",
    CLASSES: "classes",
    REPORTS: "reports",
    WORTH: "inputs",
    leaderboard.FIGURE: "leaderboard",
}


def results(run: BenchmarkRun, images: Images | None, say: Callable[[str], None]) -> Summary:
    """Score all systems and write the results folder.

    Args:
        run: with complete predictions.
        images: prepares the thumbnails of the page; None without images.
        say: receives messages.
    """
    plan = run.plan
    options, made = plan.options, Origin(protocol=plan.protocol() if plan.options.models else None)
    texts = {name: _merged(plan, name, made) for name in plan.written}
    texts |= {name: _given(plan, name, file, made) for name, file in options.predictions.items()}
    others = _points(plan, texts, made, say)
    kept = Cache(options.cache, say=say) if options.cache is not None else None
    settings = options.settings
    if made.priors:
        settings = replace(settings, metrics=tuple(dict.fromkeys((*settings.metrics, PRIOR_CLAIMS))))
    try:
        with run.timed("scoring"):
            scored = score(
                plan.task, texts, others, settings, options.bootstrap,
                written=made.written, priors=made.priors, cache=kept, report=run.progress, say=say,
            )  # fmt: skip
    finally:
        if kept is not None:
            kept.close()
    scored.evaluation.warnings.extend(
        f"{name}: its reports may be of other images: an earlier version wrote them and recorded no SHA-256 of images "
        "(--overwrite writes them anew)."
        for name in plan.written
        if plan.slugs[name] in run.unverified
    )
    summary = Summary(plan.task, scored, made)
    _write(run, summary, texts, images)
    return summary


def _merged(plan: Plan, name: str, made: Origin) -> list[str]:
    """Read the texts of a model and record their origin."""
    found = read_predictions(plan.folder.predictions(plan.slugs[name]), plan.ids)
    if errors := Counter(one.error for one in found if one.error is not None):
        made.unreadable[name] = errors.total()
        made.errors[name] = dict(errors)
    made.warnings[name] = [one.warning for one in found]
    written = plan.written[name]  # earlier versions, which recorded no inputs, wrote from the frontal image alone
    made.written[name] = replace(written, given=[one.inputs or (FRONTAL,) for one in found])
    made.priors[name] = [GIVEN if "prior" in names else NOT_GIVEN for names in made.written[name].given]
    due = [written.inputs.given(case.context) for case in plan.task.cases]
    lost = sum(bool(one.inputs) and one.inputs != wanted for one, wanted in zip(found, due, strict=True))
    if lost:
        made.lost[name] = lost
    model = plan.models.found[written.model]
    made.models[name] = {
        "id": model.name,
        "sha256": model.verify(plan.digests),
        "inputs": list(written.inputs.names),
        "demonstration": model.config.demonstration,
        "recipe": model.config.preprocessing.name,
        **({"image_tokens": model.config.image_tokens} if isinstance(model, FoundCheckpoint) else {}),
        "cut_off": sum(not one.complete for one in found),
    }
    if plan.compared:
        sampled = read_predictions(plan.folder.predictions(plan.sample_slug(name)), [case.id for case in plan.compared])
        ours = {one.id: one.text for one in found}
        made.agreement[name] = Agreement(len(sampled), sum(ours[one.id] != one.text for one in sampled))
    return [one.text for one in found]


def _given(plan: Plan, name: str, file: Path, made: Origin) -> list[str]:
    """Read a file of texts, join it by id and record its origin."""
    references = Table(
        dict(zip(plan.ids, plan.task.references, strict=True)),
        {},
        "id",
        "reference",
        numbers={key: at for at, key in enumerate(plan.ids, 1)},
    )
    joined = join(read_table(file, "prediction"), references)
    predictions = [Prediction(key, text) for key, text in zip(plan.ids, joined.candidates, strict=True)]
    write_predictions(predictions, plan.folder.predictions(plan.slugs[name]))
    made.models[name] = {"id": name, "predictions_sha256": sha256_of(file)}
    if "prior" in joined.context:
        made.priors[name] = joined.context["prior"]
    return joined.candidates


def _points(
    plan: Plan, models: dict[str, list[str]], made: Origin, say: Callable[[str], None]
) -> dict[str, Sequence[str | None]]:
    """Build the texts of the reference points, None where one has no text, and write them to files."""
    task, seed, bank = plan.task, plan.options.seed, plan.bank
    found: dict[str, Sequence[str | None]] = {}
    taken_from = f"the training split ({len(bank):,} images)" if task.bank else "other patients of the scored split"
    for point in plan.options.points:
        about = f"{points.DESCRIPTIONS[point]}; taken from {taken_from}"
        if point == points.SHUFFLED:
            for name, texts in models.items():
                called = f"{name}, shuffled"
                found[called] = points.shuffled(task.cases, texts, seed)
                made.points[called], made.own[called] = points.DESCRIPTIONS[point], name
            continue
        if point == points.MOST_FREQUENT:
            found[point] = points.most_frequent(task.cases, bank)
        elif point == points.RANDOM:
            found[point] = points.random(task.cases, bank, seed)
        elif point == points.PRIOR:
            copied = [case.context.prior_report or None for case in task.cases]
            number = sum(text is not None for text in copied)
            if not number:
                say(f"reference point {point}: no study of the data has an earlier report: left out")
                continue
            found[point] = copied
            about = f"{points.DESCRIPTIONS[point]}: {number:,} of {len(copied):,} reports, on which it is compared"
        elif plan.neighbours_of is not None:
            vectors = [points.read_features(cases, folder) for folder, cases in plan.vectors()]
            found[point] = points.nearest(task.cases, vectors[0], plan.searched, vectors[-1])
            about += f", {len(plan.searched):,} of them searched" if len(plan.searched) < len(bank) else ""
            about += f"; encoder of {plan.neighbours_of}"
        else:
            say(f"reference point {point} needs a model and images: left out")
            continue
        made.points[point] = about
    for name, slug in slugs(found).items():
        given = [(key, text) for key, text in zip(plan.ids, found[name], strict=True) if text is not None]
        predictions = [Prediction(key, text) for key, text in given]
        write_predictions(predictions, plan.folder.reference_point(slug), notice=TAKEN)
    return found


def _write(run: BenchmarkRun, summary: Summary, texts: dict[str, list[str]], images: Images | None) -> None:
    plan, folder = run.plan, run.plan.folder.path
    recipe = next((model.config.preprocessing for model in plan.models.found.values()), rad_dino(224))

    def thumbnail(row: int) -> npt.NDArray[np.uint8] | None:
        if images is None or plan.task.cases[row].image is None:
            return None
        image = images.one(plan.task.cases[row], recipe)
        return None if isinstance(image, ReadError) else image.pixels

    def as_json(content: Any) -> str:
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    environment, drawings = _environment(run), plots(summary)
    found = disagreements(texts) if len(texts) > 1 else []
    files: dict[str, str | bytes] = {
        "references.jsonl": _references(plan),
        "per_sample.csv": tables.by_report_csv(summary.scored.evaluation, summary.warnings()),
        "summary.json": as_json(summary.to_json(json.loads(tables.to_json(summary.scored.evaluation)))),
        "summary.md": summary.to_markdown(),
        "summary.tex": summary.to_latex(),
        "environment.json": as_json(environment),
        "index.html": page(summary, texts, drawings, environment, thumbnail, found),
    }
    if found:
        files["disagreements.jsonl"] = disagreement_lines(found, plan.ids)
    if plan.task.name == leaderboard.REXRANK and plan.task.table is not None:
        (folder / "submissions").mkdir(exist_ok=True)
        for name, written in texts.items():
            by_study = dict(zip(plan.ids, written, strict=True))
            files[f"submissions/{plan.slugs[name]}.json"] = leaderboard.submission(plan.task.table, by_study)
    (folder / "figures").mkdir(exist_ok=True)
    files |= {f"figures/{_FIGURES[heading]}.svg": data for heading, data in (drawings or {}).items()}
    for name, content in files.items():
        write_whole(folder / name, content.encode() if isinstance(content, str) else content, overwrite=True)


def _references(plan: Plan) -> str:
    lines = []
    people = plan.task.patients
    for row, case in enumerate(plan.task.cases):
        content = {"id": case.id, "reference": case.reference, "subject": people[row], "study": case.study}
        content |= {column: values[row] for column, values in plan.task.strata.items()}
        lines.append(json.dumps(content, ensure_ascii=False) + "\n")
    return "".join(lines)


def _environment(run: BenchmarkRun) -> dict[str, Any]:
    """Collect command, versions, machine and durations."""
    from importlib.metadata import version

    packages = ("llava-rad", "torch", "transformers", "numpy", "pydicom", "pillow")
    found: dict[str, Any] = {
        "command": ["llava-rad", *sys.argv[1:]],
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "processes": run.processes.size,
    }
    if run.plan.options.models:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        found |= {"threads": torch.get_num_threads(), "gpu": gpu, "cuda": torch.version.cuda if gpu else None}
        found["precision"] = dict(run.precision)
    return found | {"seconds": {name: round(value, 2) for name, value in run.seconds.items()}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
