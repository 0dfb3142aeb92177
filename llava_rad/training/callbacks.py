"""The Trainer's callback of a training run: metrics, progress, samples, the end on a signal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import distributed
from transformers import TrainerCallback

from encoder.runs.checkpoints import diverged
from encoder.runs.metrics_log import MetricsLog
from llava_rad.model.sections import divided

if TYPE_CHECKING:
    from llava_rad.training.trainer import ReportTrainer

LOWER = "lower optimization.lr, or use engine.precision=fp32"
"""Advice to a run that has diverged."""
SAMPLES = "samples.jsonl"
_NAMES = {"learning_rate": "lr", "grad_norm": "gradient_norm"}
_KNOWN = ("loss", "gradient_norm", "lr", "epoch")
_LOSSES = "val_loss"  # and those that begin so

_PANELS = (
    ("loss", "training loss"),
    ("val_loss", "val loss"),
    ("val_loss_other_image", "val loss, other images"),
    ("gradient_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("tokens_per_s", "tokens/s"),
    ("sample_rouge_l", "ROUGE-L of samples"),
    ("sample_rules_micro_f1", "label micro-F1 of samples (rules)"),
    ("sample_distinct", "distinct reports of samples"),
)


def panels(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """Return the curves of a run, with the losses of each input of studies: as it is, another patient's, left out."""
    words = {"": "", "other_": ", of others", "without_": ", left out"}
    of_inputs = [
        (f"val_loss_{kind}{name}", f"val loss, {name.replace('_', ' ')}{text}")
        for name in inputs
        for kind, text in words.items()
    ]
    return [*_PANELS, *of_inputs]


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Keeps the metrics, the progress bar and the samples; stops the run after a checkpoint on a signal.

    Args:
        metrics: on the first process, else None.
        samples: file of generated reports, on the first process, else None.
        bar: tqdm's, or an object like it.
        stop: received signals, see ``stop_signals``.
        notes: write notes to stderr.
        with_impression: reports have a section Impression.
    """

    def __init__(
        self,
        metrics: MetricsLog | None,
        samples: Path | None,
        bar: Any,
        stop: list[int],
        *,
        notes: bool,
        with_impression: bool = False,
    ) -> None:
        self.metrics, self.samples, self.bar, self.stop, self.notes = metrics, samples, bar, stop, notes
        self.with_impression = with_impression
        self.trainer: ReportTrainer | None = None
        self.stopped = False
        self._begun = 0.0
        self._seconds = 0.0
        self._tokens = self._steps = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the sampler its epoch; nothing else does when a run is resumed within an epoch."""
        self._trainer.order.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start timing a step; time between steps does not count."""
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Advance the bar; on a signal, ask for a checkpoint and an end, on all processes at the same step.

        Several processes ask one another every ``engine.log_every`` steps.
        """
        self._seconds += time.perf_counter() - self._begun
        self._steps += 1
        self.bar.update(1)
        asking = args.world_size == 1 or state.global_step % args.logging_steps == 0  # asking all waits for the device
        if asking and self._trainer.any_process(bool(self.stop)) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        if self.stopped or state.global_step >= state.max_steps:  # log_every may be longer than the run
            control.should_log = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Skip the evaluation of a run that is being stopped."""
        if self.stopped:
            control.should_evaluate = False
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write the numbers down.

        Raises:
            LlavaRadError: if the loss on ``val`` is not finite; the step's checkpoint would follow.
        """
        numbers = {_NAMES.get(name, name): value for name, value in (logs or {}).items()}
        numbers = {name: value for name, value in numbers.items() if name in _KNOWN or name.startswith(_LOSSES)}
        if not numbers.keys() & {"loss", "val_loss"}:
            return
        if "loss" in numbers:
            numbers |= self._speed()
            self.bar.set_postfix(loss=f"{numbers['loss']:.3f}", lr=f"{numbers['lr']:.1e}")
        else:
            numbers.pop("epoch", None)
        self.write(state.global_step, numbers)
        if "val_loss" in numbers:
            if not math.isfinite(numbers["val_loss"]):
                raise diverged(state.global_step, LOWER)
            gain = numbers["val_loss_other_image"] - numbers["val_loss"]
            self.note(f"step {state.global_step:,}: val loss {numbers['val_loss']:.4f}, {gain:+.4f} with other images")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write reports for some of ``val``, on all processes; scores are of the findings."""
        limit = self._trainer.config.evaluation.samples
        pairs = self._trainer.write_reports(limit) if limit else []
        if not pairs or self.samples is None:
            return
        impressions: list[dict[str, str]] = [{}] * len(pairs)
        if self.with_impression:
            answers = [(divided(report), divided(reference)) for report, reference in pairs]
            pairs = [(report.findings, reference.findings) for report, reference in answers]
            impressions = [
                {"impression": report.impression or "", "reference_impression": reference.impression or ""}
                for report, reference in answers
            ]
        scores = score(pairs)
        self.write(state.global_step, scores)
        self.note(f"step {state.global_step:,}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        lines = (
            {"step": state.global_step, "number": number, "report": report, "reference": reference, **more}
            for number, ((report, reference), more) in enumerate(zip(pairs, impressions, strict=True))
        )
        with self.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Numbers of a step, into the metrics."""
        if self.metrics is not None:
            self.metrics.write(step, numbers)

    def note(self, message: str) -> None:
        """A line on stderr, where notes are wanted."""
        if self.notes:
            self.bar.clear()
            sys.stderr.write(f"llava-rad: {message}\n")
            self.bar.refresh()

    def _speed(self) -> dict[str, float]:
        tokens = self._trainer.tokens_seen.clone()
        if distributed.is_initialized():
            distributed.all_reduce(tokens)
        seconds = max(self._seconds, 1e-9)
        samples = self._steps * self._trainer.config.optimization.batch_size
        found = {"tokens_per_s": (int(tokens) - self._tokens) / seconds, "samples_per_s": samples / seconds}
        self._seconds, self._steps, self._tokens = 0.0, 0, int(tokens)
        return found

    @property
    def _trainer(self) -> ReportTrainer:
        assert self.trainer is not None
        return self.trainer


def score(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """ROUGE-L, label micro-F1 by the labeler ``rules``, and the share of distinct reports: (report, reference)."""
    from metrics.labels import label_f1
    from metrics.rouge import rouge_l
    from metrics.rules import labeler as rules

    reports, references = (list(texts) for texts in zip(*pairs, strict=True))
    found, expected = (rules.label_all(texts) for texts in (reports, references))
    return {
        "sample_rouge_l": float(rouge_l(reports, references)["rouge_l"]),
        "sample_rules_micro_f1": float(label_f1(found, expected)["micro_f1_14"]),
        "sample_distinct": len(set(reports)) / len(reports),
    }
