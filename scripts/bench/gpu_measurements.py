"""The measurements of ``scripts.bench.gpu``: each is a generator of rows, run in a process of its own.

Rows of decoding give tokens/s after the first token, and the share of the bound that the card's copy rate sets on
reading the weights once a token. Rows of training give the share of the card's bfloat16 rate, by the model's FLOPs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scripts.bench import random_parts
from scripts.bench.harness import median, time_calls
from scripts.bench.random_parts import REAL, TINY, Drawn, Size, configuration, pictures, shapes
from scripts.bench.scoring_decode import ANSWER, PROMPT

if TYPE_CHECKING:
    import torch

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements, real or toy ones."""

    device: str
    toy: bool

    @property
    def size(self) -> Size:
        """Of encoder and language model."""
        return TINY if self.toy else REAL

    @property
    def prompt(self) -> int:
        """Tokens before an answer."""
        return 20 if self.toy else PROMPT

    @property
    def answer(self) -> int:
        """Tokens of an answer."""
        return 6 if self.toy else ANSWER

    @property
    def rounds(self) -> int:
        """Timed calls of a row."""
        return 1 if self.toy else 3

    def seconds(self, call: Callable[[], object]) -> float:
        """Median seconds of a call."""
        return median(time_calls({"": call}, self.rounds, device=self.device)[""])

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


# Language model


def prompts(scale: Scale, rows: int) -> torch.Tensor:
    """Random embeddings [rows, prompt, width]."""
    import torch

    generator = torch.Generator(scale.device).manual_seed(1)
    embeds = torch.empty(rows, scale.prompt, scale.size.width, dtype=torch.bfloat16, device=scale.device)
    return embeds.normal_(0, 0.02, generator=generator)


def bound(scale: Scale) -> float:
    """Largest number of tokens/s at batch 1: the rate of a copy, bytes read and written, over the bytes of weights."""
    import torch

    size = 1 << 20 if scale.toy else 2 << 30
    source, target = (torch.zeros(size, dtype=torch.uint8, device=scale.device) for _ in range(2))
    target.copy_(source)
    rate = 2 * size / scale.seconds(partial(target.copy_, source))
    elements = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes(scale.size).values())
    return rate / (2 * (elements - scale.size.vocabulary * scale.size.width))  # of the table, one row is read


def decoded(scale: Scale, write: Callable[[int], object], label: str, first: float | None = None) -> dict[str, Any]:
    """Time a call that writes some tokens after one prompt."""
    start = time.perf_counter()
    write(scale.answer)
    scale.finish()
    warm = time.perf_counter() - start
    first = scale.seconds(partial(write, 1)) if first is None else first
    whole = scale.seconds(partial(write, scale.answer))
    speed = (scale.answer - 1) / (whole - first)
    row = {"row": label, "tokens/s": speed, "of bound": speed / bound(scale), "prompt s": first}
    return row | {"warm-up s": warm - whole, "report s": whole}


def compiled(scale: Scale, bits: int | None = None) -> Rows:
    """One report at a time by compiled steps."""
    import torch

    from llava_rad.generation.compiled import CompiledDecoder, as_graph

    llama, embeds = random_parts.language_model(scale.size, scale.device, bits=bits), prompts(scale, 1)
    record = as_graph if scale.device == "cuda" else lambda step: step
    decoder = CompiledDecoder(llama, (), 1, scale.prompt + scale.answer, record)

    @torch.inference_mode()
    def write(steps: int) -> object:
        return list(decoder(iter(embeds), steps, -1))

    label = "batch 1, compiled" + (f", {bits} bits" if bits else "")
    yield decoded(scale, write, label) | {"compiled": decoder.compiled and scale.device == "cuda"}


def eager(scale: Scale) -> Rows:
    """One report at a time, kernel by kernel: each token alone, without the loop's look at the tokens."""
    import torch

    llama, embeds = random_parts.language_model(scale.size, scale.device), prompts(scale, 1)

    @torch.inference_mode()
    def write(steps: int) -> object:
        cache, now, start = llama.cache(1, scale.prompt + steps), embeds, 0
        for _ in range(steps):
            tokens = llama(now, cache, start).argmax(-1)
            start += now.shape[1]
            now = torch.nn.functional.embedding(tokens, llama.embedding)[:, None]
        return tokens.tolist()

    yield decoded(scale, write, "batch 1, eager")


def transformers(scale: Scale) -> Rows:
    """The same by ``LlamaForCausalLM.generate``: plain, and with a static cache, which it compiles on CUDA."""
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    config = scale.size.llama_config()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(dict(Drawn(scale.size, scale.device)), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(scale.device)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)
    model.eval()
    embeds = prompts(scale, 1)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=scale.device)

    @torch.inference_mode()
    def write(steps: int, **more: Any) -> object:
        found = model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, **more
        )
        return found.tolist()

    row = decoded(scale, write, "batch 1, transformers")
    yield row
    # a static cache has the length of its answer: another one for the prompt alone would be compiled anew
    static = partial(write, cache_implementation="static")
    yield decoded(scale, static, "batch 1, transformers, static cache", row["prompt s"])


# Whole reports


def reports(scale: Scale) -> Rows:
    """Reports/s of prepared images, twice as many as are written at a time."""
    from llava_rad.generation.decoding import generate
    from llava_rad.generation.options import Decoding

    engine, settings = random_parts.engine(scale.size, scale.device), Decoding(max_new_tokens=scale.answer)
    for at_once in (2, 3) if scale.toy else (16, 64):
        images = pictures(scale.size, 2 * at_once)
        start = time.perf_counter()
        drafts = generate(engine, images[:at_once], settings, at_once=at_once)
        warm = time.perf_counter() - start
        seconds = scale.seconds(partial(generate, engine, images, settings, at_once=at_once))
        tokens = sum(len(draft.ids) for draft in drafts) / len(drafts)
        row = {"row": f"reports, {at_once} at a time", "reports/s": len(images) / seconds, "tokens each": tokens}
        yield row | {"tokens/s": tokens * len(images) / seconds, "warm-up s": warm}


def first_word(scale: Scale) -> Rows:
    """Seconds from a prepared image to the first words of a stream, and to its end."""
    from llava_rad.generation.decoding import stream, warm_up
    from llava_rad.generation.options import Decoding

    engine, settings = random_parts.engine(scale.size, scale.device), Decoding(max_new_tokens=scale.answer)
    (image,) = pictures(scale.size, 1)
    start = time.perf_counter()
    warm_up(engine, settings)
    warm = time.perf_counter() - start
    list(stream(engine, image, settings))
    first = scale.seconds(lambda: next(stream(engine, image, settings)))
    whole = scale.seconds(lambda: list(stream(engine, image, settings)))
    yield {"row": "first word", "first word s": first, "report s": whole, "warm-up s": warm}


# Training


def pretraining(scale: Scale, *, compile: bool) -> Rows:
    """Steps of the paper's pre-training, ViT-B/14."""
    from scripts.bench import steps
    from scripts.bench.pretraining import CASES, QUICK
    from scripts.bench.pretraining_ours import Ours, prepare

    for batch in (2, 3) if scale.toy else (16, 64):
        toy: dict[str, Any] = QUICK | {"width": 48, "layers": 2, "heads": 2} if scale.toy else {}
        case = replace(CASES["vitb-bf16"], **toy | {"batch": batch})
        with tempfile.TemporaryDirectory() as folder:
            order = {"case": asdict(case), "device": scale.device, "threads": 4, "folder": folder}
            order["compile"] = compile and scale.device == "cuda"
            prepare(order)
            side = Ours(order)
        start = time.perf_counter()
        for _ in range(1 if scale.toy else 4):
            side.train()
        scale.finish()
        warm = time.perf_counter() - start
        row: dict[str, Any] = {"row": f"pre-training, batch {batch}, {'compiled' if compile else 'eager'}"}
        seconds = median(time_calls({"": side.train}, 1 if scale.toy else 8, device=scale.device)[""])
        row |= {"images/s": batch / seconds, "s a step": seconds, **steps.shares(side.about(), batch / seconds)}
        yield row | {"peak GB": _peak(scale), "warm-up s": warm}
        del side


def fine_tuning(scale: Scale, *, lora: bool) -> Rows:
    """Steps of the report model on kept features, activations recomputed; AdamW without clipping.

    Full fine-tuning keeps weights, gradients and moments in bfloat16, which one card holds; the products are those of
    a run with DeepSpeed.
    """
    import torch
    from transformers import LlamaForCausalLM

    from llava_rad.model.projector import Projector
    from llava_rad.training.config import LoraConfig
    from llava_rad.training.initial import with_adapters
    from llava_rad.training.module import ReportLoss
    from scripts.bench import steps

    size, device = scale.size, scale.device
    config = size.llama_config()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(dict(Drawn(scale.size, scale.device)), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.activation_checkpointing_enable({"use_reentrant": False})
    if lora:
        model = with_adapters(model, LoraConfig(), 0)
    projector = Projector(size.encoder_width, size.width).to(device)
    unused: Any = None
    tokens: Any = SimpleNamespace(ids=SimpleNamespace(pad=0))
    around: Any = SimpleNamespace(before=range(3, 23), after=range(3, 23))
    trained = ReportLoss(projector, model, tokens, around, unused, unused).train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-5, fused=True)
    patches = size.patches
    length = patches + 40 + scale.answer
    about = {"device": torch.cuda.get_device_name(), "tera_flops": _flops(scale, lora)} if device == "cuda" else {}
    for batch in (1, 2) if scale.toy else (8, 16):
        features = torch.randn(batch, patches, size.encoder_width, device=device, dtype=torch.bfloat16)
        labels = torch.randint(3, size.vocabulary, (batch, scale.answer), device=device)

        def step(features: torch.Tensor = features, labels: torch.Tensor = labels) -> None:
            with torch.autocast(device, torch.bfloat16):
                loss = trained(labels, features=features)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()
        seconds = scale.seconds(step)
        label = f"{'LoRA' if lora else 'full fine-tuning, all in bf16'}, micro-batch {batch}"
        row = {"row": label, "tokens/s": batch * length / seconds, "s a step": seconds}
        shares = steps.shares(about, batch / seconds) if about else {}
        yield row | shares | {"peak GB": _peak(scale)}


def _flops(scale: Scale, lora: bool) -> dict[str, float]:
    """1e12 FLOPs of a sample's step without its encoder: of the model, and with activations recomputed."""
    from llava_rad.training.config import TrainingConfig
    from llava_rad.training.cost import Sizes, cost_of

    size, patches = scale.size, scale.size.patches
    encoder = {"hidden_size": size.encoder_width, "num_hidden_layers": size.encoder_layers, "parameters": 1}
    sizes = Sizes(encoder, configuration(size), patches, patches + 40 + scale.answer, scale.answer)
    found = {}
    for name, recomputed in (("model", False), ("run", True)):
        engine, data = {"activation_checkpointing": recomputed}, {"keep_features": True}
        config = TrainingConfig.model_validate({"lora": {} if lora else None, "engine": engine, "data": data})
        found[name] = cost_of(config, sizes).tera_flops
    return found


def probing(scale: Scale) -> Rows:
    """Image vectors/s of ViT-B/14 in bfloat16."""
    import numpy as np

    from encoder.preprocessing import recipe_named
    from encoder.probing.vectors import encode

    vision, recipe = random_parts.encoder(scale.size, scale.device), recipe_named(scale.size.recipe)
    batch = 2 if scale.toy else 64
    images = np.stack(pictures(scale.size, 2 * batch))
    call = partial(encode, vision, images, recipe, batch, scale.device)
    call()
    yield {"row": f"image vectors, batches of {batch}", "images/s": len(images) / scale.seconds(call)}


def _peak(scale: Scale) -> float:
    from scripts.bench.worker import peak_bytes

    return peak_bytes(scale.device) / 1e9


FUNCTIONS: dict[str, Callable[[Scale], Rows]] = {
    "decode-compiled": compiled,
    "pretraining-compiled": partial(pretraining, compile=True),
    "decode-eager": eager,
    "reports": reports,
    "first-word": first_word,
    "decode-transformers": transformers,
    "pretraining-eager": partial(pretraining, compile=False),
    "lora": partial(fine_tuning, lora=True),
    "full": partial(fine_tuning, lora=False),
    "decode-4bit": partial(compiled, bits=4),
    "probing": probing,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows of one measurement, a JSON object a line; standard output of libraries goes to standard error."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("name", choices=list(FUNCTIONS))
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--toy", action="store_true")
    options = made.parse_args(argv)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    card = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    about = {"device": card, "torch": torch.__version__}
    for row in FUNCTIONS[options.name](Scale(options.device, options.toy)):
        replies.write(json.dumps(row | about) + "\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
