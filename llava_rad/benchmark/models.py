"""Models of a benchmark: checkpoints of this project, and models of others, which write by their profiles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llava_rad.benchmark.writing import Protocol, findings_alone
from llava_rad.generation.checkpoint_model import FoundCheckpoint
from llava_rad.generation.found import find
from llava_rad.generation.options import GenerationOptions, Precision
from llava_rad.model.checkpoint import LANGUAGE_MODEL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.files import Digests
    from llava_rad.generation.pieces import Draft
    from llava_rad.generation.report_model import FoundModel, ReportModel
    from llava_rad.model.templates import Study


@dataclass(frozen=True)
class Models:
    """Models by their names in the tables.

    Attributes:
        sources: as ``--model`` takes them; None is the embedded checkpoint.
        offline: never ask the hub.
        allow_remote: send pixels and prompts to a model's server on another machine.
        server_timeout: seconds that a model's server has for one report.
        profile: of the models of others; None is that of each.
    """

    sources: Mapping[str, str | None]
    offline: bool
    allow_remote: bool
    server_timeout: float
    profile: str | None = None

    @cached_property
    def found(self) -> dict[str, FoundModel]:
        """The models, which are not loaded yet.

        Raises:
            ModelError: if one cannot be found.
        """
        found = {name: find(self._options(name)) for name in self.sources}
        for name, one in found.items():
            if self.profile is not None and not isinstance(one, FoundCheckpoint):
                found[name] = find(replace(self._options(name), profile=self.profile))
        return found

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Folders of those models that are checkpoints of this project."""
        return {name: one.folder for name, one in self.found.items() if isinstance(one, FoundCheckpoint)}

    def facts(self, name: str, digests: Digests) -> dict[str, Any]:
        """Return what must be unchanged for a model's predictions to be continued.

        Args:
            name: of the model.
            digests: of the files.

        Raises:
            ModelError: if a file is damaged.
        """
        found = self.found[name]
        facts: dict[str, Any] = {"sha256": found.verify(digests)}
        if isinstance(found, FoundCheckpoint):
            return facts | self._base(found.folder, digests)
        return facts | {"engine": "other", "max_new_tokens": found.config.generation.max_new_tokens}

    def load_other(self, name: str, device: str, protocol: Protocol) -> ModelWriter:
        """Load a model of others, whose answers are as long as its profile says.

        Args:
            name: of the model.
            device: of the computation, if it is in this process.
            protocol: type of the weights and batch size.
        """
        usual, dtype = self._options(name), cast(Precision, protocol.dtype)
        settings = replace(usual, device=device, dtype=dtype, batch_size=protocol.batch_size)
        return ModelWriter(self.found[name].load(settings), settings)

    def _options(self, name: str) -> GenerationOptions:
        return GenerationOptions(
            model=self.sources[name], offline=self.offline, allow_remote=self.allow_remote,
            server_timeout=self.server_timeout,
        )  # fmt: skip

    def _base(self, folder: Path, digests: Digests) -> dict[str, str]:
        """Hash the files of the base model, which a checkpoint with an adapter names and does not list."""
        if not (folder / LANGUAGE_MODEL / "adapter_config.json").is_file():
            return {}
        from llava_rad.model.llava_rad import adapter_base

        _, base = adapter_base(folder / LANGUAGE_MODEL, offline=self.offline)
        files = sorted(path for path in base.iterdir() if path.suffix in (".json", ".safetensors", ".model"))
        lines = (f"{path.name} {digest}" for path, digest in zip(files, digests.of(files), strict=True))
        return {"base": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


class ModelWriter:
    """A loaded model of others; reports with the same study inputs form a batch."""

    def __init__(self, model: ReportModel, settings: GenerationOptions) -> None:
        self.recipe, self._model, self._settings = model.recipe, model, settings

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], studies: Sequence[Study]) -> list[Draft]:
        left = iter(images)
        batches: dict[Study, list[int]] = {}
        of_reports = [list(islice(left, study.images)) for study in studies]
        for number, study in enumerate(studies):
            batches.setdefault(study, []).append(number)
        drafts: dict[int, Draft] = {}
        for study, numbers in batches.items():
            pixels = [one for number in numbers for one in of_reports[number]]
            drafts |= zip(numbers, self._model.generate(pixels, replace(self._settings, study=study)), strict=True)
        return [findings_alone(drafts[number]) for number in range(len(studies))]

    def close(self) -> None:
        """End processes and connections of the model."""
        self._model.close()
