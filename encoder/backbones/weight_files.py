"""Weight files in published and stored formats, read strictly: missing, unexpected and misshapen tensors are errors."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from encoder import json_files
from encoder.backbones.base import RECIPE_KEY, first_line, refuse_incomplete
from encoder.backbones.registry import STORED_KEY, FeatureKind
from encoder.errors import ModelError
from encoder.hub import refuse_pointer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLES = (".pt", ".pth", ".bin")
RECIPE = RECIPE_KEY


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: if the file is missing or holds no JSON object.
    """
    try:
        found = json_files.read_json(path)
    except FileNotFoundError:
        raise ModelError(f"{what} has no file {path.name}") from None
    except (OSError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ModelError(f"{path.name} of {what} cannot be read ({reason})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of {what} is no JSON object")
    return found


_LARGEST = {"num_hidden_layers": 1000}
_LARGEST_SIZE = 10_000_000
_OF_ANY = ("dtype", "torch_dtype", "tie_word_embeddings", "rope_theta", "rope_scaling")


def architecture_of(config: Mapping[str, Any], kind: type, what: str) -> dict[str, Any]:
    """Return the entries of a ``config.json`` that a class of transformers declares for its architecture.

    All others are dropped: transformers would fetch and run code from the hub, or import another package, for some
    (``attn_implementation``, ``quantization_config``, ``auto_map``).

    Args:
        config: contents of ``config.json``.
        kind: subclass of ``PreTrainedConfig``.
        what: name of the model in error messages.

    Raises:
        ModelError: if a size is out of range; a network of a billion layers would be built for hours.
    """
    known = {name for name in inspect.get_annotations(kind) if not name.startswith("_")} | set(_OF_ANY)
    found = {key: value for key, value in config.items() if key in known}
    for key, value in found.items():
        if isinstance(value, int) and value > _LARGEST.get(key, _LARGEST_SIZE):
            raise ModelError(f"config.json of {what} has no usable {key}")
    return found


def stated(features: FeatureKind, usual: FeatureKind) -> dict[str, str]:
    """Return the entry of a stored ``config.json`` for the feature kind; empty for the family's default."""
    return {} if features == usual else {STORED_KEY: features}


def features_of(config: Mapping[str, Any], known: Sequence[FeatureKind], what: str) -> FeatureKind:
    """Return the feature kind of a stored ``config.json``; the default is the first of ``known``.

    Raises:
        ModelError: if the family does not provide the stated kind.
    """
    stored = config.get(STORED_KEY, known[0])
    for features in known:
        if features == stored:
            return features
    raise ModelError(f"config.json of {what} says {STORED_KEY} {stored!r}, which its kind does not give")


def read_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        ModelError: if it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"{what} has no file {path.name}")
    refuse_pointer(path)
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} of {what} cannot be read: {first_line(error)}") from error


def shards(folder: Path, name: str, what: str) -> list[str]:
    """Return the names of the files that ``name.index.json`` lists, or ``name`` itself; none if there is neither.

    Raises:
        ModelError: if the index is damaged or names a file elsewhere.
    """
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return [name] if (folder / name).is_file() else []
    try:
        files = sorted({str(file) for file in json_files.read_json(index)["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index.name} of {what} cannot be read ({type(error).__name__})") from error
    if any(Path(file).name != file for file in files):
        raise ModelError(f"{index.name} of {what} names a file outside its folder")
    return files


class StoredTensors(Mapping[str, torch.Tensor]):
    """Tensors of safetensors files, read one at a time, so that seven billion weights are in memory once, not twice.

    Args:
        paths: the files.
        what: name of the model in error messages.

    Raises:
        ModelError: if a file is missing or damaged; also when a tensor is read.
    """

    def __init__(self, paths: Iterable[Path], what: str) -> None:
        self._paths: dict[str, Path] = {}
        self._what = what
        for path in paths:
            with self._opened(path) as file:
                self._paths |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        with self._opened(self._paths[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor.clone()  # the file's pages are released

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path.name} of {self._what} cannot be read ({type(error).__name__})") from error


def read_pickle(
    path: Path, what: str, *, inside: Sequence[str] = ("model",), allowed: Sequence[Any] = (), mmap: bool = False
) -> dict[str, torch.Tensor]:
    """Read the tensors of a published ``.pt``, ``.pth`` or ``.bin`` file.

    Only tensors, plain containers and ``argparse.Namespace`` (options of runs of MAE and its descendants) are
    unpickled; code in the file never runs.

    Args:
        path: the file.
        what: name of the model in error messages.
        inside: keys under which the tensors may lie.
        allowed: further types that are unpickled, as for ``torch.serialization.safe_globals``.
        mmap: map the tensors from disk.

    Raises:
        ModelError: if it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise ModelError(f"{what} has no file {path.name}", hint="fetch it again: the download may not have finished")
    refuse_pointer(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *allowed]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # unpickling raises types of its own, some of which only pickle exports
        raise ModelError(
            f"{path.name} of {what} cannot be read: it is damaged, or holds more than tensors ({type(error).__name__})",
            hint="read are .safetensors files and state dicts saved by torch; pickled objects are not",
        ) from error
    for key in inside:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ModelError(f"{path.name} of {what} is not a table of tensors")
    return dict(found)


def read_tensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """Read a weights file by its suffix.

    Raises:
        ModelError: if it is missing or damaged.
    """
    return (read_pickle if path.suffix in PICKLES else read_safetensors)(path, what)


def single_pickle(folder: Path, what: str) -> Path:
    """Return the only ``.pt``, ``.pth`` or ``.bin`` file of a folder.

    Raises:
        ModelError: if there is none or more than one.
    """
    found = [path for path in folder.iterdir() if path.suffix in PICKLES]
    if len(found) != 1:
        raise ModelError(f"{what} holds {len(found)} weights files, not one", hint="give the file: --encoder FILE")
    return found[0]


def select(
    tensors: Mapping[str, torch.Tensor], prefixes: Collection[str], left_out: Collection[str], what: str
) -> dict[str, torch.Tensor]:
    """Drop tensors whose names start with one of ``left_out`` and return those that start with one of ``prefixes``.

    Raises:
        ModelError: if a tensor belongs to neither.
    """
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(left_out))}
    odd = sorted(name for name in rest if not name.startswith(tuple(prefixes)))
    if odd:
        raise ModelError(f"{what}: {len(odd)} unexpected keys, first {odd[0]}")
    return rest


class Shaped(Protocol):
    """A tensor, or one on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def refuse_other_shapes(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Shaped], what: str) -> None:
    """Compare the tensors with the names and shapes of a network.

    Raises:
        ModelError: if one is missing, unexpected or misshapen.
    """
    refuse_incomplete(
        {
            "missing_keys": sorted(wanted.keys() - found.keys()),
            "unexpected_keys": sorted(found.keys() - wanted.keys()),
            "mismatched_keys": sorted(k for k in wanted.keys() & found.keys() if wanted[k] != found[k].shape),
        },
        what,
    )


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Assign ``tensors`` to the parameters and buffers of a module that was built on the meta device.

    Raises:
        ModelError: if one is missing, unexpected or misshapen.
    """
    refuse_other_shapes({name: tensor.shape for name, tensor in module.state_dict().items()}, tensors, what)
    module.load_state_dict(dict(tensors), assign=True)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
