"""A benchmark from data and models to its results folder, by one process or by many."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError, ReadError
from llava_rad.benchmark import reference_points as points
from llava_rad.benchmark.features import read_features, write_features
from llava_rad.benchmark.folder import Folder, slugs
from llava_rad.benchmark.page import page
from llava_rad.benchmark.plots import plots
from llava_rad.benchmark.predictions import (
    TAKEN,
    Prediction,
    Shards,
    read_predictions,
    write_file,
    write_predictions,
)
from llava_rad.benchmark.processes import Processes
from llava_rad.benchmark.scoring import Agreement, score
from llava_rad.benchmark.summary import Made, Summary
from llava_rad.benchmark.task import Case, Task, sample
from llava_rad.benchmark.writing import Images, Writer, batches_of, write_share
from llava_rad.checkpoint import locate, sha256
from llava_rad.config import LlavaRadConfig
from metrics import tables
from metrics.bootstrap import Bootstrap
from metrics.cache import Cache
from metrics.pairs import Table, join, read_table
from metrics.suite import Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.engine import Engine
    from llava_rad.generation import Draft
    from llava_rad.protocols import Protocol

Progress = Callable[[str, int], Callable[[int], None]]
SAMPLE_SUFFIX = ".paper-protocol"


@dataclass(frozen=True)
class Options:
    """What to do.

    Attributes:
        output: the results folder.
        models: checkpoint folders or hub repositories by the names that tables call them; None is the embedded one.
        predictions: files of texts that are scored as they are, by name.
        protocol: how models write.
        paper: the protocol that ``protocol`` is compared with.
        agreement: reports of the sample for that.
        points: reference points, of :data:`llava_rad.benchmark.reference_points.POINTS`.
        bank_limit: of the training split so many random images are looked at for neighbours.
        device: of the models.
        offline: never ask the hub.
        vllm: the interpreter of another environment, whose vLLM writes.
        seed: of samples and reference points.
        overwrite: replace what the folder holds.
        settings: metrics.
        bootstrap: how to resample.
        cache: file of annotations, or None.
    """

    output: Path
    models: dict[str, str | None]
    predictions: dict[str, Path]
    protocol: Protocol
    paper: Protocol
    settings: Settings
    agreement: int = 50
    points: tuple[str, ...] = points.POINTS
    bank_limit: int = 10_000
    device: str = "auto"
    offline: bool = False
    vllm: Path | None = None
    seed: int = 42
    overwrite: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    cache: Path | None = None


class _EngineWriter:
    """A model in this process."""

    def __init__(self, engine: Engine, protocol: Protocol) -> None:
        self.recipe, self._engine, self._protocol = engine.recipe, engine, protocol

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Draft]:
        from llava_rad.generation import generate

        return generate(self._engine, images, self._protocol.settings)


class Benchmark:
    """One run in this process.

    Args:
        task: the data.
        options: what to do.
        processes: this one among those of the run.
        progress: from what is being done and how many steps it has to what is told of steps done.
        say: lines for a person.
    """

    def __init__(
        self, task: Task, options: Options, processes: Processes, progress: Progress, say: Callable[[str], None]
    ) -> None:
        self.task, self.options, self.processes, self.progress, self.say = task, options, processes, progress, say
        self.folder = Folder(options.output)
        self.ids = [case.id for case in task.cases]
        self.seconds: dict[str, float] = {}
        self.precision: Mapping[str, Any] = {}
        self.slugs = slugs([*options.models, *options.predictions])
        self.located = {name: locate(source, offline=options.offline) for name, source in options.models.items()}
        self.bank = task.bank or task.cases
        self.made = Made(protocol=self._protocol() if options.models else None)

    def run(self) -> Summary | None:
        """Write reports, merge, score, write the results; None in all processes but the first.

        Raises:
            LlavaRadError: and its kinds: data, models, the folder or the metrics do not allow it.
        """
        if self.options.models and not self.task.has_images:
            raise LlavaRadError(
                "the data have no images for a model to write about", hint="--predictions FILE scores texts"
            )
        facts = self.task.facts()
        if self.processes.first:
            self.folder.open(facts, self._systems(), overwrite=self.options.overwrite)
        self.processes.wait()
        self.folder.shared(facts)
        if not self.options.models:
            return self._results(None) if self.processes.first else None
        from llava_rad.protocols import exact

        with exact() as self.precision, Images(_readers()) as images:
            for name in self.options.models:
                self._model(name, images)
            return self._results(images) if self.processes.first else None

    def _model(self, name: str, images: Images) -> None:
        """All that one model writes, and its encoder's features where they are wanted."""
        slug, protocol = self.slugs[name], self.options.protocol
        engine = cache(lambda: self._engine(name, protocol))
        with ExitStack() as stack:
            writer = self._writer(name, engine, stack)
            self._write(name, slug, self.task.cases, writer, protocol, images)
            if self._neighbours and name == next(iter(self.options.models)):
                self._features(slug, engine, images)
        del engine, writer
        _free()
        if protocol.name != self.options.paper.name and self.options.agreement:
            chosen = sample(self.task.cases, self.options.agreement, self.options.seed)
            paper = cache(lambda: self._engine(name, self.options.paper))
            self._write(
                f"{name}, paper protocol", slug + SAMPLE_SUFFIX, chosen,
                lambda: _EngineWriter(paper(), self.options.paper), self.options.paper, images,
            )  # fmt: skip
            del paper
            _free()

    def _write(
        self,
        name: str,
        slug: str,
        cases: Sequence[Case],
        writer: Callable[[], Writer],
        protocol: Protocol,
        images: Images,
    ) -> None:
        """Write this process's share, wait for the others, merge."""
        merged, processes = self.folder.predictions(slug), self.processes
        if not merged.is_file():  # the same for all: it comes into being between two waits
            shards = Shards(self.folder.shards(slug), processes.rank, processes.size)
            done = shards.done()
            processes.wait()  # nobody writes before everybody has read what is done
            share = sum(len(batch) for batch in batches_of(cases, protocol.batch_size, processes))
            with self._timed(f"writing: {name}"):
                written = write_share(
                    writer, cases, shards, protocol.batch_size, processes, images,
                    done=done, advance=self.progress(name, share),
                )  # fmt: skip
            self.seconds[f"reports written: {name}"] = written
            processes.wait()
            if processes.first:
                shards.merge([case.id for case in cases], merged)
        processes.wait()
        if processes.first:
            self.folder.forget(slug)

    def _features(self, slug: str, engine: Callable[[], Engine], images: Images) -> None:
        with self._timed("image vectors"):
            for part, cases in self._vector_parts().items():
                advance = self.progress(f"image vectors ({part})", len(cases))
                write_features(engine, cases, self.folder.features(slug) / part, self.processes, images, advance)
        self.processes.wait()

    def _vector_parts(self) -> dict[str, list[Case]]:
        parts = {"scored": self.task.cases}
        return parts | ({"training": self._searched} if self.task.bank else {})

    @property
    def _searched(self) -> list[Case]:
        """The images among which neighbours are looked for."""
        if not self.task.bank or len(self.bank) <= self.options.bank_limit:
            return self.bank
        return sample(self.bank, self.options.bank_limit, self.options.seed)

    @property
    def _neighbours(self) -> bool:
        return points.NEAREST in self.options.points

    def _engine(self, name: str, protocol: Protocol) -> Engine:
        from llava_rad.engine import Engine

        device = self.processes.device(self.options.device)
        return Engine.from_pretrained(
            self.located[name], device=device, dtype=protocol.dtype, offline=self.options.offline
        )

    def _writer(self, name: str, engine: Callable[[], Engine], stack: ExitStack) -> Callable[[], Writer]:
        return lambda: _EngineWriter(engine(), self.options.protocol)

    def _results(self, images: Images | None) -> Summary:
        """Score everything and write the results."""
        texts = {name: self._merged(name) for name in self.options.models}
        texts |= {name: self._given(name, file) for name, file in self.options.predictions.items()}
        others = self._points(texts)
        self._agreements()
        options = self.options
        kept = Cache(options.cache) if options.cache is not None else None
        try:
            with self._timed("scoring"):
                scored = score(
                    self.task, texts, others, options.settings, options.bootstrap,
                    cache=kept, report=self.progress, say=self.say,
                )  # fmt: skip
        finally:
            if kept is not None:
                kept.close()
        summary = Summary(self.task, scored, self.made)
        self._write_results(summary, texts, images)
        return summary

    def _merged(self, name: str) -> list[str]:
        found = read_predictions(self.folder.predictions(self.slugs[name]), self.ids)
        if errors := Counter(one.error for one in found if one.error is not None):
            self.made.unreadable[name] = errors.total()
            self.made.errors[name] = dict(errors)
        config = LlavaRadConfig.load(self.located[name])
        self.made.models[name] = {
            "id": config.name,
            "sha256": sha256(self.located[name] / "config.json"),
            "demonstration": config.demonstration,
            "recipe": config.preprocessing.name,
            "image_tokens": config.image_tokens,
            "cut_off": sum(not one.complete for one in found),
        }
        return [one.text for one in found]

    def _given(self, name: str, file: Path) -> list[str]:
        """Texts that others wrote, joined by id."""
        found = read_table(file, "prediction")
        references = Table(dict(zip(self.ids, self.task.references, strict=True)), {}, "id", "reference")
        joined = join(found, references)
        predictions = [Prediction(key, text) for key, text in zip(self.ids, joined.candidates, strict=True)]
        write_predictions(predictions, self.folder.predictions(self.slugs[name]))
        self.made.models[name] = {"id": name, "predictions_sha256": sha256(file)}
        return joined.candidates

    def _points(self, models: dict[str, list[str]]) -> dict[str, list[str]]:
        """Texts of the reference points, written to files too."""
        task, seed = self.task, self.options.seed
        found: dict[str, list[str]] = {}
        taken_from = (
            f"the training split ({len(self.bank):,} images)" if task.bank else "other patients of the scored split"
        )
        for point in self.options.points:
            about = f"{points.DESCRIPTIONS[point]}; taken from {taken_from}"
            if point == points.SHUFFLED:
                for name, texts in models.items():
                    called = f"{name}, shuffled"
                    found[called] = points.shuffled(task.cases, texts, seed)
                    self.made.points[called], self.made.own[called] = points.DESCRIPTIONS[point], name
                continue
            if point == points.MOST_FREQUENT:
                found[point] = points.most_frequent(task.cases, self.bank)
            elif point == points.RANDOM:
                found[point] = points.random(task.cases, self.bank, seed)
            elif self.options.models:
                found[point] = self._nearest()
                about += f", {len(self._searched):,} of them searched" if len(self._searched) < len(self.bank) else ""
                about += f"; encoder of {next(iter(self.options.models))}"
            else:
                self.say(f"reference point {point} needs a model and images: left out")
                continue
            self.made.points[point] = about
        names = slugs([*self.slugs.values(), *found])
        for name, texts in found.items():
            predictions = [Prediction(key, text) for key, text in zip(self.ids, texts, strict=True)]
            write_predictions(predictions, self.folder.predictions(names[name]), notice=TAKEN)
        return found

    def _nearest(self) -> list[str]:
        folder = self.folder.features(self.slugs[next(iter(self.options.models))])
        parts = self._vector_parts()
        vectors = {part: read_features(cases, folder / part) for part, cases in parts.items()}
        return points.nearest(
            self.task.cases, vectors["scored"], self._searched, vectors.get("training", vectors["scored"])
        )

    def _agreements(self) -> None:
        """How many reports of the sample are the paper protocol's."""
        for name in self.options.models:
            file = self.folder.predictions(self.slugs[name] + SAMPLE_SUFFIX)
            if self.options.protocol.name == self.options.paper.name or not file.is_file():
                continue
            chosen = [case.id for case in sample(self.task.cases, self.options.agreement, self.options.seed)]
            paper = {one.id: one.text for one in read_predictions(file, chosen)}
            ours = {one.id: one.text for one in read_predictions(self.folder.predictions(self.slugs[name]), self.ids)}
            different = sum(ours[key] != text for key, text in paper.items())
            self.made.agreement[name] = Agreement(len(chosen), different)

    def _write_results(self, summary: Summary, texts: dict[str, list[str]], images: Images | None) -> None:
        scores = json.loads(tables.to_json(summary.scored.evaluation))
        environment = self._environment()

        def thumbnail(row: int) -> npt.NDArray[np.uint8] | None:
            if images is None:
                return None
            recipe = LlavaRadConfig.load(next(iter(self.located.values()))).preprocessing
            image = images.one(self.task.cases[row], recipe)
            return None if isinstance(image, ReadError) else image

        drawings = plots(summary)
        files: dict[str, str | bytes] = {
            "references.jsonl": self._references(),
            "per_sample.csv": tables.by_report_csv(summary.scored.evaluation),
            "summary.json": json.dumps(summary.to_json(scores), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "summary.md": summary.to_markdown(),
            "summary.tex": summary.to_latex(),
            "environment.json": json.dumps(environment, indent=2, ensure_ascii=False) + "\n",
            "index.html": page(summary, texts, drawings, environment, thumbnail),
        }
        for name, content in files.items():
            write_file(self.folder.path / name, content.encode() if isinstance(content, str) else content)
        if drawings:
            (self.folder.path / "figures").mkdir(exist_ok=True)
            for number, data in enumerate(drawings.values()):
                write_file(self.folder.path / "figures" / f"{('scores', 'classes', 'reports')[number]}.svg", data)

    def _references(self) -> str:
        lines = []
        for row, case in enumerate(self.task.cases):
            content = {"id": case.id, "reference": case.reference, "subject": case.subject, "study": case.study}
            content |= {column: values[row] for column, values in self.task.strata.items()}
            lines.append(json.dumps(content, ensure_ascii=False) + "\n")
        return "".join(lines)

    def _protocol(self) -> dict[str, Any]:
        facts = asdict(self.options.protocol)
        return facts | {"engine": "vllm" if self.options.vllm else "llava-rad"}

    def _systems(self) -> dict[str, dict[str, Any]]:
        """What must be equal for predictions to be gone on with."""
        return {
            self.slugs[name]: {"sha256": sha256(folder / "config.json")} | self._protocol()
            for name, folder in self.located.items()
        }

    def _environment(self) -> dict[str, Any]:
        from importlib.metadata import version

        packages = ("llava-rad", "torch", "transformers", "numpy", "pydicom", "pillow")
        found: dict[str, Any] = {
            "command": ["llava-rad", *sys.argv[1:]],
            "packages": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "processes": self.processes.size,
        }
        if self.options.models:
            import torch

            gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
            found |= {"threads": torch.get_num_threads(), "gpu": gpu, "cuda": torch.version.cuda if gpu else None}
            found["precision"] = dict(self.precision)
        return found | {"seconds": {name: round(value, 2) for name, value in self.seconds.items()}}

    def _timed(self, name: str) -> _Timer:
        return _Timer(self.seconds, name)


@dataclass
class _Timer:
    """Seconds of a block, added up by name."""

    seconds: dict[str, float]
    name: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.start


def _readers() -> int:
    """Decoding processes: half of the cores that this process has."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return max(1, min(8, (os.cpu_count() or 1) // (2 * local)))


def _free() -> None:
    """Give memory of a model that is done with back before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
