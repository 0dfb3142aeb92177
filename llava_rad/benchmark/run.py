"""A benchmark from data and models to its results folder, by one process or by many."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from encoder.files import sha256_of
from llava_rad.benchmark.folder import Folder, slugs
from llava_rad.benchmark.predictions import Shards
from llava_rad.benchmark.reference_points import NEAREST, POINTS, write_features
from llava_rad.benchmark.task import Case, Task, sample
from llava_rad.benchmark.writing import (
    EngineWriter,
    Images,
    Processes,
    Protocol,
    Writer,
    batches_of,
    exact,
    write_share,
)
from llava_rad.conversion.published import open_checkpoint
from metrics.bootstrap import Bootstrap
from metrics.settings import Settings

if TYPE_CHECKING:
    from llava_rad.generation.engine import Engine

Progress = Callable[[str, int], Callable[[int], None]]


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
        points: reference points, of :data:`llava_rad.benchmark.reference_POINTS`.
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
    points: tuple[str, ...] = POINTS
    bank_limit: int = 10_000
    device: str = "auto"
    offline: bool = False
    vllm: Path | None = None
    seed: int = 42
    overwrite: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A task with options: names, files and settings of all that is written.

    Raises:
        ModelError: a model cannot be found (when it is first asked for).
    """

    task: Task
    options: Options

    @property
    def folder(self) -> Folder:
        """The results folder."""
        return Folder(self.options.output)

    @cached_property
    def ids(self) -> list[str]:
        """Of the N cases."""
        return [case.id for case in self.task.cases]

    @cached_property
    def slugs(self) -> dict[str, str]:
        """File names of models and of given predictions."""
        return slugs([*self.options.models, *self.options.predictions])

    @cached_property
    def located(self) -> dict[str, Path]:
        """Folders of the models."""
        offline = self.options.offline
        return {name: open_checkpoint(source, offline=offline) for name, source in self.options.models.items()}

    @property
    def bank(self) -> list[Case]:
        """Where reference points take reports from."""
        return self.task.bank or self.task.cases

    @cached_property
    def searched(self) -> list[Case]:
        """The images among which neighbours are looked for."""
        if not self.task.bank or len(self.bank) <= self.options.bank_limit:
            return self.bank
        return sample(self.bank, self.options.bank_limit, self.options.seed)

    @property
    def neighbours_of(self) -> str | None:
        """The model whose encoder finds neighbours, where there is one and they are wanted."""
        return next(iter(self.options.models), None) if NEAREST in self.options.points else None

    def vectors(self) -> list[tuple[Path, list[Case]]]:
        """Folders of image vectors with their images: the cases, then the training images if there are any."""
        if self.neighbours_of is None:
            return []
        home = self.folder.features(self.slugs[self.neighbours_of])
        parts = [self.task.cases, *([self.searched] if self.task.bank else [])]
        return [(home / _digest(cases), cases) for cases in parts]

    @cached_property
    def compared(self) -> list[Case]:
        """The sample that the paper's protocol writes too; none where it is the protocol."""
        options = self.options
        if options.protocol.name == options.paper.name or not options.agreement:
            return []
        return sample(self.task.cases, options.agreement, options.seed)

    def sample_slug(self, name: str) -> str:
        """Where the paper's protocol writes a model's sample."""
        return f"samples/{self.slugs[name]}-{len(self.compared)}-{self.options.seed}"

    def protocol(self) -> dict[str, Any]:
        """How models write."""
        return asdict(self.options.protocol) | {"engine": "vllm" if self.options.vllm else "llava-rad"}

    def systems(self) -> dict[str, dict[str, Any]]:
        """What must be equal for the predictions of a system to be gone on with."""
        models = {
            self.slugs[name]: {"sha256": sha256_of(folder / "config.json")} | self.protocol()
            for name, folder in self.located.items()
        }
        return models | {
            self.slugs[name]: {"sha256": sha256_of(file), "engine": "file"}
            for name, file in self.options.predictions.items()
        }


class BenchmarkRun:
    """This process's part of a benchmark: it writes its share of all reports; the first process merges them.

    Args:
        plan: what to do.
        processes: this one among those of the run.
        progress: from what is being done and how many steps it has to what is told of steps done.

    Attributes:
        seconds: by what was done.
        precision: torch's switches while models wrote.
    """

    def __init__(self, plan: Plan, processes: Processes, progress: Progress) -> None:
        self.plan, self.processes, self.progress = plan, processes, progress
        self.seconds: dict[str, float] = {}
        self.precision: Mapping[str, Any] = {}

    @contextmanager
    def written(self) -> Iterator[Images | None]:
        """Write all that is missing; within, all predictions are there (in the first process: merged).

        Yields:
            what prepares images, for the page; None where there are none.

        Raises:
            LlavaRadError: and its kinds: data, models or the folder do not allow it.
        """
        plan = self.plan
        if plan.options.models and not plan.task.has_images:
            raise LlavaRadError(
                "the data have no images for a model to write about", hint="--predictions FILE scores texts"
            )
        facts, systems = plan.task.facts(), plan.systems()
        if self.processes.first:
            plan.folder.open(facts, systems, overwrite=plan.options.overwrite)
        self.processes.wait()
        plan.folder.shared(facts)
        if not plan.options.models:
            yield None
            return
        with exact() as self.precision, Images(_readers()) as images:
            for name in plan.options.models:
                self._model(name, images)
            yield images

    def _model(self, name: str, images: Images) -> None:
        """All that one model writes, and its encoder's vectors where they are wanted."""
        plan, protocol = self.plan, self.plan.options.protocol
        engine = cache(lambda: self._engine(name, protocol))
        with ExitStack() as stack:

            def writer() -> Writer:
                if plan.options.vllm is None:
                    return EngineWriter(engine(), protocol)
                from llava_rad.generation.vllm import VllmWriter

                outside = VllmWriter(engine(), plan.located[name], plan.options.vllm)
                return EngineWriter(stack.enter_context(outside), protocol)

            self._write(name, plan.slugs[name], plan.task.cases, writer, protocol, images)
        if name == plan.neighbours_of:
            self._features(engine, images)
        engine.cache_clear()
        _free()
        if plan.compared:
            paper = plan.options.paper
            called, slug = f"{name}, paper protocol", plan.sample_slug(name)
            self._write(
                called, slug, plan.compared, lambda: EngineWriter(self._engine(name, paper), paper), paper, images
            )
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
        folder, processes = self.plan.folder, self.processes
        merged = folder.predictions(slug)
        if not merged.is_file():  # the same for all: it comes into being between two waits
            shards = Shards(folder.shards(slug), processes.rank, processes.size)
            done = shards.done()
            processes.wait()  # nobody writes before everybody has read what is done
            share = sum(len(batch) for batch in batches_of(cases, protocol.batch_size, processes))
            with self.timed(f"writing: {name}"):
                self.seconds[f"reports written: {name}"] = write_share(
                    writer, cases, shards, protocol.batch_size, processes, images,
                    done=done, advance=self.progress(name, share),
                )  # fmt: skip
            processes.wait()
            if processes.first:
                shards.merge([case.id for case in cases], merged)
        processes.wait()
        if processes.first:
            folder.forget(slug)

    def _features(self, engine: Callable[[], Engine], images: Images) -> None:
        with self.timed("image vectors"):
            for folder, cases in self.plan.vectors():
                advance = self.progress("image vectors", len(cases))
                write_features(engine, cases, folder, self.processes, images, advance)
        self.processes.wait()

    def _engine(self, name: str, protocol: Protocol) -> Engine:
        from llava_rad.generation.engine import Engine

        options = self.plan.options
        device = self.processes.device(options.device)
        return Engine.from_pretrained(
            self.plan.located[name], device=device, dtype=protocol.dtype, offline=options.offline
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to what its name has."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


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


def _digest(cases: Sequence[Case]) -> str:
    return hashlib.sha256("\n".join(case.id for case in cases).encode()).hexdigest()[:16]
