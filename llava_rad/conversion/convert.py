"""From a published report model to the checkpoint directory, once and safe to repeat."""

from __future__ import annotations

from pathlib import Path

from encoder.hub import fetch
from llava_rad.conversion import hugging_face, low_rank
from llava_rad.conversion.parts import write_parts
from llava_rad.conversion.published import model_named
from llava_rad.model.checkpoint import refuse_existing
from llava_rad.model.config import LlavaRadConfig


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
        kind: a name of ``llava_rad.conversion.published.MODELS``.
        source: folder or hub repository.
        target: the folder to write.
        base: the base model of an adapter; None takes the one that it names.
        revision: branch, tag or commit of the repository.
        offline: never ask the hub.
        force: replace ``target``.

    Returns:
        The config that was written (without the file hashes).

    Raises:
        ModelError: the source is missing, damaged, another model, or has a tensor too few or too many.
        LlavaRadError: there is no such kind, ``target`` exists, or the disk has no room.
    """
    model, target = model_named(kind), Path(target)
    refuse_existing(target, force=force)
    folder = fetch(source, revision=revision, offline=offline, patterns=model.patterns)
    what = f"the model {source}" if str(source) == model.repository else f"the model {folder.name}"
    if model.kind == "llava-rad":
        parts = low_rank.llava_rad(folder, what, base=base, offline=offline)
    elif model.kind == "maira-2":
        parts = hugging_face.maira_2(folder, what)
    else:
        parts = hugging_face.llava(folder, what)
    name = str(source) if str(source) == model.repository else f"{Path(source).name} ({model.kind})"
    return write_parts(parts, target, what, name=name, max_new_tokens=model.max_new_tokens, force=force)
