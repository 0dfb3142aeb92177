"""DINOv2 and RAD-DINO: ``RadDino`` wraps transformers' ``Dinov2Model``; ``VisionTransformer`` is our inference code.

``VisionTransformer`` reads the same files and gives the same results. It needs torch only: importing transformers'
modelling code takes longer than encoding an image on two cores. It joins the query, key and value products and folds
LayerScale into the weights; ``scripts.bench.generate`` and ``scripts.bench.probing`` measure the gain.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from encoder.backbones import weight_files as files
from encoder.backbones.base import (
    RECIPE_KEY,
    EncoderFamily,
    Features,
    Fetch,
    FrozenEncoder,
    Sizes,
    Taps,
    first_line,
    refuse_incomplete,
)
from encoder.backbones.linear import TOGETHER, Linear
from encoder.backbones.registry import RAD_DINO, PublishedEncoder
from encoder.errors import ModelError
from encoder.hub import fetch, refused_packages
from encoder.preprocessing import IMAGENET, rad_dino
from encoder.runs.distributed import choose_deepspeed_device

if TYPE_CHECKING:
    from transformers import Dinov2Model


class RadDino(FrozenEncoder):
    """A frozen ``Dinov2Model``.

    Both outputs are taken after the final LayerNorm, as in Microsoft's ``rad-dino`` package and in MAIRA-2;
    ``hidden_states[-1]``, which transformers' LLaVA uses, is before it.
    """

    def __init__(self, model: Dinov2Model, recipe: str = "rad-dino") -> None:
        super().__init__(model, recipe)

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, S, S] normalised images; S is a multiple of the patch size."""
        with torch.no_grad():
            hidden = self.model(pixel_values.to(self.model.dtype)).last_hidden_state
        return Features(hidden[:, 0], hidden[:, 1:])

    def taps(self) -> Taps:
        """Return the layers of ``Dinov2Model`` and its final LayerNorm."""
        return Taps(self.model.encoder.layer, self.model.layernorm)

    @classmethod
    def from_pretrained(
        cls, source: str | Path = RAD_DINO, *, revision: str | None = None, offline: bool = False
    ) -> RadDino:
        """Load a folder or hub repository in the format of ``microsoft/rad-dino`` (old and new key names).

        For the run folder of a pre-training, its export is loaded.

        Raises:
            ModelError: if it is not found, not a DINOv2 model without registers, or a tensor is missing or unexpected.
        """
        patterns = ("config.json", "model.safetensors", "preprocessor_config.json")
        return cls.load(fetch(source, revision=revision, offline=offline, patterns=patterns), f"the encoder {source}")

    @classmethod
    def load(cls, folder: Path, what: str) -> RadDino:
        """Load a local folder, or the export in a run folder; ``what`` names it in errors.

        Raises:
            ModelError: as for :meth:`from_pretrained`.
        """
        from transformers import Dinov2Config, Dinov2Model
        from transformers.utils import logging

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        if (folder / "export" / "config.json").is_file():
            folder = folder / "export"
        published = files.read_json(folder / files.CONFIG, what)
        kind = published.get("model_type")
        if kind != "dinov2":
            raise ModelError(f"{what} is a {kind!r} model, not 'dinov2'")
        if not (folder / files.WEIGHTS).is_file():
            raise ModelError(f"{what} has no file {files.WEIGHTS}")
        if (folder / "adapter_config.json").exists():  # transformers would load the adapter
            raise ModelError(f"{what} has an adapter, which is not read")
        try:
            config = Dinov2Config(**files.architecture_of(published, Dinov2Config, what))
            with refused_packages():
                model, report = Dinov2Model.from_pretrained(
                    folder,
                    config=config,
                    use_safetensors=True,
                    attn_implementation="sdpa",
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise ModelError(f"{what} could not be loaded: {first_line(error)}") from error
        refuse_incomplete(report, what)
        return cls(model, cls.own_recipe(folder, what))

    @staticmethod
    def own_recipe(folder: Path, what: str = "the encoder") -> str:
        """Return the recipe that a folder's files state; "" if they state none that is known.

        A name in ``config.json`` comes first. Without one, as in published folders and exports of version 0.2.0,
        ``preprocessor_config.json`` tells RAD-DINO's recipe from DINOv2's by its mean. The size is that of RAD-DINO's
        processor, else ``image_size`` of ``config.json``, which is 518 in DINOv2's publications as in the paper.

        Raises:
            ModelError: if one of the files is damaged.
        """
        config = files.read_json(folder / files.CONFIG, what)
        path = folder / "preprocessor_config.json"
        processor = files.read_json(path, what) if path.is_file() else {}
        for found in (config, processor):
            if isinstance(found.get(RECIPE_KEY), str):
                return str(found[RECIPE_KEY])
        native = config.get("image_size")
        kind = _kind_of(processor)
        size = (_processor_side(processor, native) if kind == "rad-dino" else native) if kind else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            return ""
        return rad_dino(size).name if kind == "rad-dino" else f"{kind}-{size}"

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json``, which names the recipe, and ``model.safetensors`` with the published key names."""
        if self.recipe:
            setattr(self.model.config, RECIPE_KEY, self.recipe)
        choose_deepspeed_device()
        self.model.save_pretrained(folder)


def _kind_of(processor: Mapping[str, Any]) -> str | None:
    """Return the family of recipes that an image processor has the mean and deviation of; None for another."""
    usual = rad_dino()
    mean = processor.get("image_mean", [usual.mean] * 3)
    if mean == list(IMAGENET[0]):  # type: ignore[arg-type]
        return "dinov2"
    same = mean == [usual.mean] * 3 and processor.get("image_std", [usual.std] * 3) == [usual.std] * 3
    return "rad-dino" if same else None


def _processor_side(processor: Mapping[str, Any], native: object) -> object:
    """Return the side of the square that an image processor makes; None if it resizes and crops to different sides."""
    sides: list[object] = []
    for stated in (processor.get("size"), processor.get("crop_size")):
        if stated is not None:
            sides += stated.values() if isinstance(stated, Mapping) else [stated]
    if not sides:
        return native
    return sides[0] if all(side == sides[0] for side in sides) else None


_EXPECTED = {"model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": False, "num_channels": 3}

_Pair = tuple[torch.Tensor, torch.Tensor]


class _Block(NamedTuple):
    norm1: _Pair
    qkv: Linear
    out: Linear
    norm2: _Pair
    fc1: Linear
    fc2: Linear


class VisionTransformer:
    """A frozen DINOv2 encoder at one image size.

    Args:
        config: contents of the encoder's ``config.json``.
        tensors: its weights under the published key names; each is used exactly once.
        size: side of the images in pixels; position embeddings are interpolated to it as ``Dinov2Model`` does.
        device: of the weights and the computation.
        dtype: of the weights and the computation.

    Raises:
        ModelError: if the architecture is not supported, or a tensor is missing, unexpected or misshapen.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for key, value in _EXPECTED.items():
            if config.get(key, value) != value:
                raise ModelError(f"the encoder's config.json says {key} = {config[key]!r}; only {value!r} is read")
        left = dict(tensors)

        def take(name: str, *shape: int) -> torch.Tensor:
            tensor = left.pop(name, None)
            if tensor is None:
                raise ModelError(f"the encoder lacks the tensor {name}")
            if tuple(tensor.shape) != shape:
                raise ModelError(f"the encoder's tensor {name} is {tuple(tensor.shape)}, not {shape}")
            return tensor.to(device=device, dtype=torch.float32)

        def pair(name: str, *shape: int) -> _Pair:
            return take(f"{name}.weight", *shape), take(f"{name}.bias", shape[0])

        def cast(weight: torch.Tensor, bias: torch.Tensor) -> _Pair:
            return weight.to(dtype), bias.to(dtype)

        width, self.heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        hidden, patch = int(width * config.get("mlp_ratio", 4)), int(config["patch_size"])
        native = (int(config["image_size"]) // patch) ** 2
        self.epsilon = float(config.get("layer_norm_eps", 1e-6))
        self.patch_size, self.width, self.size = patch, width, size

        left.pop("embeddings.mask_token", None)  # used in pre-training only
        self._cls = take("embeddings.cls_token", 1, 1, width).to(dtype)
        position = take("embeddings.position_embeddings", 1, native + 1, width)
        self._position = _interpolate(position, size // patch).to(dtype)
        self._patch = cast(*pair("embeddings.patch_embeddings.projection", width, 3, patch, patch))
        self._blocks = []
        for index in range(int(config["num_hidden_layers"])):
            at = f"encoder.layer.{index}"
            qkv = [pair(f"{at}.attention.attention.{name}", width, width) for name in ("query", "key", "value")]
            scale1, scale2 = take(f"{at}.layer_scale1.lambda1", width), take(f"{at}.layer_scale2.lambda1", width)
            out, fc2 = pair(f"{at}.attention.output.dense", width, width), pair(f"{at}.mlp.fc2", width, hidden)
            self._blocks.append(
                _Block(
                    norm1=cast(*pair(f"{at}.norm1", width)),
                    qkv=Linear(*cast(torch.cat([weight for weight, _ in qkv]), torch.cat([bias for _, bias in qkv]))),
                    out=Linear(*cast(out[0] * scale1[:, None], out[1] * scale1)),
                    norm2=cast(*pair(f"{at}.norm2", width)),
                    fc1=Linear(*cast(*pair(f"{at}.mlp.fc1", hidden, width))),
                    fc2=Linear(*cast(fc2[0] * scale2[:, None], fc2[1] * scale2)),
                )
            )
        self._inner = hidden
        self._norm = cast(*pair("layernorm", width))
        if left:
            raise ModelError(f"the encoder has {len(left)} tensors too many, first {min(left)}")

    @classmethod
    def load(
        cls, folder: Path, *, size: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> VisionTransformer:
        """Read ``config.json`` and ``model.safetensors`` of an encoder folder.

        Raises:
            ModelError: if a file is missing or damaged, or its tensors are not those of the configuration.
        """
        config = files.read_json(folder / files.CONFIG, "the encoder")
        tensors = files.read_safetensors(folder / files.WEIGHTS, "the encoder")
        return cls(config, tensors, size=size, device=device, dtype=dtype)

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> Features:
        """Return the features of [B, 3, size, size] normalised images, after the final LayerNorm."""
        groups = 1
        if pixel_values.device.type == "cpu":
            groups = max(1, math.ceil(len(pixel_values) * self._position.shape[1] / TOGETHER))
        hidden = torch.cat([self._encode(part) for part in pixel_values.tensor_split(min(groups, len(pixel_values)))])
        return Features(hidden[:, 0], hidden[:, 1:])

    @torch.inference_mode()
    def cls_attention(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the attention of the CLS token to each patch in the last layer, by head.

        See ``encoder.backbones.attention_maps.cls_attention``.

        Args:
            pixel_values: [B, 3, size, size] normalised images.

        Returns:
            [B, heads, side, side] float32.
        """
        kept: list[torch.Tensor] = []
        self._encode(pixel_values, kept)
        query, key, _ = self._heads(kept[-1], len(pixel_values))
        products = query[:, :, :1].float() @ key.float().transpose(-1, -2)
        weights = torch.softmax(products / query.shape[-1] ** 0.5, dim=-1)[..., 0, 1:]
        return torch.unflatten(weights, -1, (self.size // self.patch_size, -1))

    def _encode(self, pixel_values: torch.Tensor, kept: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Return [B, 1 + N, D] after the final LayerNorm; ``kept`` receives q, k and v of the last layer."""
        weight, bias = self._patch
        patches = functional.conv2d(pixel_values.to(weight.dtype), weight, bias, stride=self.patch_size)
        tokens = patches.flatten(2).transpose(1, 2)
        batch, length = len(tokens), tokens.shape[1] + 1
        hidden = torch.cat([self._cls.expand(batch, -1, -1), tokens], dim=1) + self._position
        hidden = hidden.view(batch * length, self.width)
        # Reusing the memory of large intermediate results saves a tenth of the time, so results in new memory are not
        # kept in variables.
        qkv, inner = hidden.new_empty(len(hidden), 3 * self.width), hidden.new_empty(len(hidden), self._inner)
        for block in self._blocks:
            mixed = self._attend(qkv := block.qkv(self._normalise(hidden, block.norm1), out=qkv), batch)
            hidden = block.out.added_to(hidden, mixed)
            del mixed
            hidden = block.fc2.added_to(hidden, block.fc1.gelu(self._normalise(hidden, block.norm2), out=inner))
        if kept is not None:
            kept.append(qkv)
        return self._normalise(hidden, self._norm).view(batch, length, self.width)

    def _attend(self, qkv: torch.Tensor, batch: int) -> torch.Tensor:
        """Compute the attention of all heads: [B * L, 3 * D] (queries, keys, values) to [B * L, D]."""
        query, key, value = self._heads(qkv, batch)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return mixed.reshape(len(qkv), self.width)

    def _heads(self, qkv: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split queries, keys and values, [B, heads, L, head size] each."""
        query, key, value = qkv.view(batch, -1, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        return query, key, value

    def _normalise(self, hidden: torch.Tensor, parts: _Pair) -> torch.Tensor:
        return functional.layer_norm(hidden, (self.width,), *parts, self.epsilon)


def _interpolate(position: torch.Tensor, side: int) -> torch.Tensor:
    """Resize [1, 1 + n * n, D] position embeddings to [1, 1 + side * side, D], bicubic as in ``Dinov2Embeddings``."""
    width = position.shape[-1]
    native = round((position.shape[1] - 1) ** 0.5)
    if native == side:
        return position
    grid = position[:, 1:].reshape(1, native, native, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([position[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, width)], dim=1)


class _Dinov2Family(EncoderFamily):
    """RAD-DINO, DINOv2 and encoders pre-trained here."""

    model_types = {"dinov2": "rad-dino"}  # noqa: RUF012 (read only)

    def stored(self, folder: Path, what: str) -> FrozenEncoder:
        """Load a ``Dinov2Model`` folder."""
        return RadDino.load(folder, what)

    def sizes(self, folder: Path, config: Mapping[str, Any], recipe: str) -> Sizes:
        """Read the sizes from ``config.json``."""
        return Sizes(recipe or RadDino.own_recipe(folder), int(config["patch_size"]), config)

    def published(self, entry: PublishedEncoder, fetch: Fetch, what: str) -> FrozenEncoder:
        """Load a folder in the format of ``microsoft/rad-dino``."""
        folder = fetch("config.json", "model.safetensors", "preprocessor_config.json")
        encoder = RadDino.load(folder, what)
        if entry.name != "rad-dino":
            encoder.recipe = entry.recipe
        return encoder


FAMILY = _Dinov2Family()
