"""The files of a ``LlamaForCausalLM`` folder: configuration, and weights that are read when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from encoder.errors import ModelError


def read_llama(folder: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Contents of ``config.json``, and the tensors of the safetensors file or shards by name.

    Raises:
        ModelError: a file is missing or damaged; also while a tensor is read.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        index = folder / "model.safetensors.index.json"
        shards = {"model.safetensors"}
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    if any(Path(shard).name != shard for shard in shards):
        raise ModelError("the language model's index names a file outside its folder")
    return config, StoredTensors(folder / shard for shard in sorted(shards))


class StoredTensors(Mapping[str, torch.Tensor]):
    """Tensors of safetensors files, read one at a time: seven billion weights are in memory once, not twice."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths: dict[str, Path] = {}
        for path in paths:
            with _opened(path) as file:
                self._paths |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        with _opened(self._paths[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor.clone()  # the file's pages are given back

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ModelError:
    return ModelError(f"the language model's files cannot be read ({type(error).__name__})")
