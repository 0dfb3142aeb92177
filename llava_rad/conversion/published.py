"""Registry of the published report models, and their conversion to this project's checkpoint directory.

A new model is one row of :data:`MODELS`, a converter that returns ``llava_rad.conversion.parts.Parts``, and a prompt
template; ``llava-rad convert``, ``llava-rad doctor`` and the reference list the rows. Converters are named as strings,
so that importing the registry imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from encoder.hub import fetch
from encoder.locks import locked

if TYPE_CHECKING:
    from llava_rad.conversion.parts import Parts
    from llava_rad.model.config import LlavaRadConfig

_LOG = logging.getLogger("llava_rad")


@dataclass(frozen=True)
class PublishedModel:
    """One published report model.

    Attributes:
        kind: name of the model, as ``--from`` takes it.
        repository: its repository on the Hugging Face hub.
        licence: licence of the weights, as their publisher states it.
        patterns: files of the repository that the conversion reads.
        max_new_tokens: longest answer in the publisher's own examples.
        converter: ``module:function``; the function takes the folder and the name that errors give it, and returns
            ``Parts``.
        takes_base: a part may be elsewhere (an adapter's base, an image tower); the converter also takes ``base`` and
            ``offline``.
    """

    kind: str
    repository: str
    licence: str
    patterns: tuple[str, ...]
    max_new_tokens: int
    converter: str
    takes_base: bool = False

    @property
    def page(self) -> str:
        """Address of the licence, where access is requested."""
        return f"https://huggingface.co/{self.repository}"

    def load_converter(self) -> Callable[..., Parts]:
        """Import the converter."""
        module, _, function = self.converter.partition(":")
        found: Callable[..., Parts] = getattr(importlib.import_module(module), function)
        return found


_HUGGING_FACE = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")

MODELS: dict[str, PublishedModel] = {
    model.kind: model
    for model in (
        PublishedModel(
            "maira-2",
            "microsoft/maira-2",
            "Microsoft Research License Agreement (MSRLA): research use only, access on request",
            _HUGGING_FACE,
            300,  # model card
            "llava_rad.conversion.llava:maira_2",
        ),
        PublishedModel(
            "llava-rad",
            "microsoft/llava-rad",
            "Microsoft Research licence of microsoft/llava-rad, and the Llama 2 Community License of Vicuna-7B v1.5",
            ("*.json", "adapter_model.*", "non_lora_trainables.bin", "*.pt", "open_clip_model.safetensors"),
            256,  # llava/eval/model_mimic_cxr.py
            "llava_rad.conversion.lora:llava_rad",
            takes_base=True,
        ),
        PublishedModel(
            "llava-1.5",
            "llava-hf/llava-1.5-7b-hf",
            "Llama 2 Community License",
            (*_HUGGING_FACE, "pytorch_model*.bin", "mm_projector.bin"),
            150,
            "llava_rad.conversion.llava:llava",
            takes_base=True,
        ),
    )
}


def model_named(kind: str) -> PublishedModel:
    """Look up a model by its kind.

    Raises:
        LlavaRadError: if there is none of that kind.
    """
    if kind not in MODELS:
        raise LlavaRadError(f"models of the kind {kind!r} are not converted", hint=f"choose one of {', '.join(MODELS)}")
    return MODELS[kind]


def of_repository(source: object) -> PublishedModel | None:
    """Return the model that a hub repository holds, or None."""
    return next((model for model in MODELS.values() if model.repository == str(source)), None)


def of_config(config: Mapping[str, Any]) -> PublishedModel | None:
    """Return the model that a ``config.json`` describes in its published form, or None."""
    if config.get("model_type") == "maira2":
        return MODELS["maira-2"]
    if tower := config.get("mm_vision_tower"):  # as the authors of LLaVA publish it
        return MODELS["llava-rad" if "biomedclip" in str(tower).lower() else "llava-1.5"]
    parts = [config.get(name) or {} for name in ("text_config", "vision_config")]
    kinds = [part.get("model_type") for part in parts if isinstance(part, Mapping)]
    of_llava = config.get("model_type") == "llava"
    return MODELS["llava-1.5"] if of_llava and kinds in (["llama", "clip_vision_model"], [None, None]) else None


def convert(
    kind: str,
    source: str | Path,
    target: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    offline: bool = False,
    force: bool = False,
) -> LlavaRadConfig:
    """Write a published model as a checkpoint directory; every tensor keeps its type.

    Args:
        kind: a key of :data:`MODELS`.
        source: folder or hub repository.
        target: folder to write; it is complete or absent.
        base: base model of an adapter, or image tower of ``liuhaotian/llava-v1.5-7b``; None takes the one that the
            model names.
        revision: branch, tag or commit of the repository.
        offline: never ask the hub.
        force: replace ``target``.

    Returns:
        The config that was written (without the file hashes).

    Raises:
        ModelError: if the source is missing, damaged, another model, or has a tensor too few or too many.
        LlavaRadError: if there is no such kind, ``target`` exists, or the disk has no room.
    """
    from llava_rad.conversion.parts import write_parts
    from llava_rad.model.checkpoint import refuse_existing

    model, target = model_named(kind), Path(target)
    refuse_existing(target, force=force)
    converter = model.load_converter()
    folder = fetch(source, revision=revision, offline=offline, patterns=model.patterns)
    original = str(source) == model.repository
    what = f"the model {source if original else folder.name}"
    parts = converter(folder, what, base=base, offline=offline) if model.takes_base else converter(folder, what)
    name = str(source) if original else f"{Path(source).name} ({model.kind})"
    return write_parts(parts, target, what, name=name, max_new_tokens=model.max_new_tokens, force=force)


def open_checkpoint(source: str | Path | None, *, revision: str | None = None, offline: bool = False) -> Path:
    """Find the local folder of a checkpoint; a published model named by its repository is converted first.

    The conversion is done once, into the cache (:func:`converted_folder`); it is logged as a warning together with the
    licence of the weights. Processes that ask for the same model at the same time wait for one conversion.

    Args:
        source: folder or hub repository; None is the embedded default.
        revision: branch, tag or commit of the repository.
        offline: never ask the hub.

    Raises:
        ModelError: if it cannot be found, or is not what it should be.
        LlavaRadError: if the disk has no room for the converted model.
    """
    from llava_rad.model.checkpoint import locate

    model = of_repository(source)
    if model is None or Path(str(source)).is_dir():
        return locate(source, revision=revision, offline=offline)
    folder = converted_folder(model, revision)
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if (folder / "config.json").is_file():  # another process was first
            return folder
        for left in folder.parent.glob(f".{folder.name}[.-]*"):  # of a conversion that was killed
            shutil.rmtree(left, ignore_errors=True)
        _LOG.warning(
            "llava-rad: %s is converted once, into %s. Its publisher's licence holds: %s (%s)",
            model.repository,
            folder,
            model.licence,
            model.page,
        )
        convert(model.kind, model.repository, folder, revision=revision, offline=offline, force=True)
    return folder


def converted_folder(model: PublishedModel, revision: str | None = None) -> Path:
    """Return the folder of a converted model in ``$XDG_CACHE_HOME/llava-rad/converted``; it may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = model.repository.replace("/", "--")
    if revision is not None:  # a branch's name may hold anything
        name += f"@{hashlib.sha256(revision.encode()).hexdigest()[:12]}"
    return home / "llava-rad" / "converted" / name
