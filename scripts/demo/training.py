"""Train the projector and a small Llama from scratch on cached patch features, by teacher forcing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from llava_rad.model.prompt import encode_answer
from llava_rad.model.tokenizer import Tokens
from scripts.demo import grammar
from scripts.demo.evaluate import Scores, score
from scripts.demo.model import Model, TrainingConfig
from scripts.demo.nih import LABELS, NO_FINDING, Case

Indices = np.ndarray[Any, np.dtype[np.int64]]


def label_weights(levels: Mapping[str, float], config: TrainingConfig) -> dict[str, float]:
    """Weight in the loss of the words that affirm each label, and of those that call the radiograph normal.

    Words of weight w are the more likely ones from a probability of 1 / (1 + w) on, so that a weight chooses the
    decision level, and with it precision and recall.

    Args:
        levels: of ``abstention.levels``; a label without one has the largest weight.
        config: has the largest weight.
    """
    weights = dict.fromkeys((*LABELS, NO_FINDING), config.most_weight)
    return weights | {
        label: float(np.clip((1 - level) / max(level, 1e-6), 1.0, config.most_weight))
        for label, level in levels.items()
    }


def answer(
    case: Case, tokens: Tokens, weights: dict[str, float], rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Write a new paragraph for a case: token ids with `</s>`, and the weight of each in the loss."""
    pieces = grammar.write(case.labels, case.sides, rng, unknown=case.unknown)
    text = grammar.text_of(pieces)
    ids = encode_answer(tokens.tokenizer, text, tokens.ids.eos)
    of_character = np.concatenate(
        [np.full(len(p.text), weights[p.finding] if p.finding else 1.0, np.float32) for p in pieces]
    )
    spans = tokens.tokenizer.encode(text, add_special_tokens=False).offsets
    # A token's span may begin with the space before the word; the space belongs to the same piece as the word.
    return ids, [float(of_character[end - 1]) for _, end in spans] + [1.0]


class Trainer:
    """One training run.

    Args:
        model: The model to train.
        config: Settings.
        features: [N, views, patches, width] float16 of the training cases.
        cases: The training cases, in the same order.
        held_out_features: [M, patches, width] float16.
        held_out: The cases whose score selects the weights.
        levels: decision levels, of ``abstention.levels``.
        log: Called with lines of progress.
    """

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        features: torch.Tensor,
        cases: Sequence[Case],
        held_out_features: torch.Tensor,
        held_out: Sequence[Case],
        levels: Mapping[str, float],
        log: Callable[[str], None],
    ) -> None:
        self.model, self.config, self.log = model, config, log
        self.features, self.cases = features, list(cases)
        self.held_out_features, self.held_out = held_out_features, list(held_out)
        self.weights = label_weights(levels, config)
        self.targets = torch.tensor([[float(label in case.labels) for label in LABELS] for case in cases])
        self.known = torch.tensor([[float(label not in case.unknown) for label in LABELS] for case in cases])
        self.positive_weight = torch.tensor([self.weights[label] for label in LABELS])
        self.rng = np.random.default_rng(config.seed)
        self.history: list[dict[str, Any]] = []
        self.average: list[torch.Tensor] = []

    def run(self) -> Scores:
        """Trains, restores the best weights, and returns their scores on the held-out cases."""
        torch.manual_seed(self.config.seed)
        self._learn_text()
        self._learn_labels()
        self.average = [weight.detach().clone() for weight in self.model.parameters()]
        steps = self.config.epochs * math.ceil(len(self.cases) / self.config.batch_size)
        optimizer, schedule = self._optimizer(steps)
        best: tuple[float, Scores, list[dict[str, torch.Tensor]]] | None = None
        stale = 0
        started = time.perf_counter()
        for epoch in range(1, self.config.epochs + 1):
            loss, auxiliary = self._epoch(optimizer, schedule)
            line = f"epoch {epoch}: loss {loss:.4f}, auxiliary {auxiliary:.4f}, {time.perf_counter() - started:.0f} s"
            if epoch % self.config.evaluate_every == 0:
                last = self.model.exchange(self.average)
                scores = score(self.model.generate(self.held_out_features), [case.labels for case in self.held_out])
                self.history.append({"epoch": epoch, "loss": round(loss, 4), "macro_f1": round(scores.macro_f1, 4)})
                line += f"; held out: macro-F1 {scores.macro_f1:.4f}, micro-F1 {scores.micro_f1:.4f}"
                line += f", no finding {scores.no_finding_f1:.3f}, distinct {scores.distinct_reports:.2f}"
                if best is None or scores.macro_f1 > best[0]:
                    best, stale = (scores.macro_f1, scores, self.model.state()), 0
                else:
                    stale += 1
                self.model.exchange(last)
            self.log(line)
            if stale >= self.config.patience:
                break
        assert best is not None, "evaluate_every is larger than epochs"
        self.model.restore(best[2])
        return best[1]

    def _learn_text(self) -> None:
        """Train the language model on text without images; cheap, and it saves epochs."""
        optimizer, schedule = self._optimizer(max(1, self.config.text_steps))
        for step in range(1, self.config.text_steps + 1):
            picked = self.rng.integers(len(self.cases), size=2 * self.config.batch_size)
            nothing = torch.zeros(len(picked), 0, self.config.width)
            loss, _ = self._loss(nothing, torch.arange(0), picked)
            self._step(loss, optimizer, schedule)
            if step == self.config.text_steps:
                self.log(f"language model alone: loss {loss.item():.4f}")

    def _learn_labels(self) -> None:
        """Train the projector alone, as a classifier of the labels from the mean of its tokens."""
        batch_size = 4 * self.config.batch_size
        steps = self.config.label_epochs * math.ceil(len(self.cases) / batch_size)
        optimizer, schedule = self._optimizer(max(1, steps))
        self.model.train(True)
        for epoch in range(1, self.config.label_epochs + 1):
            sums = []
            for features, _, picked in self._batches(batch_size):
                loss = self._label_loss(self.model.of_tokens(self._project(features).mean(1)), picked)
                self._step(loss, optimizer, schedule)
                sums.append(loss.item())
            if epoch == self.config.label_epochs:
                self.log(f"projector alone: multi-label loss {np.mean(sums):.4f}")

    def _epoch(
        self, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> tuple[float, float]:
        self.model.train(True)
        losses = []
        for features, places, picked in self._batches(self.config.batch_size):
            images = self._project(features)
            auxiliary = self._label_loss(self.model.of_tokens(images.mean(1)), picked)
            loss, of_prompt = self._loss(images, places, picked)
            self._step(loss + self.config.auxiliary * (auxiliary + of_prompt), optimizer, schedule)
            self._average()
            losses.append((loss.item(), auxiliary.item() + of_prompt.item()))
        means = np.mean(losses, axis=0)
        return float(means[0]), float(means[1])

    def _average(self) -> None:
        """Update the running average of the weights, which varies less than the weights of one step."""
        with torch.no_grad():
            for average, weight in zip(self.average, self.model.parameters(), strict=True):
                average.lerp_(weight, 1 - self.config.average)

    def _batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, Indices]]:
        """One pass: features of random views and patches, positions of these patches, indices of the cases."""
        order = self.rng.permutation(len(self.cases))
        patches = self.features.shape[2]
        for start in range(0, len(order), size):
            picked = order[start : start + size]
            views = self.rng.integers(self.features.shape[1], size=len(picked))
            share = 1.0 if self.rng.random() < self.config.whole_share else self.config.patch_share
            kept = np.sort(self.rng.permutation(patches)[: max(1, round(patches * share))])
            places = torch.from_numpy(kept)
            features = self.features[torch.from_numpy(picked)[:, None], torch.from_numpy(views)[:, None], places[None]]
            yield features, places, picked

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.model.projector(features.float())
        return functional.dropout(projected, self.config.dropout, self.model.projector.training)

    def _label_loss(self, logits: torch.Tensor, picked: Indices) -> torch.Tensor:
        targets, known = (one[torch.from_numpy(picked)] for one in (self.targets, self.known))
        losses = functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=self.positive_weight, reduction="none"
        )
        return (losses * known).sum() / known.sum().clamp_min(1)

    def _loss(self, images: torch.Tensor, places: torch.Tensor, picked: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted cross entropy of the paragraphs, and the multi-label loss at the end of the prompt.

        Args:
            images: [B, tokens, width], projected patches or a replacement.
            places: [tokens], their index among all patches; tokens keep the positions they have in generation.
            picked: [B], indices of the cases.
        """
        model, tokens = self.model, self.model.tokens
        before, after = model.prompt.encode(tokens.tokenizer, tokens.ids.bos)
        answers = [answer(self.cases[i], tokens, self.weights, self.rng) for i in picked]
        longest = max(len(ids) for ids, _ in answers)
        ids = torch.tensor([row + [tokens.ids.pad] * (longest - len(row)) for row, _ in answers])
        weights = torch.tensor([row + [0.0] * (longest - len(row)) for _, row in answers])

        table = model.language_model.get_input_embeddings()
        batch = len(ids)
        embeds = torch.cat(
            [
                table(torch.tensor(before)).expand(batch, -1, -1),
                images,
                table(torch.tensor(after)).expand(batch, -1, -1),
                table(ids[:, :-1]),
            ],
            dim=1,
        )
        first_after = len(before) + self.features.shape[2]
        tail = torch.arange(first_after, first_after + len(after) + longest - 1)
        positions = torch.cat([torch.arange(len(before)), len(before) + places, tail])
        # Right padding lies behind every supervised token, so nothing is masked. The mask of ones is needed all the
        # same: without one, transformers takes gaps in the positions for borders between packed samples.
        hidden = model.language_model.model(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            position_ids=positions[None].expand(batch, -1),
            use_cache=False,
        ).last_hidden_state
        prompt_length = len(before) + len(places) + len(after)
        spoken = hidden[:, prompt_length - 1 :]
        logits = model.language_model.lm_head(spoken)
        entropy = functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(weights)
        loss = (entropy * weights).sum() / weights.sum()
        return loss, self._label_loss(model.of_prompt(spoken[:, 0]), picked)

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        named = self.model.parameters()
        groups = [
            {"params": [p for p in named if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.98), fused=True)
        warm_up = max(1, steps // 20)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            done = (step - warm_up) / max(1, steps - warm_up)
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _step(
        self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
