"""Published weights, read one tensor at a time so that models larger than the memory can be converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from encoder.backbones import weight_files
from encoder.backbones.base import first_line
from encoder.errors import ModelError

INVERSE_FREQUENCIES = "rotary_emb.inv_freq"
"""Suffix of buffers in files of older transformers; they follow from the configuration."""


@dataclass(frozen=True)
class Stored:
    """A tensor on disk.

    Attributes:
        shape: shape of the tensor.
        dtype: type of the tensor.
        read: function that reads it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_folder(folder: Path, stem: str, what: str, *, pickled: str | None = None) -> dict[str, Stored]:
    """Open the tensors of ``stem.safetensors`` or of the shards that ``stem.safetensors.index.json`` names.

    Args:
        folder: folder of the files.
        stem: beginning of their names, such as ``"model"``.
        what: name of the model in error messages.
        pickled: beginning of the names of ``.bin`` files, which are read if there are no safetensors.

    Raises:
        ModelError: if a file is missing or damaged, the index names one elsewhere, or a tensor occurs twice.
    """
    kinds = {f"{stem}.safetensors": read_safetensors} | ({f"{pickled}.bin": read_pickle} if pickled else {})
    for name, read in kinds.items():
        files, found = weight_files.shards(folder, name, what), dict[str, Stored]()
        for file in files:
            part = read(folder / file, what)
            if twice := sorted(found.keys() & part.keys()):
                raise ModelError(f"{what}: {len(twice)} tensors are there twice, first {twice[0]}")
            found |= part
        if files:
            return {key: tensor for key, tensor in found.items() if not key.endswith(INVERSE_FREQUENCIES)}
    raise ModelError(f"{what} has no file {stem}.safetensors{f' and no {pickled}.bin' if pickled else ''}")


def read_safetensors(path: Path, what: str) -> dict[str, Stored]:
    """Open the tensors of one safetensors file; none is read yet.

    Raises:
        ModelError: if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{what} has no file {path.name}", hint="fetch it again: the download may not have finished")
    try:
        file: Any = safe_open(path, framework="pt")
        found = {}
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            part = file.get_slice(name)
            found[name] = Stored(tuple(part.get_shape()), _DTYPES[part.get_dtype()], _reader(file, name))
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path.name} of {what} cannot be read: {first_line(error)}") from error
    return found


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
}  # fmt: skip


def _reader(file: Any, name: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    return read


def read_pickle(path: Path, what: str) -> dict[str, Stored]:
    """Open the tensors of a ``.bin`` or ``.pt`` file, or of its ``state_dict``, mapped from disk.

    Only tensors, plain containers and NumPy's numbers (which training scripts store with them) are read; code in the
    file never runs.

    Raises:
        ModelError: if it is missing, damaged, or holds anything else.
    """
    import numpy as np

    numbers: list[Any] = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    numbers += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    found = weight_files.read_pickle(path, what, inside=("state_dict",), allowed=numbers, mmap=True)
    return {name: Stored(tuple(t.shape), t.dtype, t.clone) for name, t in found.items()}


def read_all(tensors: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """Read a small table of tensors into memory."""
    return {name: tensor.read() for name, tensor in tensors.items()}
