"""Vision transformers in timm's format: BiomedCLIP's trunk (Zhang et al. 2023) and MRM (Zhou et al. 2023).

Their patches come after the final LayerNorm (``norm``), which normalises every token. LLaVA-Rad's tower uses the last
layer but one, without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from encoder.backbones import weight_files as files
from encoder.backbones.base import EncoderFamily, Features, Fetch, FrozenEncoder, Taps
from encoder.backbones.registry import AFTER_NORM, PENULTIMATE, FeatureKind, PublishedEncoder
from encoder.errors import ModelError

ARCHITECTURE = "vit_base_patch16_224"
HEAD_WIDTH = 64
"""Width of a head of ViT-B: 768 / 12."""

OPEN_CLIP_CONFIG = "open_clip_config.json"
BIOMEDCLIP_TRUNK = "visual.trunk."
# text tower (PubMedBERT) and joint space
BIOMEDCLIP_LEFT_OUT = ("text.", "visual.head.", "logit_scale")
MRM_TRUNK = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
# image and report decoders of pre-training, names as in model_mrm.py
MRM_LEFT_OUT = (
    "mask_token", "decoder_embed.", "decoder_pos_embed", "decoder_blocks.", "decoder_norm.", "decoder_pred.",
    "bert_encoder.", "bert_mlp.",
)  # fmt: skip


class TimmVit(FrozenEncoder):
    """A frozen timm ``VisionTransformer`` with a CLS token and absolute positions.

    Args:
        model: the network.
        recipe: name of its preprocessing recipe.
        config: contents of ``config.json``: ``global_pool`` is ``"token"`` (the CLS token) or ``"avg"`` (the mean of
            the patches); ``model_args`` are arguments of timm.

    Raises:
        ModelError: if the configuration states a feature kind that is not supported.
    """

    def __init__(self, model: nn.Module, recipe: str, config: Mapping[str, Any]) -> None:
        super().__init__(model, recipe)
        self.config = dict(config)
        self.features: FeatureKind = files.features_of(config, (AFTER_NORM, PENULTIMATE), "the encoder")

    @property
    def width(self) -> int:
        """Length D of a feature vector."""
        return int(self.model.embed_dim)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.patch_embed.patch_size[0])

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] normalised images; positions are interpolated for other sizes."""
        model = self.model
        with torch.no_grad():
            grid = model.patch_embed.proj(pixel_values.to(self.dtype))
            tokens = model.patch_embed.norm(grid.flatten(2).transpose(1, 2))
            tokens = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
            tokens = tokens + at_size(model.pos_embed, grid.shape[-1])
            tokens = model.norm_pre(tokens)
            for block in model.blocks[:-1]:
                tokens = block(tokens)
            before = tokens
            tokens = model.norm(model.blocks[-1](tokens))
        patches = (before if self.features == PENULTIMATE else tokens)[:, 1:]
        return Features(patches.mean(1) if self.config["global_pool"] == "avg" else tokens[:, 0], patches)

    def taps(self) -> Taps:
        """Return timm's blocks and the final LayerNorm."""
        return Taps(self.model.blocks, self.model.norm)

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that timm (``local-dir:``) and transformers' ``TimmWrapperModel`` read."""
        files.write(folder, self.config | {files.RECIPE: self.recipe}, self.model.state_dict())


def at_size(position: torch.Tensor, side: int) -> torch.Tensor:
    """Resize [1, 1 + n * n, D] position embeddings to [1, 1 + side * side, D]; the CLS token's is unchanged.

    Bicubic, like MRM's segmentation code (``resize_abs_pos_embed`` in RL4M/MRM-pytorch, mmseg/models/backbones/mrm.py).
    """
    native = round((position.shape[1] - 1) ** 0.5)
    if native == side:
        return position
    grid = position[:, 1:].unflatten(1, (native, native)).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid.float(), size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([position[:, :1], grid.flatten(2).transpose(1, 2).to(position.dtype)], dim=1)


def biomedclip(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], what: str) -> TimmVit:
    """Build the image trunk of BiomedCLIP, without text tower and joint space.

    Args:
        tensors: of ``open_clip_model.safetensors`` or ``open_clip_pytorch_model.bin``.
        config: contents of ``open_clip_config.json``.
        what: name of the source in errors.

    Raises:
        ModelError: if the architecture is not supported, or a tensor is missing, unexpected or misshapen.
    """
    vision = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    if vision.get("timm_model_name") != ARCHITECTURE or vision.get("timm_pool", ""):
        raise ModelError(f"open_clip_config.json of {what} describes no image tower like BiomedCLIP's ({ARCHITECTURE})")
    trunk = files.select(tensors, (BIOMEDCLIP_TRUNK,), BIOMEDCLIP_LEFT_OUT, what)
    return _of({name.removeprefix(BIOMEDCLIP_TRUNK): t for name, t in trunk.items()}, what, "token", "biomedclip")


def mrm(tensors: Mapping[str, torch.Tensor], what: str) -> TimmVit:
    """Build the image encoder of ``MRM.pth``, without the decoders of pre-training.

    Its position embeddings are for 224 pixels: pre-training downscaled images of 448 pixels for the encoder and
    restored them at 448 (``forward`` in model_mrm.py). The global vector is the mean of the normalised patches, the
    input of both objectives (paper E.2).

    Raises:
        ModelError: if a tensor is missing, unexpected or misshapen.
    """
    return _of(files.select(tensors, MRM_TRUNK, MRM_LEFT_OUT, what), what, "avg", "mrm-448")


def describe(width: int, depth: int, patch: int, image_size: int, pool: str) -> dict[str, Any]:
    """Return the ``config.json`` of a stored encoder: a timm model of the hub, with transformers' ``model_type``."""
    return {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": width,
        "global_pool": pool,
        "model_args": {
            "img_size": image_size,
            "patch_size": patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": width // HEAD_WIDTH,
            "fc_norm": False,
        },
        "pretrained_cfg": {"num_classes": 0, "input_size": [3, image_size, image_size]},
    }


def architecture(config: Mapping[str, Any], what: str = "the encoder") -> nn.Module:
    """Build the network of a configuration on the meta device.

    Raises:
        ModelError: if the architecture is not a published one.
    """
    if config.get("architecture") != ARCHITECTURE or config.get("global_pool") not in ("token", "avg"):
        raise ModelError(
            f"config.json of {what} says architecture {config.get('architecture')!r}, global_pool "
            f"{config.get('global_pool')!r}; only {ARCHITECTURE!r} with 'token' or 'avg' is read"
        )
    import timm

    try:
        with torch.device("meta"):
            arguments = dict(config.get("model_args") or {})
            network: nn.Module = timm.create_model(
                ARCHITECTURE, pretrained=False, num_classes=0, global_pool=config["global_pool"], **arguments
            )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(f"config.json of {what} describes no network that timm builds ({error})") from error
    return network


def build(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], what: str, recipe: str) -> TimmVit:
    """Build the encoder of a configuration from tensors under timm's names.

    Raises:
        ModelError: if the architecture is not supported, or a tensor is missing, unexpected or misshapen.
    """
    network = architecture(config, what)
    files.fill(network, tensors, what)
    return TimmVit(network, recipe, config)


def _of(tensors: Mapping[str, torch.Tensor], what: str, pool: str, recipe: str) -> TimmVit:
    """Derive the configuration from the shapes of the tensors, then build."""
    stem, positions = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    if stem is None or positions is None or stem.ndim != 4 or positions.ndim != 3:
        names = "patch_embed.proj.weight or pos_embed"
        raise ModelError(f"{what} is not a vision transformer: {names} is missing or misshapen")
    patch = int(stem.shape[-1])
    size = patch * round((positions.shape[1] - 1) ** 0.5)
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    return build(describe(int(stem.shape[0]), depth, patch, size, pool), tensors, what, recipe)


class _TimmFamily(EncoderFamily):
    """BiomedCLIP and MRM."""

    stored_type = "timm_wrapper"
    model_types = {"timm_wrapper": "biomedclip"}  # noqa: RUF012 (read only)
    marker_files = {OPEN_CLIP_CONFIG: "biomedclip"}  # noqa: RUF012
    tensor_names = {f"{BIOMEDCLIP_TRUNK}pos_embed": "biomedclip", "bert_mlp.weight": "mrm"}  # noqa: RUF012

    def config(self, entry: PublishedEncoder) -> Mapping[str, Any] | None:
        """Return ViT-B/16 at 224 pixels with the pooling of the publication."""
        return describe(768, 12, 16, 224, "avg" if entry.name == "mrm" else "token")

    def stored(self, folder: Path, what: str) -> FrozenEncoder:
        """Load a folder written by :meth:`TimmVit.save_pretrained`."""
        config = files.read_json(folder / files.CONFIG, what)
        recipe = config.pop(files.RECIPE, None)
        if not isinstance(recipe, str):
            raise ModelError(f"config.json of {what} does not name its preprocessing ({files.RECIPE})")
        return build(config, files.read_safetensors(folder / files.WEIGHTS, what), what, recipe)

    def on_meta(self, config: Mapping[str, Any], recipe: str = "") -> FrozenEncoder:
        """Build the network of a stored configuration."""
        return TimmVit(architecture(config), recipe or str(config.get(files.RECIPE) or ""), config)

    def published(self, entry: PublishedEncoder, fetch: Fetch, what: str) -> FrozenEncoder:
        """Load BiomedCLIP's repository in open_clip's format, or the single file of MRM."""
        if entry.name == "mrm":
            path = files.single_pickle(fetch(), what)
            return self.from_file(entry.name, path, files.read_pickle(path, what), what)
        for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            path = fetch(OPEN_CLIP_CONFIG, name) / name
            if path.is_file():
                return self.from_file(entry.name, path, files.read_tensors(path, what), what)
        raise ModelError(f"{what} has neither open_clip_model.safetensors nor open_clip_pytorch_model.bin")

    def from_file(self, name: str, path: Path, tensors: Mapping[str, torch.Tensor], what: str) -> FrozenEncoder:
        """Load MRM, or BiomedCLIP with the ``open_clip_config.json`` in the same folder."""
        if name == "mrm":
            return mrm(tensors, what)
        return biomedclip(tensors, files.read_json(path.parent / OPEN_CLIP_CONFIG, what), what)


FAMILY = _TimmFamily()
