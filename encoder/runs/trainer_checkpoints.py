"""Checkpoints of transformers' Trainer and DeepSpeed, of which each process writes its own part::

    checkpoints/
      checkpoint-100/           complete: renamed after every process had written its part
        llava-rad.json          number of processes, and how the model is spread over them
      checkpoint-200/
      .partial/                 being written, or left over from a crash: never read, removed by the next save

A crash cannot damage them, for the reasons that ``encoder.runs.checkpoints`` gives.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from encoder.errors import ConfigError, LlavaRadError
from encoder.files import publish_folder, write
from encoder.json_files import read_json
from encoder.runs.checkpoints import first_not_finite, not_written

_FOLDER = re.compile(r"checkpoint-(\d+)")
_FACTS = "llava-rad.json"
_FINITE = "finite"


class TrainerCheckpoints:
    """The checkpoints of one run that several processes write together.

    Args:
        folder: parent folder of all checkpoints.
        keep: number of newest checkpoints to keep.
        facts: number of processes and way of spreading; a checkpoint with other facts cannot be resumed.

    Attributes:
        ignored: name of a checkpoint that cannot be resumed -> why; filled by ``latest``.
    """

    def __init__(self, folder: Path, keep: int, facts: dict[str, Any]) -> None:
        self.folder, self.keep, self.facts = folder, keep, facts
        self.ignored: dict[str, str] = {}

    @property
    def partial(self) -> Path:
        """Folder in which a checkpoint is written."""
        return self.folder / ".partial"

    def all(self) -> list[Path]:
        """The complete checkpoints that are not ignored, oldest first."""
        found = [(_FOLDER.fullmatch(path.name), path) for path in self.folder.glob("checkpoint-*")]
        usable = [(int(match[1]), path) for match, path in found if match and path.name not in self.ignored]
        return [path for _, path in sorted(usable)]

    def latest(self) -> Path | None:
        """Return the newest checkpoint with finite weights, or None.

        Earlier versions kept checkpoints of a run that had diverged: they are passed over and named in ``ignored``.

        Raises:
            ConfigError: if another number of processes wrote it, or the model was spread in another way.
            LlavaRadError: if it is damaged.
        """
        for newest in reversed(self.all()):
            try:
                facts = read_json(newest / _FACTS)
            except (OSError, ValueError):
                raise LlavaRadError(
                    f"{newest.name} in the run folder is damaged",
                    hint="remove its folder to go on from the checkpoint before it, or begin anew with --restart",
                ) from None
            for name, value in self.facts.items():
                if facts.get(name) != value:
                    raise ConfigError(
                        f"{newest.name} was written with {name} = {facts.get(name)}, this run has {value}",
                        hint="go on as before, or begin anew with --restart",
                    )
            if facts.get(_FINITE) or (reason := _divergence(newest)) is None:
                return newest
            self.ignored[newest.name] = reason
        return None

    def clear(self) -> None:
        """Remove an unfinished checkpoint."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def publish(self, name: str) -> None:
        """Put a checkpoint that every process has written in place, and remove those that are no longer kept.

        The caller has checked that the weights are finite.

        Raises:
            LlavaRadError: if the disk refuses.
        """
        written = self.partial / name
        try:
            write(written / _FACTS, json.dumps(self.facts | {_FINITE: True}) + "\n")
            publish_folder(written, self.folder / name)
        except OSError as error:
            raise not_written(f"{name} could not be written: {error.strerror or type(error).__name__}") from error
        self.ignored.pop(name, None)
        for old in [*self.all()[: -self.keep], *(self.folder / name for name in self.ignored)]:
            shutil.rmtree(old, ignore_errors=True)
        self.clear()


def _divergence(folder: Path) -> str | None:
    """Why a Trainer's checkpoint is that of a diverged run: a logged number or its weights; None if it is not.

    A file that cannot be read is left to the loading of the checkpoint, which reports it.
    """
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        for line in read_json(folder / "trainer_state.json")["log_history"]:
            for name in ("loss", "val_loss", "grad_norm"):
                if not math.isfinite(line.get(name, 0.0)):
                    return f"its {name} is not finite"
    odd = None
    for path in sorted(folder.rglob("*.safetensors")):
        with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
            odd = odd or first_not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    for path in sorted(folder.rglob("*_states.pt")):
        with contextlib.suppress(Exception), torch.serialization.safe_globals(_types_of_deepspeed()):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            odd = odd or first_not_finite(_tensors_in(found))
    return f"its weights are not finite (first {odd})" if odd else None


def _types_of_deepspeed() -> list[Any]:
    """Plain types that stand between the tensors of DeepSpeed's files."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def _tensors_in(found: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each floating-point tensor in nested containers."""
    if isinstance(found, torch.Tensor) and found.is_floating_point():
        yield name, found
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _tensors_in(value, f"{name}.{key}".lstrip("."))
    elif isinstance(found, list | tuple):
        for number, value in enumerate(found):
            yield from _tensors_in(value, f"{name}.{number}".lstrip("."))
