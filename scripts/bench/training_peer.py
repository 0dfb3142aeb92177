"""The peer of ``scripts.bench.training``: ``LlavaForConditionalGeneration`` in a plain ``transformers.Trainer``.

As a careful user sets it up: frozen vision tower, SDPA attention, no key-value cache, samples of similar length in a
batch, labels on the answer alone, pixels normalised as its processor does it, activation checkpointing for the decoder
blocks alone: the Trainer's own switch would make gradients flow through the frozen tower too. Decoding and resizing are
left out. One thing is changed so that both compute the same: the features are taken after the encoder's final
LayerNorm; transformers takes those before it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from scripts.bench.worker import Order, Side, Turning, Turns, peak_bytes, work


class Peer(Side):
    """Model, samples and Trainer.

    Args:
        order: ``before_norm`` for transformers' own features, which the comparison must notice.
    """

    def __init__(self, order: Order) -> None:
        self.base = peak_bytes("cpu")
        self.case, self.folder = order["case"], Path(order["folder"])
        self.before_norm = order.get("before_norm", False)
        self.prompt = json.loads((self.folder / "prompt.json").read_text())
        self.image_token = self.case["vocabulary"] - 1  # no piece of the tokenizer
        recipe = json.loads((self.folder / "model" / "config.json").read_text())["recipe"]
        self.mean, self.std = recipe["mean"], recipe["std"]

    def model(self) -> LlavaForConditionalGeneration:
        """The checkpoint's weights under transformers' names."""
        parts = {name: self.folder / "model" / name for name in ("encoder", "language_model", "projector.safetensors")}
        config = LlavaConfig(
            vision_config=Dinov2Config.from_pretrained(parts["encoder"]),
            text_config=LlamaConfig.from_pretrained(parts["language_model"], use_cache=False),
            image_token_id=self.image_token, projector_hidden_act="gelu", vision_feature_select_strategy="default",
            vision_feature_layer=-1, image_seq_length=self.prompt["image"],
        )  # fmt: skip
        model = LlavaForConditionalGeneration(config)
        inner = model.model
        inner.vision_tower = type(inner.vision_tower).from_pretrained(parts["encoder"])
        inner.multi_modal_projector.load_state_dict(load_file(parts["projector.safetensors"]))
        state = load_file(parts["language_model"] / "model.safetensors")
        model.lm_head.weight.data.copy_(state.pop("lm_head.weight"))
        inner.language_model.load_state_dict({name.removeprefix("model."): one for name, one in state.items()})
        inner.vision_tower.requires_grad_(False)

        def features(pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
            hidden = inner.vision_tower(pixel_values).last_hidden_state[:, 1:]
            return BaseModelOutputWithPooling(pooler_output=list(inner.multi_modal_projector(hidden)))

        if not self.before_norm:
            inner.get_image_features = features
        if self.case["checkpointing"] and not self.case["everywhere"]:
            inner.language_model.activation_checkpointing_enable({"use_reentrant": False})
        return model

    def samples(self) -> list[dict[str, Any]]:
        """All samples in our order; pixels stay bytes until a sample is asked for."""
        with np.load(self.folder / "samples.npz") as stored:
            return [
                {"pixels": pixels, "answer": answer[answer >= 0]}
                for pixels, answer in zip(stored["pixels"], stored["answers"], strict=True)
            ]

    def collate(self, batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs as a processor and a collator give them, padded on the right."""
        prompt = [*self.prompt["before"], *[self.image_token] * self.prompt["image"], *self.prompt["after"]]
        longest = max(len(sample["answer"]) for sample in batch)
        ids = torch.zeros(len(batch), len(prompt) + longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, sample in enumerate(batch):
            answer = torch.from_numpy(sample["answer"])
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.cat([torch.tensor(prompt), answer])
            mask[row, :end] = 1
            labels[row, len(prompt) : end] = answer
        pixels = torch.stack([self._normalised(sample["pixels"]) for sample in batch])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}

    def _normalised(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
        normalised: torch.Tensor = (torch.from_numpy(pixels).float() / 255 - self.mean) / self.std
        return normalised.expand(3, -1, -1)

    def loop(self, turns: Turns) -> None:
        """The Trainer's loop."""

        class Waiting(Turning, TrainerCallback):  # type: ignore[misc]
            """Callback in turns."""

        Waiting.turns = turns
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        case, samples = self.case, self.samples()
        with tempfile.TemporaryDirectory(dir=self.folder) as output:
            arguments = TrainingArguments(
                output_dir=output, per_device_train_batch_size=case["batch"], max_steps=len(samples) // case["batch"],
                learning_rate=2e-5, lr_scheduler_type="cosine", bf16=case["precision"] == "bf16",
                activation_checkpointing=case["everywhere"], train_sampling_strategy="sequential",
                remove_unused_columns=False, save_strategy="no", logging_strategy="steps", logging_steps=1,
                report_to="none", disable_tqdm=True, use_cpu=turns.device == "cpu",
            )  # fmt: skip
            trainer = Trainer(self.model(), arguments, self.collate, samples, callbacks=[Waiting()])
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    def about(self) -> dict[str, Any]:
        """Versions."""
        from importlib.metadata import version

        return {"name": f"transformers {version('transformers')}", "torch": torch.__version__}


if __name__ == "__main__":
    work(Peer)
