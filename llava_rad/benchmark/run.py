"""A benchmark from data and models to its results folder, by one process or by many."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from llava_rad.benchmark.features import write_features
from llava_rad.benchmark.plan import Plan
from llava_rad.benchmark.predictions import Shards
from llava_rad.benchmark.processes import Processes
from llava_rad.benchmark.task import Case
from llava_rad.benchmark.writing import Images, Writer, batches_of, write_share

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.benchmark.protocols import Protocol
    from llava_rad.generation.decoding import Draft
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.vllm import VllmWriter

Progress = Callable[[str, int], Callable[[int], None]]


class _Writer:
    """A model in this process, or its language model in vLLM's, by a protocol."""

    def __init__(self, model: Engine | VllmWriter, protocol: Protocol) -> None:
        self.recipe, self._model, self._protocol = model.recipe, model, protocol

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Draft]:
        from llava_rad.generation.decoding import generate
        from llava_rad.generation.engine import Engine

        if isinstance(self._model, Engine):
            return generate(self._model, images, self._protocol.settings)
        return self._model.generate(images, self._protocol.settings)


class Run:
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
        from llava_rad.benchmark.protocols import exact

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
                    return _Writer(engine(), protocol)
                from llava_rad.generation.vllm import VllmWriter

                outside = VllmWriter(engine(), plan.located[name], plan.options.vllm)
                return _Writer(stack.enter_context(outside), protocol)

            self._write(name, plan.slugs[name], plan.task.cases, writer, protocol, images)
        if name == plan.neighbours_of:
            self._features(engine, images)
        engine.cache_clear()
        _free()
        if plan.compared:
            paper = plan.options.paper
            called, slug = f"{name}, paper protocol", plan.sample_slug(name)
            self._write(called, slug, plan.compared, lambda: _Writer(self._engine(name, paper), paper), paper, images)
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
