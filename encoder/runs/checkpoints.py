"""Checkpoints that a crash cannot damage: a folder for each step, complete or absent.

``Checkpoints`` holds flat dictionaries of tensors, written by one process::

    checkpoints/
      step-00001000/
        student.safetensors     one flat dict of tensors each, under the name that the caller gave it
        optimizer.safetensors
        state.json              everything that is not a tensor
        checkpoint.json         step, and size and SHA-256 of each file above
      step-00002000/
      step-00003000.tmp/        being written, or left over from a crash: never read, removed by the next save

A checkpoint is written to a temporary folder, every file and the folder reach the disk (fsync), and one rename makes
it visible; older ones are removed only after that. A run killed at any moment finds the newest finished checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from encoder.errors import LlavaRadError, ModelError
from encoder.files import check_room, publish_folder, sha256_of, write
from encoder.json_files import read_json

_FORMAT = 1
_INDEX = "checkpoint.json"
_STATE = "state.json"
_FOLDER = re.compile(r"step-(\d{8,})(\.old)?")
_INTACT = "the checkpoints before it are intact; the same command goes on from the newest"
_GROUP = re.compile(r"[A-Za-z0-9][\w-]*")

Tensors = Mapping[str, Mapping[str, torch.Tensor]]


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: parent folder of all checkpoints; made by the first ``save``.
        keep: number of newest checkpoints to keep.
        ignored: name of a folder that is no usable checkpoint -> why; filled by ``latest`` and ``load``.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        if keep < 1:
            raise ValueError("keep must be at least 1")
        self.folder = Path(folder)
        self.keep = keep
        self.ignored: dict[str, str] = {}

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any], *, protect: Collection[int] = ()) -> Path:
        """Write one checkpoint, then remove those that are no longer kept.

        Args:
            step: optimiser steps done; a checkpoint of the same step is replaced.
            tensors: name of a file (letters, digits, ``_`` and ``-``) -> name -> tensor on any device. Shapes, dtypes
                and bits are kept; strides and sharing are not.
            state: what JSON can hold; keys come back as strings and tuples as lists.
            protect: steps that stay although newer ones exist, such as the best by probing.

        Returns:
            The checkpoint's folder.

        Raises:
            LlavaRadError: if it cannot be written (a full disk), or an intact checkpoint of a later step is there, so
                that a resumed run would not find this one. What was there before stays as it was.
            ModelError: as ``latest``.
        """
        from safetensors import SafetensorError

        later = [path.name for path in self._usable() if step_of(path) > step]
        if later:
            raise LlavaRadError(
                f"a checkpoint of step {step} cannot follow {later[0]}, which is there already",
                hint="continue from the newest checkpoint, or give another run folder",
            )
        final = self.folder / f"step-{step:08d}"
        temporary = final.with_name(final.name + ".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            check_disk(self.folder, _bytes_of(tensors), f"the checkpoint of step {step}")
            _write(temporary, step, tensors, state)
            publish_folder(temporary, final)
        except (OSError, SafetensorError) as error:  # the latter is what safetensors raises on a full disk
            shutil.rmtree(temporary, ignore_errors=True)
            reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            raise not_written(f"the checkpoint of step {step} could not be written: {reason}") from error
        self.ignored.pop(final.name, None)
        self._retire(protect)
        return final

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None.

        Complete means that every file is there with its size; ``load`` checks contents. A folder that is not complete,
        or that ``load`` has found damaged, is passed over and named in ``ignored``.

        Raises:
            ModelError: if a checkpoint has another format. It is not passed over: a later version of this program has
                continued the run, and saving here would remove what it wrote.
        """
        return next(self._usable(), None)

    def load(self, folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Read one checkpoint after checking the SHA-256 of each of its files.

        Args:
            folder: of ``latest``.

        Returns:
            Name of a file -> name -> tensor on the CPU, and the state, as ``save`` took them.

        Raises:
            ModelError: if the checkpoint is missing or damaged. It is passed over from then on: ``latest`` returns the
                next older one, which the hint names.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            files = _index(folder)
            for name, entry in files.items():
                if sha256_of(folder / name) != entry["sha256"]:
                    raise _Unusable(f"{name} has changed since it was written")
            tensors = {Path(name).stem: load_file(folder / name) for name in files if name != _STATE}
            state: dict[str, Any] = read_json(folder / _STATE)
        except (_Unusable, OSError, ValueError, SafetensorError) as error:
            reason = str(error) if isinstance(error, _Unusable) else f"it cannot be read ({type(error).__name__})"
            self.ignored[folder.name] = reason
            older = self.latest()
            hint = f"remove it to continue from {older.name}" if older else "start the run again, in another run folder"
            raise ModelError(f"checkpoint {folder.name} is damaged: {reason}", hint=hint) from error
        return tensors, state

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted({step_of(path) for path in self._usable()})

    def _candidates(self) -> list[Path]:
        """Every folder named as a checkpoint, newest first; a replaced one after the one that replaces it."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: (-step_of(path), path.name))

    def _usable(self) -> Iterator[Path]:
        for path in self._candidates():
            if path.name in self.ignored:
                continue
            try:
                _index(path)
            except (_Unusable, OSError) as error:
                self.ignored[path.name] = str(error) if isinstance(error, _Unusable) else "it cannot be read"
            else:
                yield path

    def _remove_leftovers(self) -> None:
        """Remove unfinished and half-removed folders of a killed run, and replaced checkpoints."""
        for path in self.folder.glob("step-*"):
            if path.name.endswith(".tmp") or (path.name.endswith(".old") and path.with_suffix("").exists()):
                shutil.rmtree(path)

    def _retire(self, protect: Collection[int]) -> None:
        """Remove all but the newest ``keep``, the protected ones, and also those that are damaged."""
        usable = list(self._usable())
        kept = {path.name for path in usable[: self.keep]} | {path.name for path in usable if step_of(path) in protect}
        for path in self._candidates():
            if path.name not in kept:
                with contextlib.suppress(OSError):  # the new checkpoint stands; the next save tries again
                    _remove(path)
                self.ignored.pop(path.name, None)


def first_not_finite(named: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor with NaN or infinity, or None."""
    return next((name for name, tensor in named if not bool(torch.isfinite(tensor).all())), None)


def diverged(step: int, hint: str) -> LlavaRadError:
    """Make the error of a run whose loss or gradient is not finite at a step, of which no checkpoint is written."""
    return LlavaRadError(
        f"the loss is no longer finite at step {step:,}; the checkpoints before this step are intact", hint=hint
    )


def not_written(message: str) -> LlavaRadError:
    """Make the error of a checkpoint that could not be written; its hint tells how to continue."""
    return LlavaRadError(message, hint=_INTACT)


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room for a checkpoint before it is written.

    Raises:
        LlavaRadError: if it has not; what is there stays as it is.
    """
    check_room(folder, needed, what, _INTACT)


def _bytes_of(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for named in tensors.values() for tensor in named.values())


class _Unusable(Exception):
    """Reason why a folder is no usable checkpoint."""


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder, by its name."""
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        raise ValueError("not a checkpoint's folder")
    return int(match[1])


def _write(folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    for group, named in tensors.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(f"{group!r} cannot name a file of a checkpoint")
        save_file(_detached(named), folder / f"{group}.safetensors", metadata={"format": "pt"})
    (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    files = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    index = {"format": _FORMAT, "step": step, "files": files}
    write(folder / _INDEX, json.dumps(index, indent=1))


def _detached(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, dense, and none sharing memory with another: safetensors refuses those that do."""
    result, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return result


def _remove(folder: Path) -> None:
    """Rename away first: a folder with half of its files must not bear a checkpoint's name."""
    doomed = folder.with_name(folder.name + ".tmp")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a checkpoint by its list, each of which is there with its size.

    Raises:
        _Unusable: they are not, or there is no list.
        ModelError: if the list is of another format.
    """
    try:
        index = read_json(folder / _INDEX)
        if index["format"] != _FORMAT:
            raise ModelError(
                f"checkpoint {folder.name} is of a format that this version does not read",
                hint="update llava-rad, or remove that folder to continue from an older one",
            )
        step, files = index["step"], dict(index["files"])
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
        complete = _STATE in files and all(isinstance(entry["sha256"], str) for entry in files.values())
    except FileNotFoundError:
        raise _Unusable(f"it has no {_INDEX}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise _Unusable(f"its {_INDEX} cannot be read") from None
    if step != step_of(folder) or not complete or any(Path(name).name != name for name in files):
        raise _Unusable(f"its {_INDEX} does not describe it")
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise _Unusable(f"{name} is missing")
        if path.stat().st_size != size:
            raise _Unusable(f"{name} has {path.stat().st_size} bytes instead of {size}")
    return files
