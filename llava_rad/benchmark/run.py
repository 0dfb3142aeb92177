"""Run of a benchmark: the part of this process, which writes its share of all reports."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from llava_rad.benchmark.images import Images
from llava_rad.benchmark.inputs import InputSet, check
from llava_rad.benchmark.models import ModelWriter
from llava_rad.benchmark.plan import Plan
from llava_rad.benchmark.predictions import Shards
from llava_rad.benchmark.reference_points import write_features
from llava_rad.benchmark.task import Case
from llava_rad.benchmark.writing import EngineWriter, Processes, Protocol, Writer, batches_of, exact, write_share

if TYPE_CHECKING:
    from llava_rad.generation.engine import Engine


class BenchmarkRun:
    """This process's part of a benchmark: it writes its share of all reports; the first process merges them.

    Args:
        plan: task and options.
        processes: of the run.

    Attributes:
        unverified: systems whose reports may be of other images, since an earlier version did not record them.
        seconds: duration by activity.
        precision: torch's switches during decoding.
    """

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self.plan, self.processes, self.progress = plan, processes, plan.progress
        self.unverified: list[str] = []
        self.seconds: dict[str, float] = {}
        self.precision: Mapping[str, Any] = {}

    @contextmanager
    def written(self) -> Iterator[Images | None]:
        """Write all missing predictions; inside the block they are complete (and merged, in the first process).

        Yields:
            The preparation of images, for the page; None if there are none.

        Raises:
            LlavaRadError: if the data, the models or the results folder do not allow the run.
        """
        plan = self.plan
        if plan.options.models and not plan.task.has_images:
            hint = "--images DIR, or --predictions FILE"
            raise LlavaRadError("the data have no images for a model to write about", hint=hint)
        if plan.options.inputs:
            places = {name: found.config.places for name, found in plan.models.found.items()}
            check(plan.options.inputs, places, plan.task.cases)
        facts = plan.task.facts()
        if self.processes.first:
            systems = plan.systems()
            self.unverified = plan.folder.open(facts, systems, overwrite=plan.options.overwrite)
            plan.digests.save()
        self.processes.wait()
        if not self.processes.first:  # with the digests that the first process has kept
            systems = plan.systems()
        plan.folder.shared(facts, systems)
        if not plan.options.models:
            with Images(1, None) if plan.task.has_images else nullcontext() as images:  # of reports of others
                yield images
            return
        with exact() as self.precision, Images(_readers(), plan.images) as images:
            for name in plan.options.models:
                self._model(name, images)
            yield images

    def _model(self, model: str, images: Images) -> None:
        """Write the reports of one model, and its encoder's image vectors if they are needed."""
        plan, protocol = self.plan, self.plan.options.protocol
        ours = model in plan.models.folders
        engine = cache(lambda: self._engine(model, protocol, decodes=plan.options.vllm is None))
        sets = {name: one.inputs for name, one in plan.written.items() if one.model == model}
        with ExitStack() as stack:

            @cache
            def writer() -> Writer:
                if not ours:
                    return stack.enter_context(closing(self._other(model, protocol)))
                if plan.options.vllm is None:
                    return EngineWriter(engine(), protocol)
                from llava_rad.generation.vllm import VllmWriter

                outside = VllmWriter(engine(), plan.models.folders[model], plan.options.vllm)
                return EngineWriter(stack.enter_context(outside), protocol)

            size = self._together(protocol, ours=ours)
            for name, inputs in sets.items():
                self._write(name, plan.slugs[name], plan.task.cases, inputs, writer, size, images)
            writer.cache_clear()
        if model == plan.neighbours_of:
            self._features(engine, images)
        engine.cache_clear()
        _free()
        if plan.compared:
            paper = plan.options.paper
            exactly = cache(
                lambda: EngineWriter(self._engine(model, paper), paper) if ours else self._other(model, paper)
            )
            size = self._together(paper, ours=ours)
            for name, inputs in sets.items():
                called, slug = f"{name}, paper protocol", plan.sample_slug(name)
                self._write(called, slug, plan.compared, inputs, exactly, size, images)
            exactly.cache_clear()
            _free()

    def _write(
        self,
        name: str,
        slug: str,
        cases: Sequence[Case],
        inputs: InputSet,
        writer: Callable[[], Writer],
        size: int,
        images: Images,
    ) -> None:
        """Write this process's share, ``size`` images a call, wait for the other processes, merge."""
        folder, processes = self.plan.folder, self.processes
        merged = folder.predictions(slug)
        if not merged.is_file():  # the same in all processes: it is only written between two barriers
            shards = Shards(folder.shards(slug), processes.rank, processes.size)
            done = shards.done()
            processes.wait()  # no process writes before all have read the completed ids
            share = sum(len(batch) for batch in batches_of(cases, size, processes))
            with self.timed(f"writing: {name}"):
                self.seconds[f"reports written: {name}"] = write_share(
                    writer, cases, shards, size, processes, images,
                    done=done, inputs=inputs, advance=self.progress(name, share),
                )  # fmt: skip
            processes.wait()
            if processes.first:
                shards.merge([case.id for case in cases], merged)
        processes.wait()
        if processes.first:
            folder.forget(slug)

    def _other(self, name: str, protocol: Protocol) -> ModelWriter:
        return self.plan.models.load_other(name, self.processes.device(self.plan.options.device), protocol)

    def _together(self, protocol: Protocol, *, ours: bool) -> int:
        """Images of one call: several batches where the next report takes the place of one that ended."""
        if not ours:
            return protocol.batch_size
        import torch

        device = self.processes.device(self.plan.options.device)
        on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        own = self.plan.options.vllm is None or protocol is self.plan.options.paper
        return protocol.batch_size * (4 if not own or (protocol.compile and on_cuda) else 1)

    def _features(self, engine: Callable[[], Engine], images: Images) -> None:
        with self.timed("image vectors"):
            for folder, cases in self.plan.vectors():
                write_features(
                    engine, cases, folder, self.processes, images, self.progress("image vectors", len(cases))
                )
        self.processes.wait()

    def _engine(self, name: str, protocol: Protocol, *, decodes: bool = True) -> Engine:
        from llava_rad.generation.engine import Engine

        options = self.plan.options
        device, folder = self.processes.device(options.device), self.plan.models.folders[name]
        return Engine.from_pretrained(
            folder, device=device, dtype=protocol.dtype, offline=options.offline, decodes=decodes
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the duration of the block to ``seconds[name]``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _readers() -> int:
    """Return the number of image decoding processes: half of this process's cores."""
    return max(1, min(8, (os.cpu_count() or 1) // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))))


def _free() -> None:
    """Free the memory of a released model before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
