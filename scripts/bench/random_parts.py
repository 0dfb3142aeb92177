"""RAD-DINO and Vicuna-7B with random weights, drawn in memory: sizes, language model, encoder, and both as one engine.

Reports of random weights are noise of full length: the end token, 2, is never the likeliest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.generation.engine import Engine
    from llava_rad.generation.llama import Llama
    from llava_rad.model.config import FurtherImages


@dataclass(frozen=True)
class Size:
    """Sizes of both networks; the defaults are those of RAD-DINO and Vicuna-7B."""

    encoder_width: int = 768
    encoder_layers: int = 12
    image: int = 518
    width: int = 4096
    inner: int = 11008
    layers: int = 32
    heads: int = 32
    vocabulary: int = 32000
    tokens: int = 150
    recipe: str = "rad-dino"

    def llama_config(self, **more: Any) -> Any:
        """Transformers' configuration of the language model."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.inner,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.heads,
            max_position_embeddings=4096, rms_norm_eps=1e-5, **more,
        )  # fmt: skip

    def dinov2_config(self) -> Any:
        """Transformers' configuration of the encoder."""
        from transformers import Dinov2Config

        return Dinov2Config(
            hidden_size=self.encoder_width, num_hidden_layers=self.encoder_layers,
            num_attention_heads=self.encoder_width // 64 or 1, image_size=self.image, patch_size=14,
        )  # fmt: skip

    @property
    def patches(self) -> int:
        """Features of an image."""
        return (self.image // 14) ** 2


REAL = Size()
TINY = Size(24, 2, 56, 64, 96, 2, 2, 400, 8, "rad-dino-56")


def configuration(size: Size, rope_factor: float = 1.0) -> dict[str, Any]:
    """Contents of the language model's ``config.json``, without transformers; positions are scaled by a factor."""
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if rope_factor > 1:
        rope |= {"rope_type": "linear", "factor": rope_factor}
    return {
        "model_type": "llama", "hidden_act": "silu", "vocab_size": size.vocabulary, "hidden_size": size.width,
        "intermediate_size": size.inner, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_parameters": rope, "tie_word_embeddings": False,
    }  # fmt: skip


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a ``LlamaForCausalLM``."""
    wide, inner = (size.width, size.width), (size.inner, size.width)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size.vocabulary, size.width)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{name}_proj.weight": wide for name in "qkvo"}
        found |= {f"{at}.mlp.gate_proj.weight": inner, f"{at}.mlp.up_proj.weight": inner}
        found |= {f"{at}.mlp.down_proj.weight": inner[::-1]}
        found |= {f"{at}.{name}_layernorm.weight": (size.width,) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": (size.width,), "lm_head.weight": (size.vocabulary, size.width)}


class Drawn(Mapping[str, torch.Tensor]):
    """Weights of the language model, each drawn when it is asked for: all of them need not fit into memory.

    Args:
        size: of the networks.
        device: where they are drawn.
        dtype: their type.
    """

    def __init__(self, size: Size, device: str, dtype: torch.dtype = torch.bfloat16) -> None:
        self._shapes, self._device, self._dtype = shapes(size), device, dtype
        self._seeds = {name: seed for seed, name in enumerate(self._shapes)}
        self._noise = torch.empty(1 << 22).normal_(0, 0.02, generator=torch.Generator().manual_seed(0)).to(dtype)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape, seed = self._shapes[name], self._seeds[name]
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._dtype, device=self._device)  # norms
        if self._device == "cpu":
            found = repeated(self._noise, shape, seed)
        else:
            generator = torch.Generator(self._device).manual_seed(seed)
            found = torch.empty(shape, dtype=self._dtype, device=self._device).normal_(0, 0.02, generator=generator)
        if name == "lm_head.weight":
            found[2] = 0  # its score is 0, which the largest of thousands of random ones exceeds
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def repeated(noise: torch.Tensor, shape: Sequence[int], at: int) -> torch.Tensor:
    """Repeat noise from its own start: drawing seven billion numbers on a CPU would take minutes."""
    count, start = shape[0] * shape[1], 65_537 * at % len(noise)
    turned = torch.cat([noise[start:], noise[:start]])
    return turned.repeat(-(-count // len(noise)))[:count].view(*shape)


def language_model(
    size: Size, device: str, dtype: torch.dtype = torch.bfloat16, *, bits: int | None = None, rope_factor: float = 1.0
) -> Llama:
    """Our form of the language model, made layer by layer."""
    from llava_rad.generation.llama import Llama

    return Llama(configuration(size, rope_factor), Drawn(size, device), device=device, dtype=dtype, bits=bits)


def encoder(size: Size, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The encoder in its fastest form."""
    from transformers import Dinov2Model

    from encoder.backbones.dinov2 import RadDino
    from encoder.backbones.loading import in_fastest_form

    torch.manual_seed(0)
    return in_fastest_form(RadDino(Dinov2Model(size.dinov2_config())), size=size.image, device=device, dtype=dtype)


def engine(
    size: Size,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    *,
    bits: int | None = None,
    further: FurtherImages | None = None,
    rope_factor: float = 1.0,
) -> Engine:
    """The whole model, with a tokenizer of one token a word; with ``further`` one of studies, by our template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from encoder.preprocessing import recipe_named
    from llava_rad.generation.engine import Engine
    from llava_rad.model.config import LlavaRadConfig, PromptConfig
    from llava_rad.model.projector import Projector
    from llava_rad.model.tokenizer import Tokens

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"word{number}": number for number in range(3, size.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    recipe = recipe_named(size.recipe)
    prompt = PromptConfig(template="study") if further else PromptConfig()
    config = LlavaRadConfig(
        name="random", image_tokens=size.patches, recipe=recipe.to_dict(), prompt=prompt, further_images=further
    )
    projector = Projector(size.encoder_width, size.width, markers=bool(further and further.markers))
    llama = language_model(size, device, dtype, bits=bits, rope_factor=rope_factor)
    vision, tokens = encoder(size, device, dtype), Tokens(tokenizer, config.tokens)
    return Engine(config, vision, projector.to(device, dtype), llama, tokens)


def pictures(size: Size, count: int) -> list[npt.NDArray[np.uint8]]:
    """Random images, as a recipe prepares them."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size.image, size.image), dtype=np.uint8) for _ in range(count)]
