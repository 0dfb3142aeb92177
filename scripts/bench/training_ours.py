"""Our half of ``scripts.bench.training``: ``llava_rad.training.run.run`` itself, as ``llava-rad train`` calls it.

Only the watcher is replaced, by one that also waits for its turn. ``prepare`` writes the inputs of both halves: a
checkpoint with random weights, a table of synthetic pairs with its pixel cache, and the same samples in the order of
our run.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from encoder.backbones.dinov2 import RadDino
from encoder.datasets.manifest import Row
from encoder.preprocessing import recipe_named
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.projector import Projector
from llava_rad.model.tokenizer import Tokens
from llava_rad.reports.pairs import Pair, write_pairs
from llava_rad.training import run as training
from llava_rad.training.callbacks import Watcher
from llava_rad.training.config import ScratchConfig, TrainingConfig
from llava_rad.training.cost import Sizes, cost_of
from llava_rad.training.data import IGNORED, LengthGrouped, Pixels, Prompted, cache_builder, select_pairs, tokenise
from llava_rad.training.initial import llama_config, make_tokens
from scripts.bench.training import Case
from scripts.bench.worker import Order, Side, Turning, Turns, peak_bytes, work
from scripts.random_models import reports

MODEL, TABLE, SAMPLES, PROMPT = "model", "pairs.jsonl", "samples.npz", "prompt.json"
_WORDS = 80
"""Of a report; about 100 tokens."""


def settings(case: Case, folder: Path) -> TrainingConfig:
    """The case as a configuration of ours. Rates and clipping are the paper's; every step is logged."""
    optimization = {"steps": case.rounds + 1, "batch_size": case.batch, "micro_batch_size": case.batch, "warmup": 0}
    data = {"pairs": [str(folder / TABLE)], "cache": str(folder / "cache"), "workers": 0, "keep_features": False}
    engine = {"precision": case.precision, "activation_checkpointing": case.checkpointing, "log_every": 1}
    return TrainingConfig.model_validate(
        {
            "model": {"checkpoint": str(folder / MODEL)}, "lora": {} if case.lora else None, "data": data,
            "optimization": optimization, "engine": engine | {"deepspeed": case.deepspeed},
            "evaluation": {"max_pairs": 0, "samples": 0},
        }
    )  # fmt: skip


def prepare(order: Order) -> None:
    """Write the checkpoint, the pairs and the samples."""
    case, folder = Case(**order["case"]), Path(order["folder"])
    texts = reports((case.rounds + 1) * case.batch, words=_WORDS if case.width > 64 else 6)
    _write_model(case, folder / MODEL, texts)
    _write_pairs(case, folder, texts)
    config, model = settings(case, folder), LlavaRadConfig.load(folder / MODEL)
    pairs = select_pairs(config.data).pairs
    cache = cache_builder(config.data, [pair.row for pair in pairs], model.preprocessing, folder / "cache").cache()
    tokens = Tokens.load(folder / MODEL / LANGUAGE_MODEL, model.tokens)
    prompt = Prompted.of(model, tokens)
    samples = tokenise(pairs, cache.rows.tolist(), tokens, prompt, config.data)[0]["train"]
    drawn = list(LengthGrouped(samples.lengths, case.batch, config.seed))
    answers = np.full((len(drawn), max(map(len, samples.answers))), IGNORED, np.int64)
    for row, number in zip(answers, drawn, strict=True):
        row[: len(samples.answers[number])] = samples.answers[number]
    pixels = Pixels(cache, model.preprocessing)
    images = np.stack([pixels[samples.images[number]] for number in drawn])
    np.savez(folder / SAMPLES, pixels=images, answers=answers, lengths=samples.lengths[drawn])
    (folder / PROMPT).write_text(json.dumps({"before": prompt.before, "after": prompt.after, "image": prompt.image}))


def _write_model(case: Case, folder: Path, texts: list[str]) -> None:
    from transformers import Dinov2Config, Dinov2Model, LlamaForCausalLM

    torch.manual_seed(0)
    recipe = recipe_named(f"rad-dino-{case.image_size}")
    vision = Dinov2Config(
        hidden_size=case.encoder_width, num_hidden_layers=case.encoder_layers, patch_size=14,
        num_attention_heads=case.encoder_heads, image_size=case.image_size,
    )  # fmt: skip
    config = LlavaRadConfig(name="bench", image_tokens=(case.image_size // 14) ** 2, recipe=recipe.to_dict())
    scratch = ScratchConfig(
        hidden_size=case.width, num_hidden_layers=case.layers, num_attention_heads=case.heads,
        intermediate_size=case.inner, vocabulary=min(case.vocabulary - 1, 4000),
    )  # fmt: skip
    tokens = make_tokens(scratch, texts, config.conversation)
    llama = llama_config(scratch, tokens, 2048)
    llama.vocab_size = case.vocabulary
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if case.width >= 4096 else torch.float32)  # 13 GB on disk in place of 27
    language_model = LlamaForCausalLM(llama)
    torch.set_default_dtype(before)
    encoder, projector = RadDino(Dinov2Model(vision)), Projector(case.encoder_width, case.width)
    with torch.no_grad():
        for norm in [module for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)]:
            norm.weight.uniform_(0.5, 1.5)  # those of trained networks are no ones and zeros
            norm.bias.normal_(std=0.1)
    LlavaRad(encoder, projector, language_model, tokens, config).save_pretrained(folder)


def _write_pairs(case: Case, folder: Path, texts: list[str]) -> None:
    rng, pairs = np.random.default_rng(0), []
    side = max(case.image_size, 64)  # the reader refuses smaller images
    (folder / "images").mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(path, compress_level=1)
        pairs.append(Pair(Row(path, "bench", f"s{number}", f"t{number}", f"i{number}", "PA", "train"), text))
    write_pairs(pairs, folder / TABLE)


class Ours(Side):
    """Our run, step by step."""

    def __init__(self, order: Order) -> None:
        self.base = peak_bytes("cpu")
        self.case, self.folder, self.device = Case(**order["case"]), Path(order["folder"]), order["device"]

    def loop(self, turns: Turns) -> None:
        """Run; the run folder is removed at the end."""

        class Timed(Turning, Watcher):
            """The watcher of the run, in turns."""

        Timed.turns = turns
        if self.case.deepspeed != "none":  # alone, without a launcher
            alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
            os.environ |= alone | {"MASTER_PORT": "29513"}
        config = settings(self.case, self.folder)
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        with folder as output, mock.patch.object(training, "Watcher", Timed):
            training.run(config, Path(output), offline=True, progress=False)

    def about(self) -> dict[str, Any]:
        """Version, hardware, tokens of a sample, and its 1e12 FLOPs: of the model, and with activations recomputed."""
        parts = (self.folder / MODEL / part / "config.json" for part in (ENCODER, LANGUAGE_MODEL))
        encoder, language_model = (json.loads(part.read_text()) for part in parts)
        with np.load(self.folder / SAMPLES) as samples:
            length, answer = float(samples["lengths"].mean()), float((samples["answers"] >= 0).sum(1).mean())
        sizes = Sizes(encoder, language_model, (self.case.image_size // 14) ** 2, length, answer)
        once = cost_of(settings(replace(self.case, checkpointing=False), self.folder), sizes)
        costs = cost_of(settings(self.case, self.folder), sizes)
        return {
            "name": "llava_rad.training.run", "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else platform.machine(),
            "tokens_per_sample": length, "answer_tokens_per_sample": answer, "trained_parameters": costs.trained,
            "tera_flops": {"model": once.tera_flops, "run": costs.tera_flops},
        }  # fmt: skip


if __name__ == "__main__":
    work(Ours, prepare)
