"""Time decoding by a language model of Vicuna-7B's shape with random weights, against the card's bandwidth and a peer.

Prompts are random embeddings, as many as 1369 image tokens and 40 of text; every answer is 100 tokens, without an end
token. Ours runs one kernel after the other and as a CUDA graph; the peer is ``LlamaForCausalLM.generate`` on the same
weights. On a CPU nothing is compiled.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from scripts.bench.harness import Report, equal_rows, median, time_calls
from scripts.bench.random_parts import REAL, TINY, Size
from scripts.bench.worker import OUT_OF_MEMORY

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from llava_rad.generation.compiled import Tokens
    from llava_rad.generation.llama import Llama

COLUMNS = {"prompt s": ".3f", "tokens/s": ".0f", "of bound": ".2f", "reports/s": ".2f", "equal tokens": ".4f"}
COLUMNS["error"] = ""
PROMPT, ANSWER, BATCHES = 1369 + 40, 100, (16, 32, 64)
Write = Callable[["torch.Tensor", int], list[list[int]]]


def build(size: Size, device: str) -> tuple[Llama, PreTrainedModel]:
    """Our form of the model in bfloat16, weights drawn on the device, and ``LlamaForCausalLM`` over the same ones."""
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    from llava_rad.generation.llama import Llama

    config = size.llama_config()
    with torch.device("meta"):
        peer = LlamaForCausalLM(config)
    generator = torch.Generator(device).manual_seed(0)
    tensors = {
        name: torch.empty(tensor.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
        for name, tensor in peer.state_dict().items()
    }
    llama = Llama(config.to_dict(), tensors, device=device, dtype=torch.bfloat16)
    peer.load_state_dict(llama.tensors(), assign=True)
    peer.model.rotary_emb = type(peer.model.rotary_emb)(config).to(device)
    peer.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)
    return llama, peer.eval()


def sides(llama: Llama, peer: PreTrainedModel) -> dict[str, Callable[[], Write]]:
    """Makers of calls that write tokens after prompts; made anew for every batch size, since a graph has one shape."""
    import torch

    from llava_rad.generation.compiled import CompiledDecoder, as_graph
    from llava_rad.generation.decoding import _decode
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    tokens = SimpleNamespace(ids=SimpleNamespace(eos=-1), suppressed=())
    config = SimpleNamespace(generation=SimpleNamespace(max_new_tokens=1, num_beams=1))
    engine = cast(Engine, SimpleNamespace(llama=llama, tokens=tokens, config=config, device=llama.device))

    def ours(embeds: torch.Tensor, steps: int) -> list[list[int]]:
        return _rows(_decode(engine, embeds, None, Decoding(max_new_tokens=steps)), len(embeds))

    def graph() -> Write:
        made: list[CompiledDecoder] = []

        @torch.inference_mode()
        def write(embeds: torch.Tensor, steps: int) -> list[list[int]]:
            if not made:
                record = as_graph if llama.device.type == "cuda" else lambda step: step
                made.append(CompiledDecoder(llama, (), len(embeds), embeds.shape[1] + steps, record))
            return _rows(made[0](iter(embeds), steps, -1), len(embeds))

        return write

    @torch.inference_mode()
    def plain(embeds: torch.Tensor, steps: int) -> list[list[int]]:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        rows: list[list[int]] = peer.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps
        ).tolist()
        return rows

    return {"ours": lambda: ours, "ours, as a graph": graph, "transformers": lambda: plain}


def run(report: Report, device: str, *, tiny: bool, rounds: int, batches: tuple[int, ...] | None = None) -> None:
    """Time decoding at batch 1 and whole answers in batches, and print the rows."""
    import torch

    def timed(call: Callable[[], object]) -> float:
        return median(time_calls({"": call}, rounds, warmup=1, device=device)[""])

    size, prompt, answer, copied = (TINY, 20, 6, 1 << 20) if tiny else (REAL, PROMPT, ANSWER, 2 << 30)
    source, target = (torch.zeros(copied, dtype=torch.uint8, device=device) for _ in range(2))
    rate = 2 * copied / timed(partial(target.copy_, source))  # bytes read and written in a second
    del source, target
    llama, peer = build(size, device)
    read = sum(tensor.nbytes for name, tensor in llama.tensors().items() if name != "model.embed_tokens.weight")
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    report.data |= {"device": card, "size": size, "copy_bytes_per_second": rate, "weight_bytes_per_token": read}
    report.say(
        f"{card}: copies {rate / 1e9:.0f} GB/s; {read / 1e9:.2f} GB of weights a step: at most "
        f"{rate / read:.0f} tokens/s at batch 1"
    )
    report.table("batches", COLUMNS)
    for batch in (1, *(batches or ((2, 3) if tiny else BATCHES))):
        generator = torch.Generator(device).manual_seed(batch)
        embeds = torch.empty(batch, prompt, size.width, dtype=torch.bfloat16, device=device)
        embeds.normal_(0, 0.02, generator=generator)
        reference: list[int] = []
        for name, make in sides(llama, peer).items():
            label = f"batch {batch}, {name}"
            try:
                write = make()
                tokens = [*chain(*write(embeds, answer))]  # also warms up, and compiles
                first, whole = (timed(partial(write, embeds, steps)) for steps in (1, answer))
            except torch.OutOfMemoryError:
                report.row(label, OUT_OF_MEMORY)
                continue
            finally:  # the next one needs the graph's cache
                torch._dynamo.reset()
                gc.collect()
                torch.cuda.empty_cache()
            reference = reference or tokens
            speed = batch * (answer - 1) / (whole - first)
            row = {"prompt s": first, "tokens/s": speed, "of bound": speed / batch * read / rate}
            equal = equal_rows(tokens, reference) / len(tokens)
            report.row(label, row | {"reports/s": batch / whole, "equal tokens": equal})


def _rows(pieces: Iterable[Tokens], count: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(count)]
    for row, token in chain.from_iterable(pieces):
        rows[row].append(token)
    return rows
