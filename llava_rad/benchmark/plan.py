"""Plan of a benchmark: its options, and the names, files and settings that follow from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from encoder.files import Digests, sha256_of
from llava_rad.benchmark.folder import Folder, slugs
from llava_rad.benchmark.inputs import InputSet, Written, digest
from llava_rad.benchmark.leaderboard import REXRANK
from llava_rad.benchmark.models import Models
from llava_rad.benchmark.reference_points import NEAREST, POINTS
from llava_rad.benchmark.task import Case, Task, sample
from llava_rad.benchmark.writing import Protocol
from metrics.base import Settings
from metrics.bootstrap import Bootstrap

Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Options:
    """Options of a benchmark.

    Attributes:
        output: results folder.
        models: models as ``--model`` takes them, by name in the tables; None is the embedded checkpoint.
        predictions: files of texts to score, by name in the tables.
        profile: of the models of others; None is that of each.
        inputs: sets of inputs from each of which every model writes; none: the frontal image; of ReXrank all it takes.
        protocol: decoding of the models.
        paper: protocol that ``protocol`` is compared with.
        settings: of the metrics.
        agreement: number of reports compared with ``paper``.
        points: reference points, of :data:`llava_rad.benchmark.reference_points.POINTS`.
        bank_limit: number of random training images among which neighbours are searched.
        device: of the models.
        offline: never ask the hub.
        vllm: Python interpreter of an environment with vLLM, which then decodes.
        allow_remote: send pixels and prompts to a model's server on another machine.
        server_timeout: seconds that a model's server has for one report.
        seed: of samples and reference points.
        overwrite: replace the content of the folder.
        bootstrap: resampling of the scores.
        cache: file of cached annotations, or None.
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
    allow_remote: bool = False
    server_timeout: float = 600.0
    seed: int = 42
    overwrite: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    cache: Path | None = None
    inputs: tuple[InputSet, ...] = ()
    profile: str | None = None


@dataclass(frozen=True)
class Plan:
    """A task with options, and the names, files and settings that follow from them.

    Attributes:
        task: cases.
        options: of the run.
        progress: takes a name and a number of steps, returns a function that counts completed steps.

    Raises:
        ModelError: if a model cannot be found (on the first access).
    """

    task: Task
    options: Options
    progress: Progress

    @property
    def folder(self) -> Folder:
        """Results folder."""
        return Folder(self.options.output)

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the N cases."""
        return [case.id for case in self.task.cases]

    @cached_property
    def written(self) -> dict[str, Written]:
        """Return the reports to write, by name in the tables: one entry for each model, or each of its input sets."""
        names, sets = self.options.models, self.options.inputs
        if not sets:
            return {name: Written(name, self._usual(name)) for name in names}
        return {f"{name}: {inputs.label}": Written(name, inputs) for name in names for inputs in sets}

    def _usual(self, model: str) -> InputSet:
        """Return a model's inputs where no sets are asked for; ReXrank lets models use all that it gives."""
        places = self.models.found[model].config.places if self.task.name == REXRANK else ()
        return InputSet.taken(places, self.task.cases)

    @cached_property
    def slugs(self) -> dict[str, str]:
        """File names of what models write, and of given predictions."""
        return slugs([*self.written, *self.options.predictions])

    @cached_property
    def models(self) -> Models:
        """The models; ``folders`` are those of this project's checkpoints."""
        options = self.options
        return Models(options.models, options.offline, options.allow_remote, options.server_timeout, options.profile)

    @property
    def bank(self) -> list[Case]:
        """Cases whose reports the reference points use."""
        return self.task.bank or self.task.cases

    @cached_property
    def searched(self) -> list[Case]:
        """Cases among which neighbours are searched."""
        if not self.task.bank or len(self.bank) <= self.options.bank_limit:
            return self.bank
        return sample(self.bank, self.options.bank_limit, self.options.seed)

    @property
    def neighbours_of(self) -> str | None:
        """Name of the checkpoint whose encoder finds neighbours, or None."""
        return next(iter(self.models.folders), None) if NEAREST in self.options.points else None

    def vectors(self) -> list[tuple[Path, list[Case]]]:
        """Return the folders of image vectors with their cases: those of the split, then the training cases."""
        if self.neighbours_of is None:
            return []
        home = self.folder.features(slugs(self.options.models)[self.neighbours_of])
        parts = [self.task.cases, *([self.searched] if self.task.bank else [])]
        return [(home / self._contents(cases), cases) for cases in parts]

    @cached_property
    def compared(self) -> list[Case]:
        """Sample that the paper's protocol writes too; empty if it is the protocol of the run."""
        options = self.options
        if options.protocol.name == options.paper.name or not options.agreement:
            return []
        return sample(self.task.cases, options.agreement, options.seed)

    def sample_slug(self, name: str) -> str:
        """Return the file name of a model's sample by the paper's protocol."""
        return f"samples/{self.slugs[name]}-{len(self.compared)}-{self.options.seed}"

    def protocol(self) -> dict[str, Any]:
        """Return the decoding options of the models."""
        return asdict(self.options.protocol) | {"engine": "vllm" if self.options.vllm else "llava-rad"}

    @cached_property
    def digests(self) -> Digests:
        """Of the files of images and models; the folder remembers them."""
        return Digests(self.folder.digests)

    @cached_property
    def images(self) -> dict[Path, str]:
        """SHA-256 of each image that the models read; "" where it cannot be read."""
        every = [*self.task.cases, *(self.searched if self.neighbours_of else [])]
        paths = dict.fromkeys(case.image for case in every if case.image is not None)
        for inputs in {one.inputs for one in self.written.values()}:
            paths |= dict.fromkeys(path for case in self.task.cases for _, path in inputs.images(case.context))
        return dict(zip(paths, self.digests.of(list(paths), self.progress("files", len(paths))), strict=True))

    def _contents(self, cases: Sequence[Case]) -> str:
        """Hash ids and contents of the frontal images of cases."""
        lines = (f"{case.id} {self.images[case.image]}" for case in cases if case.image is not None)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def _inputs(self, inputs: InputSet) -> dict[str, Any]:
        """Return the settings of a set of inputs; none for the frontal image alone where no sets are asked for."""
        if not self.options.inputs and inputs == InputSet():
            return {}
        return {"inputs": list(inputs.names), "inputs_sha256": digest(inputs, self.task.cases, self.images)}

    def systems(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each system, which must be unchanged for its predictions to be continued.

        Raises:
            ModelError: if a file of a model is not the one that its ``config.json`` lists.
        """
        of_models: dict[str, dict[str, Any]] = {}
        for name in self.options.models:
            images = {"images": self._contents(self.task.cases)}
            of_models[name] = self.protocol() | images | self.models.facts(name, self.digests)
        written = self.written.items()
        return {self.slugs[name]: of_models[one.model] | self._inputs(one.inputs) for name, one in written} | {
            self.slugs[name]: {"sha256": sha256_of(file), "engine": "file"}
            for name, file in self.options.predictions.items()
        }
