"""Weights as their authors publish them, and as checkpoints hold them. Nothing that a file holds goes unnoticed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from encoder.backbones.base import RECIPE_KEY, first_line, refuse_incomplete
from encoder.backbones.outputs import STORED_KEY, FeatureKind
from encoder.errors import ModelError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
RECIPE = RECIPE_KEY


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{what} has no file {path.name}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} of {what} cannot be read ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of {what} is no JSON object")
    return found


def stated(features: FeatureKind, usual: FeatureKind) -> dict[str, str]:
    """What a stored encoder's ``config.json`` says of its output: nothing where it is its family's own."""
    return {} if features == usual else {STORED_KEY: features}


def features_of(config: Mapping[str, Any], known: Sequence[FeatureKind], what: str) -> FeatureKind:
    """Which output a stored encoder gives: the first of ``known`` unless its ``config.json`` says another.

    Raises:
        ModelError: it says one that its family does not give.
    """
    said = config.get(STORED_KEY, known[0])
    for features in known:
        if features == said:
            return features
    raise ModelError(f"config.json of {what} says {STORED_KEY} {said!r}, which its kind does not give")


def read_safetensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"{what} has no file {path.name}")
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} of {what} cannot be read: {first_line(error)}") from error


def read_pickle(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a published ``.pt``, ``.pth`` or ``.bin`` file; those under ``model`` where there is such a key.

    Only tensors and plain containers are read, and ``argparse.Namespace``, in which MAE's descendants keep the options
    of a run: code in the file never runs.

    Raises:
        ModelError: it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise ModelError(f"{what} has no file {path.name}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises types of its own, some of which only pickle exports
        raise ModelError(f"{path.name} of {what} cannot be read: {first_line(error)}") from error
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ModelError(f"{path.name} of {what} is not a table of tensors")
    return found


def select(
    tensors: Mapping[str, torch.Tensor], prefixes: Collection[str], left_out: Collection[str], what: str
) -> dict[str, torch.Tensor]:
    """The tensors whose names start with one of ``prefixes``, after those that start with one of ``left_out``.

    Raises:
        ModelError: a tensor belongs to neither.
    """
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(left_out))}
    odd = sorted(name for name in rest if not name.startswith(tuple(prefixes)))
    if odd:
        raise ModelError(f"{what}: {len(odd)} unexpected keys, first {odd[0]}")
    return rest


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Make ``tensors`` the parameters and buffers of a module that was built on the meta device.

    Raises:
        ModelError: one is missing, left over or of another shape.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    refuse_incomplete(
        {
            "missing_keys": sorted(shapes.keys() - tensors.keys()),
            "unexpected_keys": sorted(tensors.keys() - shapes.keys()),
            "mismatched_keys": sorted(k for k in shapes.keys() & tensors.keys() if shapes[k] != tensors[k].shape),
        },
        what,
    )
    module.load_state_dict(dict(tensors), assign=True)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
