"""CLIP's vision transformer (Radford et al. 2021): OpenAI's models in Hugging Face's format, CheXzero in OpenAI's.

Patches come from the last layer (``last_hidden_state`` of ``CLIPVisionModel``). CLIP's final LayerNorm
(``post_layernorm``, OpenAI's ``ln_post``) is not applied to them, because it was trained on the CLS token only.
LLaVA-1.5 uses the last layer but one, which the ``config.json`` of a stored tower can select. The paper does not state
its layer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.backbones import weight_files as files
from encoder.backbones.base import EncoderFamily, Features, Fetch, FrozenEncoder, Taps, first_line, refuse_incomplete
from encoder.backbones.registry import LAST_LAYER, PENULTIMATE, FeatureKind, PublishedEncoder
from encoder.errors import ModelError
from encoder.hub import refused_packages

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

PREFIX = "vision_model."
# text tower and joint space; position_ids in older files are not weights
TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "vision_model.embeddings.position_ids")
OPENAI_TEXT = (
    "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale",
    "visual.proj", "input_resolution", "context_length", "vocab_size",
)  # fmt: skip
HEAD_WIDTH = 64
"""Width of a head in OpenAI's vision transformers (``vision_heads = vision_width // 64`` in model.py)."""


class Clip(FrozenEncoder):
    """A frozen ``CLIPVisionModel``; the global vector is the CLS token after the final LayerNorm, before projection.

    Args:
        model: the network.
        recipe: name of its preprocessing recipe.
        features: ``LAST_LAYER``, or ``PENULTIMATE`` like LLaVA-1.5 (``hidden_states[-2]``).
    """

    features = LAST_LAYER

    def __init__(self, model: CLIPVisionModel, recipe: str, features: FeatureKind = LAST_LAYER) -> None:
        super().__init__(model, recipe)
        self.features = features

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] normalised images; positions are interpolated for other sizes."""
        other = pixel_values.shape[-1] != self.model.config.image_size
        with torch.no_grad():
            found = self.model(
                pixel_values.to(self.dtype),
                interpolate_pos_encoding=other,
                output_hidden_states=self.features == PENULTIMATE,
            )
        tokens = found.hidden_states[-2] if self.features == PENULTIMATE else found.last_hidden_state
        return Features(found.pooler_output, tokens[:, 1:])

    def taps(self) -> Taps:
        """Return the layers of ``CLIPVisionModel``; no LayerNorm follows the patches."""
        network = getattr(self.model, "vision_model", self.model)  # nested in some versions of transformers
        return Taps(network.encoder.layers, None)

    def save_pretrained(self, folder: Path) -> None:
        """Write a ``CLIPVisionModel`` folder with published tensor names, readable by all versions of transformers."""
        config = self.model.config.to_dict() | {
            "architectures": ["CLIPVisionModel"],
            "dtype": str(self.dtype).removeprefix("torch."),
            files.RECIPE: self.recipe,
            **files.stated(self.features, LAST_LAYER),
        }
        state = {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in self.model.state_dict().items()}
        files.write(folder, config, state)


def published(folder: Path, what: str) -> Clip:
    """Load a folder like ``openai/clip-vit-large-patch14``, without its text tower.

    The repository of the 336-pixel model has ``pytorch_model.bin`` instead of ``model.safetensors``.

    Raises:
        ModelError: if a file is missing or damaged, or a tensor is missing, unexpected or misshapen.
    """
    config = files.read_json(folder / files.CONFIG, what)
    if config.get("model_type") == "clip":
        config = config.get("vision_config") or {}
    pickled = folder / "pytorch_model.bin"
    if pickled.is_file() and not (folder / files.WEIGHTS).is_file():
        tensors = files.read_pickle(pickled, what)
    else:
        tensors = files.read_safetensors(folder / files.WEIGHTS, what)
    # some versions of transformers write CLIPVisionModel without the prefix
    if not any(name.startswith(PREFIX) for name in tensors):
        tensors = {PREFIX + name: tensor for name, tensor in tensors.items()}
    return build(config, files.select(tensors, (PREFIX,), TEXT, what), what)


def openai(tensors: Mapping[str, torch.Tensor], what: str, recipe: str) -> Clip:
    """Build the vision tower of a state dict with OpenAI's tensor names, as published by CheXzero.

    Raises:
        ModelError: if a tensor is missing, unexpected or misshapen.
    """
    visual = files.select(tensors, ("visual.",), OPENAI_TEXT, what)
    stem, positions = visual.get("visual.conv1.weight"), visual.get("visual.positional_embedding")
    if stem is None or positions is None or stem.ndim != 4:
        names = "visual.conv1 or visual.positional_embedding"
        raise ModelError(f"{what} is not a CLIP vision transformer: {names} is missing or misshapen")
    width, patch = int(stem.shape[0]), int(stem.shape[-1])
    config = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": len({name.split(".")[3] for name in visual if ".resblocks." in name}),
        "patch_size": patch,
        "image_size": patch * round((len(positions) - 1) ** 0.5),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        files.RECIPE: recipe,
    }
    return build(config, dict(_hugging_face(visual)), what)


def architecture(config: Mapping[str, Any]) -> CLIPVisionModel:
    """Build the network of a configuration on the meta device."""
    from transformers import CLIPVisionModel

    with torch.device("meta"):
        return CLIPVisionModel(_config(config, "the encoder"))


def build(config: Mapping[str, Any], tensors: dict[str, torch.Tensor], what: str) -> Clip:
    """Build the encoder of a ``CLIPVisionConfig`` from tensors under the published names (``vision_model.…``).

    Raises:
        ModelError: if a tensor is missing, unexpected or misshapen.
    """
    from transformers import CLIPVisionModel
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        settings = _config(config, what)
        with refused_packages():
            model, report = CLIPVisionModel.from_pretrained(
                None, config=settings, state_dict=tensors, attn_implementation="sdpa", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"{what} could not be loaded: {first_line(error)}") from error
    refuse_incomplete(report, what)
    features = files.features_of(config, (LAST_LAYER, PENULTIMATE), what)
    return Clip(model, str(config.get(files.RECIPE) or f"clip-{settings.image_size}"), features)


def _config(config: Mapping[str, Any], what: str) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(**files.architecture_of(config, CLIPVisionConfig, what))


_PARTS = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.": "pre_layrnorm.",
    "visual.ln_post.": "post_layernorm.",
    "visual.transformer.resblocks.": "encoder.layers.",
}
_IN_A_BLOCK = {
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def _hugging_face(visual: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """Rename OpenAI's tensors to Hugging Face's names. Unknown names are kept, so that loading refuses them."""
    found = []
    for old, tensor in visual.items():
        name = old
        for start, new in _PARTS.items():
            if old.startswith(start):
                name = new + old.removeprefix(start)
        if name.startswith("encoder.layers."):
            _, _, number, rest = name.split(".", 3)
            block = f"{PREFIX}encoder.layers.{number}."
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                kind = rest.rpartition("_")[2]
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    found.append((f"{block}self_attn.{letter}_proj.{kind}", part))
                continue
            for start, new in _IN_A_BLOCK.items():
                if rest.startswith(start):
                    rest = new + rest.removeprefix(start)
            found.append((block + rest, tensor))
        else:
            found.append((PREFIX + name, tensor))
    return found


class _ClipFamily(EncoderFamily):
    """CLIP in Hugging Face's format, and CheXzero in OpenAI's."""

    model_types = {  # noqa: RUF012 (read only)
        "clip": "clip-vit-large-patch14",
        "clip_vision_model": "clip-vit-large-patch14",
    }
    tensor_names = {"visual.positional_embedding": "chexzero"}  # noqa: RUF012

    _SHAPES = {  # noqa: RUF012 (width, layers, patch size, image size)
        "clip-vit-large-patch14": (1024, 24, 14, 224),
        "clip-vit-large-patch14-336": (1024, 24, 14, 336),
        "chexzero": (768, 12, 32, 224),
    }

    def config(self, entry: PublishedEncoder) -> Mapping[str, Any] | None:
        """Return the ``CLIPVisionConfig`` of the repository (Radford et al. 2021; Tiu et al. 2022)."""
        width, layers, patch, image_size = self._SHAPES[entry.name]
        return {
            "model_type": "clip_vision_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // HEAD_WIDTH,
            "patch_size": patch,
            "image_size": image_size,
            "hidden_act": "quick_gelu",
        }

    def stored(self, folder: Path, what: str) -> FrozenEncoder:
        """Load a ``CLIPVisionModel`` folder written by :meth:`Clip.save_pretrained`."""
        config = files.read_json(folder / files.CONFIG, what)
        if config.get("model_type") != "clip_vision_model":
            raise ModelError(f"{what} is a {config.get('model_type')!r} model, not 'clip_vision_model'")
        return build(config, files.read_safetensors(folder / files.WEIGHTS, what), what)

    def on_meta(self, config: Mapping[str, Any], recipe: str = "") -> FrozenEncoder:
        """Build the vision tower of a CLIP configuration."""
        if config.get("model_type") == "clip":
            config = config.get("vision_config") or {}
        network = architecture(config)
        return Clip(network, recipe or str(config.get(files.RECIPE) or f"clip-{network.config.image_size}"))

    def published(self, entry: PublishedEncoder, fetch: Fetch, what: str) -> FrozenEncoder:
        """Load a folder like ``openai/clip-vit-large-patch14``, or the single file of CheXzero."""
        if entry.name == "chexzero":
            path = files.single_pickle(fetch(), what)
            return self.from_file(entry.name, path, files.read_pickle(path, what), what)
        folder = fetch(files.WEIGHTS)
        if not (folder / files.WEIGHTS).is_file():
            folder = fetch("pytorch_model.bin")
        return published(folder, what)

    def from_file(self, name: str, path: Path, tensors: Mapping[str, torch.Tensor], what: str) -> FrozenEncoder:
        """Load CheXzero."""
        return openai(tensors, what, "chexzero") if name == "chexzero" else super().from_file(name, path, tensors, what)


FAMILY = _ClipFamily()
