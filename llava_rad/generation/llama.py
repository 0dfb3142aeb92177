"""Llama for inference over a static key-value cache, read from a ``LlamaForCausalLM`` folder.

Importing and driving transformers' class costs more than the arithmetic of a small model (docs/benchmarks.md). This one
needs torch alone, joins the query-key-value and the gate-up products, computes the last layer for the last position
only and uses no mask without padding. Tests compare it with ``LlamaForCausalLM.generate``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from encoder.backbones import weight_files
from encoder.backbones.linear import TOGETHER, Linear
from encoder.errors import ModelError
from llava_rad.generation.quantized import QuantizedLinear
from llava_rad.model.config import check_language_model, positions, rope_of

_Product = Linear | QuantizedLinear


class _Layer(NamedTuple):
    norm1: torch.Tensor
    qkv: _Product
    out: _Product
    norm2: torch.Tensor
    gate_up: _Product
    down: _Product


class Cache(NamedTuple):
    """Key-value cache, allocated once: [layers, 2 (keys, values), B, kv heads, length, head size]."""

    states: torch.Tensor

    def rows(self, chosen: slice) -> Cache:
        """Return the rows of a slice, as views."""
        return Cache(self.states[:, :, chosen])

    def move(self, order: Sequence[int]) -> None:
        """Replace row n by row ``order[n]``."""
        for at, row in enumerate(order):
            if at != row:
                self.states[:, :, at] = self.states[:, :, row]


class Llama:
    """A Llama language model that reads embeddings and writes logits.

    Args:
        config: contents of ``config.json``.
        tensors: weights under the published key names; each is used exactly once.
        device: device of the computation.
        dtype: type of the computation.
        bits: 8 or 4 quantises the linear layers; None keeps them in ``dtype``. Embeddings, norms and head are never
            quantised, as in transformers.

    Raises:
        ModelError: if the variant is not supported, or a tensor is missing, left over or of another shape.
        LlavaRadError: if weights cannot be quantised here.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        bits: int | None = None,
    ) -> None:
        check_language_model(config)
        theta, stretch = rope_of(config)
        left = {name for name in tensors if not name.endswith("rotary_emb.inv_freq")}

        def take(name: str, *shape: int) -> torch.Tensor:
            if name not in left:
                raise ModelError(f"the language model lacks the tensor {name}")
            left.remove(name)
            tensor = tensors[name]
            if tuple(tensor.shape) != shape:
                raise ModelError(f"the language model's tensor {name} is {tuple(tensor.shape)}, not {shape}")
            return tensor.to(device=device, dtype=dtype)

        def product(*weights: torch.Tensor) -> _Product:
            weight = torch.cat(weights) if len(weights) > 1 else weights[0]
            return Linear(weight) if bits is None else QuantizedLinear(weight, bits)

        self.bits = bits
        self.config = dict(config)
        self.width, self.heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        self.kv_heads = int(config.get("num_key_value_heads") or self.heads)
        self.head_size = int(config.get("head_dim") or self.width // self.heads)
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))
        self.longest = positions(config)
        self.device, self.dtype = torch.device(device), dtype
        vocabulary, inner = int(config["vocab_size"]), int(config["intermediate_size"])
        queries, kv = self.heads * self.head_size, self.kv_heads * self.head_size

        self.embedding = take("model.embed_tokens.weight", vocabulary, self.width)
        self._layers = []
        for index in range(int(config["num_hidden_layers"])):
            at = f"model.layers.{index}"
            sizes = {"q": queries, "k": kv, "v": kv}
            qkv = [take(f"{at}.self_attn.{n}_proj.weight", size, self.width) for n, size in sizes.items()]
            gate_up = [take(f"{at}.mlp.{name}_proj.weight", inner, self.width) for name in ("gate", "up")]
            self._layers.append(
                _Layer(
                    norm1=take(f"{at}.input_layernorm.weight", self.width),
                    qkv=product(*qkv),
                    out=product(take(f"{at}.self_attn.o_proj.weight", self.width, queries)),
                    norm2=take(f"{at}.post_attention_layernorm.weight", self.width),
                    gate_up=product(*gate_up),
                    down=product(take(f"{at}.mlp.down_proj.weight", self.width, inner)),
                )
            )
        self._norm = take("model.norm.weight", self.width)
        if config.get("tie_word_embeddings", False):
            left.discard("lm_head.weight")
            self._head = Linear(self.embedding)
        else:
            self._head = Linear(take("lm_head.weight", vocabulary, self.width))
        if left:
            raise ModelError(f"the language model has {len(left)} tensors too many, first {min(left)}")
        powers = torch.arange(0, self.head_size, 2, dtype=torch.int64).float() / self.head_size
        angles = torch.outer(torch.arange(self.longest).float(), 1.0 / theta**powers / stretch).repeat(1, 2)
        signed = angles.sin() * torch.tensor([-1.0, 1.0]).repeat_interleave(self.head_size // 2)  # see _rotate
        self._cos, self._sin = (part.to(device=device, dtype=dtype) for part in (angles.cos(), signed))

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        bits: int | None = None,
    ) -> Llama:
        """Read ``config.json`` and the safetensors file or shards of a ``LlamaForCausalLM`` folder.

        Raises:
            ModelError: if a file is missing or damaged, or does not fit.
        """
        config, tensors = read_llama(folder)
        return cls(config, tensors, device=device, dtype=dtype, bits=bits)

    def weights(self) -> Iterator[torch.Tensor]:
        """Yield the tensors that every step reads."""
        yield from (self.embedding, self._norm, self._head.weight, self._cos, self._sin)
        for layer in self._layers:
            for part in layer:
                if isinstance(part, QuantizedLinear):
                    yield from part.tensors()
                else:
                    yield part.weight if isinstance(part, Linear) else part

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights under their published names, as views of those in use if ``Linear`` keeps them so.

        Raises:
            LlavaRadError: if they are quantised.
        """
        queries, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        named = {
            "model.embed_tokens.weight": self.embedding,
            "model.norm.weight": self._norm,
            "lm_head.weight": self._head.weight,
        }
        for index, layer in enumerate(self._layers):
            at = f"model.layers.{index}"
            query, key, value = layer.qkv.weight.split([queries, kv, kv])
            gate, up = layer.gate_up.weight.chunk(2)
            named |= {
                f"{at}.input_layernorm.weight": layer.norm1,
                f"{at}.self_attn.q_proj.weight": query,
                f"{at}.self_attn.k_proj.weight": key,
                f"{at}.self_attn.v_proj.weight": value,
                f"{at}.self_attn.o_proj.weight": layer.out.weight,
                f"{at}.post_attention_layernorm.weight": layer.norm2,
                f"{at}.mlp.gate_proj.weight": gate,
                f"{at}.mlp.up_proj.weight": up,
                f"{at}.mlp.down_proj.weight": layer.down.weight,
            }
        return named

    def cache(self, batch: int, length: int) -> Cache:
        """Allocate a cache for ``length`` tokens, prompt and answer together."""
        shape = (len(self._layers), 2, batch, self.kv_heads, length, self.head_size)
        return Cache(torch.empty(shape, device=self.device, dtype=self.dtype))

    def __call__(
        self, embeds: torch.Tensor, cache: Cache, start: int, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the logits of the last position.

        Args:
            embeds: [B, L, D], embeddings of the next L tokens.
            cache: filled up to ``start``, and up to ``start + L`` on return.
            start: number of tokens before these.
            mask: [B, start + L] bool, False on (left) padding; None without padding.

        Returns:
            [B, V], float32.

        Raises:
            ValueError: if several tokens without a mask follow a filled cache.
        """
        batch, length, _ = embeds.shape
        together = max(1, TOGETHER // length)
        if self.device.type == "cpu" and batch > together:
            groups = [slice(at, at + together) for at in range(0, batch, together)]
            return torch.cat([self(embeds[g], cache.rows(g), start, None if mask is None else mask[g]) for g in groups])
        end = start + length
        causal = mask is None and length > 1
        if causal and start:
            raise ValueError("several tokens after a filled cache need a mask")
        index, attention = slice(start, end), None
        positions: slice | torch.Tensor = index
        if mask is not None:
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, start:]
            attention = _attention(mask, length).to(self.dtype)
        filled = Cache(cache.states[..., :end, :])
        return self._run(embeds.clone(), filled, index, positions, attention, causal=causal)

    @torch.inference_mode()
    def attention(self, embeds: torch.Tensor, rows: slice) -> Iterator[torch.Tensor]:
        """Compute the attention of some positions of a text, ``softmax(q k / sqrt(d))``, layer by layer.

        Args:
            embeds: [1, L, D], embeddings of the whole text, without padding.
            rows: the R positions whose attention is computed.

        Yields:
            [heads, R, L] float32 of each layer; each row sums to 1. All layers of a large model would take gigabytes.
        """
        length = embeds.shape[1]
        cache = self.cache(1, length)
        angles = self._cos[:length].unsqueeze(-2), self._sin[:length].unsqueeze(-2)
        later = torch.ones(length, length, dtype=torch.bool, device=self.device).triu(1)[rows]
        hidden = embeds[0].clone()
        for number, layer in enumerate(self._layers):
            normal = self._normalise(hidden, layer.norm1)
            query = self._fill(normal[None], layer, cache, number, slice(0, length), angles)
            keys, values = cache.states[number]
            grouped = self.heads != self.kv_heads
            mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=grouped)
            key = keys.repeat_interleave(self.heads // self.kv_heads, dim=1)
            products = query[0, :, rows].float() @ key[0].float().transpose(-1, -2) / self.head_size**0.5
            yield products.masked_fill(later, -torch.inf).softmax(-1)
            hidden = self._finish(hidden, mixed, layer)

    def step(self, embeds: torch.Tensor, cache: Cache, index: torch.Tensor) -> torch.Tensor:
        """Compute the logits of one more token of each row, with shapes that do not change from step to step.

        Args:
            embeds: [B, 1, D], embedding of the token; overwritten.
            cache: the whole cache; what follows a row's last token is not seen, but must be finite.
            index: [B], number of tokens before this one, of each row.

        Returns:
            [B, V], float32.
        """
        seen = torch.arange(cache.states.shape[-2], device=self.device) <= index[:, None]
        return self._run(embeds, cache, index, index[:, None], seen[:, None, None], causal=False)

    def _run(
        self,
        embeds: torch.Tensor,
        cache: Cache,
        index: slice | torch.Tensor,
        positions: slice | torch.Tensor,
        attention: torch.Tensor | None,
        *,
        causal: bool,
    ) -> torch.Tensor:
        batch, length, _ = embeds.shape
        cos, sin = self._cos[positions].unsqueeze(-2), self._sin[positions].unsqueeze(-2)
        hidden = embeds.view(batch * length, self.width)
        for number, layer in enumerate(self._layers):
            normal = self._normalise(hidden, layer.norm1).view(batch, length, self.width)
            query = self._fill(normal, layer, cache, number, index, (cos, sin))
            if number == len(self._layers) - 1 and length > 1:  # only the last position is needed
                query, hidden, causal = query[:, :, -1:], hidden.view(embeds.shape)[:, -1].contiguous(), False
                attention = None if attention is None else attention[:, :, -1:]
            keys, values = cache.states[number]
            if torch.compiler.is_compiling():
                mixed = _attend(query, keys, values, attention)
            else:
                mixed = functional.scaled_dot_product_attention(
                    query, keys, values, attention, is_causal=causal, enable_gqa=self.heads != self.kv_heads
                )
            hidden = self._finish(hidden, mixed, layer)
        return self._head(self._normalise(hidden.view(batch, -1, self.width)[:, -1], self._norm)).float()

    def _fill(
        self,
        inputs: torch.Tensor,
        layer: _Layer,
        cache: Cache,
        number: int,
        index: slice | torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Write a layer's keys and values into the cache; return its queries, [B, heads, L, head size]."""
        parts: torch.Tensor = layer.qkv(inputs).unflatten(-1, (-1, self.head_size))
        _rotate(parts[:, :, : self.heads + self.kv_heads], *angles)
        new = parts[:, :, self.heads :].unflatten(2, (2, self.kv_heads))
        if isinstance(index, slice):
            cache.states[number][:, :, :, index] = new.permute(2, 0, 3, 1, 4)
        else:
            cache.states[number][:, torch.arange(len(index), device=self.device), :, index] = new[:, 0]
        return parts[:, :, : self.heads].transpose(1, 2)

    def _finish(self, hidden: torch.Tensor, mixed: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """The rest of a layer after its attention: [N, D], which may be overwritten, and [B, heads, L, head size]."""
        hidden = layer.out.added_to(hidden, mixed.transpose(1, 2).reshape(len(hidden), -1))
        gate, up = layer.gate_up(self._normalise(hidden, layer.norm2)).chunk(2, -1)
        return layer.down.added_to(hidden, functional.silu(gate).mul_(up))

    def _normalise(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm, computed in float32 as in ``LlamaRMSNorm``."""
        if hidden.dtype == torch.float32 or hidden.device.type != "cpu":
            return functional.rms_norm(hidden, (self.width,), weight, self.epsilon)
        exact = hidden.float()
        scale = (torch.linalg.vecdot(exact, exact) / self.width + self.epsilon).rsqrt()
        return exact.mul_(scale[..., None]).to(hidden.dtype).mul_(weight)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Apply rotary position embedding to [B, L, heads, head size] in place; the first half of ``sin`` is negative."""
    exchanged = states.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    states.mul_(cos).addcmul_(exchanged, sin)


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Attention of one query of each row and head, [B, heads, 1, head size], in float32 and in plain products.

    The compiler fuses them into reductions that all processors of a GPU share. The kernels for many queries give each
    head to one processor: at batch 1 most of them would idle.
    """
    batch, heads, _, size = query.shape
    grouped: torch.Tensor = query.reshape(batch, keys.shape[1], -1, size).float()
    scores = grouped @ keys.float().transpose(-1, -2) / size**0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    mixed: torch.Tensor = scores.softmax(-1) @ values.float()
    return mixed.to(values.dtype).view(batch, heads, 1, size)


def _attention(mask: torch.Tensor, length: int) -> torch.Tensor:
    """Make the mask [B, 1, length, total], added to scores: 0 or -inf.

    It is causal and without padding, but every query sees itself: no row is empty. A boolean mask would be converted in
    every layer.
    """
    total = mask.shape[1]
    rows = torch.arange(total - length, total, device=mask.device)[:, None]
    columns = torch.arange(total, device=mask.device)[None]
    seen = ((columns <= rows) & mask[:, None, None, :]) | (columns == rows)
    return torch.zeros((), device=mask.device).masked_fill(~seen, -torch.inf)


def read_llama(folder: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Read ``config.json``, and open the tensors of the safetensors file or shards.

    Raises:
        ModelError: if a file is missing or damaged; also when a tensor is read.
    """
    what = "the language model"
    config = weight_files.read_json(folder / weight_files.CONFIG, what)
    shards = weight_files.shards(folder, weight_files.WEIGHTS, what) or [weight_files.WEIGHTS]
    return config, weight_files.StoredTensors([folder / shard for shard in shards], what)
