"""Time decoding by a language model of Vicuna-7B's shape with random weights, against the card's bandwidth and a peer.

Prompts are random embeddings, as many as 1369 image tokens and 40 of text; every answer is 100 tokens, without an end
token. Ours runs one kernel after the other and as a CUDA graph; the peer is ``LlamaForCausalLM.generate`` on the same
weights. On a CPU nothing is compiled.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from scripts.bench.harness import Report, median, time_calls
from scripts.bench.worker import OUT_OF_MEMORY

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from llava_rad.generation.llama import Llama

COLUMNS = {"prompt s": ".3f", "tokens/s": ".0f", "of bound": ".2f", "reports/s": ".2f", "equal tokens": ".4f"}
COLUMNS["error"] = ""
Write = Callable[["torch.Tensor", int], list[list[int]]]


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of the work."""

    width: int = 4096
    inner: int = 11008
    layers: int = 32
    heads: int = 32
    vocabulary: int = 32064
    prompt: int = 1369 + 40
    answer: int = 100
    batches: tuple[int, ...] = (16, 32, 64)
    copied_bytes: int = 2 << 30

    @property
    def config(self) -> dict[str, Any]:
        """``config.json`` of the language model."""
        return {
            "model_type": "llama", "vocab_size": self.vocabulary, "hidden_size": self.width,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        }  # fmt: skip


SEVEN_B = Shape()
TINY = Shape(64, 96, 2, 2, 99, prompt=20, answer=6, batches=(2, 3), copied_bytes=1 << 20)


def build(shape: Shape, device: str) -> Llama:
    """Our form of the model, in bfloat16, its weights drawn on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava_rad.generation.llama import Llama

    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**shape.config)).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    tensors = {
        name: torch.empty(tensor.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
        for name, tensor in empty.items()
    }
    return Llama(shape.config, tensors, device=device, dtype=torch.bfloat16)


def transformers_form(llama: Llama) -> PreTrainedModel:
    """``LlamaForCausalLM`` over the same weights, without an end token."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**llama.config)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(llama.tensors(), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(llama.device)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)
    return model.eval()


def sides(llama: Llama, peer: PreTrainedModel) -> dict[str, Callable[[], Write]]:
    """Makers of calls that write tokens after prompts; made anew for every batch size, since a graph has one shape."""
    import torch

    from llava_rad.generation.compiled import CompiledDecoder, as_graph
    from llava_rad.generation.decoding import _decode, _decode_compiled
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    def engine(**more: object) -> Engine:
        tokens = SimpleNamespace(ids=SimpleNamespace(eos=-1), suppressed=())
        config = SimpleNamespace(generation=SimpleNamespace(max_new_tokens=1, num_beams=1))
        parts = {"llama": llama, "tokens": tokens, "config": config, "device": llama.device}
        return cast(Engine, SimpleNamespace(**parts, **more))

    def ours(embeds: torch.Tensor, steps: int) -> list[list[int]]:
        return _columns(_decode(engine(), embeds, None, Decoding(max_new_tokens=steps)))

    def graph() -> Write:
        record = as_graph if llama.device.type == "cuda" else lambda step: step
        whole = engine(compiled=CompiledDecoder(llama, (), record))

        def write(embeds: torch.Tensor, steps: int) -> list[list[int]]:
            if steps == 1:  # the prompt alone, which is not compiled
                return ours(embeds, steps)
            return _columns(_decode_compiled(whole, embeds, None, Decoding(max_new_tokens=steps)))

        return write

    @torch.inference_mode()
    def plain(embeds: torch.Tensor, steps: int) -> list[list[int]]:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        rows: list[list[int]] = peer.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps
        ).tolist()
        return rows

    return {"ours": lambda: ours, "ours, as a graph": graph, "transformers": lambda: plain}


def _columns(steps: Any) -> list[list[int]]:
    return [list(row) for row in zip(*steps, strict=True)]


def bandwidth(size: int, device: str, rounds: int) -> float:
    """Bytes per second, read and written, of copying within the device's memory."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median(time_calls({"copy": lambda: target.copy_(source)}, rounds, device=device)["copy"])


def run(report: Report, device: str, *, tiny: bool, rounds: int, batches: tuple[int, ...] | None = None) -> None:
    """Time decoding at batch 1 and whole answers in batches, and print the rows."""
    import torch

    shape = TINY if tiny else SEVEN_B
    if batches is not None:
        shape = replace(shape, batches=batches)
    rate = bandwidth(shape.copied_bytes, device, rounds)
    llama = build(shape, device)
    peer = transformers_form(llama)
    read = sum(tensor.nbytes for name, tensor in llama.tensors().items() if name != "model.embed_tokens.weight")
    facts = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "shape": shape}
    report.data |= facts | {"copy_bytes_per_second": rate, "weight_bytes_per_token": read}
    report.say(
        f"{facts['device']}: copies {rate / 1e9:.0f} GB/s; {read / 1e9:.2f} GB of weights a step: at most "
        f"{rate / read:.0f} tokens/s at batch 1"
    )
    report.table("batches", COLUMNS)
    for batch in (1, *shape.batches):
        generator = torch.Generator(device).manual_seed(batch)
        embeds = torch.empty(batch, shape.prompt, shape.width, dtype=torch.bfloat16, device=device)
        embeds.normal_(0, 0.02, generator=generator)
        rows: dict[str, list[list[int]]] = {}
        for name, make in sides(llama, peer).items():
            label = f"batch {batch}, {name}"
            try:
                rows[name], first, whole = _timed(make(), embeds, shape.answer, rounds)
            except torch.OutOfMemoryError:
                report.row(label, OUT_OF_MEMORY)
                continue
            finally:  # the next one needs the graph's cache
                torch._dynamo.reset()
                gc.collect()
                torch.cuda.empty_cache()
            speed = batch * (shape.answer - 1) / (whole - first)
            equal = _equal(rows[name], rows["ours"]) if "ours" in rows else None
            row = {"prompt s": first, "tokens/s": speed, "of bound": speed / batch * read / rate}
            report.row(label, row | {"reports/s": batch / whole, "equal tokens": equal})


def _timed(write: Write, embeds: torch.Tensor, steps: int, rounds: int) -> tuple[list[list[int]], float, float]:
    """The tokens, the seconds of the first of them, and the seconds of all."""
    rows = write(embeds, steps)  # also warms up, and compiles
    calls = {"first": partial(write, embeds, 1), "all": partial(write, embeds, steps)}
    device = embeds.device.type
    times = {name: median(time_calls({name: call}, rounds, device=device)[name]) for name, call in calls.items()}
    return rows, times["first"], times["all"]


def _equal(rows: list[list[int]], others: list[list[int]]) -> float:
    pairs = [pair for row, other in zip(rows, others, strict=True) for pair in zip(row, other, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)
