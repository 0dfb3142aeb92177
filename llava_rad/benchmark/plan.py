"""What a run is to do, and what follows from it before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.files import sha256_of
from llava_rad.benchmark.folder import Folder, slugs
from llava_rad.benchmark.reference_points import NEAREST, POINTS
from llava_rad.benchmark.task import Case, Task, sample
from llava_rad.conversion.published import open_checkpoint
from metrics.bootstrap import Bootstrap
from metrics.settings import Settings

if TYPE_CHECKING:
    from llava_rad.benchmark.protocols import Protocol


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


def _digest(cases: Sequence[Case]) -> str:
    return hashlib.sha256_of("\n".join(case.id for case in cases).encode()).hexdigest()[:16]
