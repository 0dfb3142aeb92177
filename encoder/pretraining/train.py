"""The training run: from a configuration to an exported encoder, on one process or many, stopped and resumed at will.

::

    RUN/
      config.yaml        the resolved configuration
      data.sha256        hash of the images' names, by which an edited manifest is noticed
      data.txt           images of each data set: kept, and left out for each reason
      initialisation.txt source of the first weights
      cache/             decoded images, unless data.cache names another folder
      checkpoints/       see ``encoder.runs.checkpoints``
      metrics.jsonl      one line for each logged step; tensorboard/ next to it where TensorBoard is installed
      curves.png         the same as curves, where Matplotlib is installed
      export/            the teacher, in the form of microsoft/rad-dino

Nothing random is kept between steps: crops, masks and dropped paths follow
from the seed and the step, so that a run which goes on from a checkpoint is the run that was never stopped, bit for bit
on one process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from encoder import files
from encoder.datasets.manifest import counts
from encoder.errors import LlavaRadError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.data import (
    Batch,
    Images,
    TrainingRows,
    batches,
    cache_builder,
    cache_folder,
    probe_rows,
    training_rows,
)
from encoder.pretraining.initialisation import CHECKPOINTS, EXPORT, load_backbone, load_heads
from encoder.pretraining.monitor import CollapseMonitor, FiniteSteps, cls_std, effective_rank, teacher_entropy
from encoder.pretraining.optimization import Schedules, Values, clip_gradients, make_optimizer, set_rates, total_steps
from encoder.pretraining.probes import Probe, Selection, score_teacher
from encoder.pretraining.randomness import Purpose, generator
from encoder.pretraining.student_teacher import Losses, StudentTeacher, compiler_errors, gather, restore
from encoder.pretraining.validation import check_sizes
from encoder.runs import distributed as processes
from encoder.runs.checkpoints import Checkpoints, first_not_finite
from encoder.runs.curves import plot_run
from encoder.runs.distributed import whole
from encoder.runs.folder import MayChange, data_digest, locked_run, prepare
from encoder.runs.images import open_images, stage_images
from encoder.runs.metrics_log import MetricsLog
from encoder.runs.processor import slow_precision
from encoder.runs.progress import progress_bar, stop_signals

if TYPE_CHECKING:
    from accelerate import Accelerator


_MAY_CHANGE: MayChange = {"engine": None, "data": {"workers", "cache"}, "optimization": {"accumulation"}}
"""Settings that do not change what is learned beyond rounding."""


def run(
    config: PretrainingConfig,
    output: Path,
    *,
    offline: bool = False,
    progress: bool = True,
    restart: bool = False,
    stage: Path | None = None,
) -> Path:
    """Train, or go on training, and export the teacher.

    Args:
        config: what to do.
        output: the run folder.
        offline: look for weights in the hub's cache only.
        progress: a progress bar on stderr, where that is a terminal, and notes.
        restart: begin anew where the folder holds a run.
        stage: folder on a disk of each machine, to which the pixel cache is copied; None reads it where it is.

    Returns:
        The exported encoder's folder.

    Raises:
        ConfigError: if the configuration cannot be run, or the folder holds a run of another one.
        ModelError: if the first weights or the newest checkpoint are missing or damaged.
        LlavaRadError: if too many images are unreadable, or the loss is no longer finite.
        KeyboardInterrupt: if stopped by SIGINT or SIGTERM, after a checkpoint of the last whole step.
    """
    accelerator = processes.start(bf16=config.engine.precision == "bf16")
    try:
        with locked_run(output) if accelerator.is_main_process else nullcontext():
            return _PretrainingRun(
                config, output, accelerator, offline=offline, progress=progress, restart=restart, stage=stage
            ).train()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class _PretrainingRun:
    def __init__(
        self,
        config: PretrainingConfig,
        output: Path,
        accelerator: Accelerator,
        *,
        offline: bool,
        progress: bool,
        restart: bool,
        stage: Path | None,
    ) -> None:
        self.config, self.output, self.accelerator, self.offline = config, output, accelerator, offline
        self.main, self.progress = accelerator.is_main_process, progress and accelerator.is_main_process
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        check_sizes(config, self.world)
        selection, self.probed = training_rows(config), probe_rows(config)
        self.datasets = {
            name: (both["all"].subjects, both["all"].images) for name, both in counts(selection.rows).items()
        }
        self.checkpoints = Checkpoints(output / CHECKPOINTS, config.engine.keep_checkpoints)
        if self.main:
            prepare(
                output,
                config,
                load=load_config,
                begun=lambda: self.checkpoints.latest() is not None,
                may_change=_MAY_CHANGE,
                results=(CHECKPOINTS, EXPORT),
                restart=restart,
                data=data_digest(
                    [*selection.rows, *self.probed], (repr(sorted(row.labels.items())) for row in self.probed)
                ),
                data_key="data.manifests or probe.manifest",
            )
            self._report(selection)
        with accelerator.main_process_first():
            cache = open_images(
                partial(cache_builder, config, output, selection.rows),
                cache_folder(config, output),
                replace=self.main and not config.data.cache and self.checkpoints.latest() is None,
                progress=self.progress,
            )
        if stage is not None:
            with accelerator.local_main_process_first():
                cache = stage_images(cache, stage, progress=self.progress)
        self.images: Images = cache
        self.steps = total_steps(config.optimization, len(self.images))
        self.schedules = Schedules.from_config(config, self.steps)
        self.selection = Selection(config.probe)
        self._build()

    def _report(self, selection: TrainingRows) -> None:
        lines = [*selection.lines(), *(f"warning: {warning}" for warning in selection.warnings())]
        files.write(self.output / "data.txt", "".join(f"{line}\n" for line in lines))
        for line in lines:
            self._note(line)
        if slow := slow_precision(self.config.engine.precision):
            self._note(f"warning: {slow}")

    def _note(self, message: str) -> None:
        if self.progress:
            sys.stderr.write(f"llava-rad: {message}\n")

    def _build(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        self.model = StudentTeacher(config)
        backbone, report = load_backbone(config, offline=self.offline)
        if backbone is not None:
            self.model.student.backbone.load_state_dict(backbone)
        if (head := load_heads(config, offline=self.offline)) is not None:
            self.model.student.dino_head.load_state_dict(head)
        self.model.start_teacher()
        if self.main:
            files.write(self.output / "initialisation.txt", "".join(f"{line}\n" for line in report.lines()))
        for line in report.lines():
            self._note(line)
        self.model.student.backbone.activation_checkpointing = config.engine.activation_checkpointing
        cuda = self.accelerator.device.type == "cuda"
        self.explained: Callable[[], AbstractContextManager[None]] = nullcontext
        if cuda if config.engine.compile is None else config.engine.compile:
            self.model.compile_parts()
            self.explained = compiler_errors
        self.finite = FiniteSteps(delayed=cuda)
        self.model.train()
        blocks = [list(network.backbone.blocks) for network in (self.model.student, self.model.teacher)]
        shards = blocks if config.engine.sharding == "fsdp" else None
        self.model.student.backbone.sharded = shards is not None
        self.wrapped = processes.spread(self.model, self.accelerator, shards)
        self.optimizer = make_optimizer(self.model.student, config.optimization)
        self.start = 0
        groups: dict[str, dict[str, torch.Tensor]] = {}
        state = processes.on_first(lambda: self._newest(groups))
        if state is not None:
            restore(self.model, self.optimizer, processes.share(groups, self.accelerator.device))
            self.start = int(state["step"])
            self.selection.best = tuple(state["best"]) if state["best"] else None
            self._note(f"going on from step {self.start:,}")

    def _newest(self, groups: dict[str, dict[str, torch.Tensor]]) -> dict[str, Any] | None:
        """Load the newest checkpoint with finite weights into ``groups`` and return its state, or None."""
        state = None
        while (newest := self.checkpoints.latest()) is not None:
            tensors, state = self.checkpoints.load(newest)
            groups.update(tensors)
            if (odd := first_not_finite(groups["student"].items())) is None:
                break
            self.checkpoints.ignored[newest.name] = f"its weights are not finite (first {odd})"
        for name, reason in self.checkpoints.ignored.items():
            self._note(f"warning: {name} is passed over: {reason}")
        return state if newest is not None else None

    def train(self) -> Path:
        """The loop."""
        config = self.config
        self.metrics = MetricsLog(self.output, step=self.start) if self.main else None
        self.monitor = CollapseMonitor(config.head.prototypes, dino_weight=config.loss.dino)
        self.probe = self._probe()
        stream = batches(self.images, config, step=self.start, rank=self.rank, world=self.world)
        device = self.accelerator.device
        if self.start == 0:
            self._look(0)
        ended = self.selection.stalled(self.start)
        started, seen, waited = time.perf_counter(), 0, 0.0
        with stop_signals() as stop, progress_bar(self.steps, config.name, self.progress, self.start) as bar:
            for step in range(self.start, self.start if ended else self.steps):
                values = self.schedules.at(step)
                set_rates(self.optimizer, values)
                parts = torch.zeros(4, device=device)
                for turn in range(config.optimization.accumulation):
                    batch = next(stream)
                    waited += batch.wait_s
                    losses = self._backward(batch.to(device, non_blocking=True), step, turn, values)
                    parts += torch.stack([losses.total.detach(), losses.dino, losses.ibot, losses.koleo])
                norms = clip_gradients(self.model.student, config.optimization.clip)
                self._check_finite(step + 1, parts, norms)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.model.update_teacher(values.momentum)
                done = step + 1
                seen += config.optimization.batch_size
                bar.update(1)
                logging = done % config.engine.log_every == 0 or done == self.steps
                stopping = (logging or self.world == 1) and self._any(bool(stop))  # asking all waits for the device
                probed = done % config.probe.every == 0 or done == self.steps
                if logging or stopping or probed or done % config.engine.checkpoint_every == 0:
                    self.finite.settle()
                if logging or stopping:
                    seconds = time.perf_counter() - started
                    numbers = self._numbers(parts / config.optimization.accumulation, norms, losses, values)
                    numbers |= {"images_per_s": seen / seconds, "data_wait": waited / seconds}
                    self._record(done, numbers, bar)
                    started, seen, waited = time.perf_counter(), 0, 0.0
                begin = time.perf_counter()
                better = probed and self._look(done)
                ended = probed and self.selection.stalled(done)
                if done % config.engine.checkpoint_every == 0 or done == self.steps or better or stopping or ended:
                    self._save(done)
                started += time.perf_counter() - begin  # images/s are those of the steps
                if ended:
                    self._note(f"step {done:,}: {config.probe.patience} probes without a better one, the run ends")
                    break
                if stopping and done < self.steps:
                    raise KeyboardInterrupt
        stream.close()  # type: ignore[attr-defined]
        if self.metrics is not None:
            self.metrics.close()
        folder = self._export()
        if self.main and (reason := plot_run(self.output)):
            self._note(reason)
        return folder

    def _check_finite(self, step: int, parts: torch.Tensor, norms: dict[str, torch.Tensor]) -> None:
        """Stop at the first step whose loss or gradient is not finite, on all processes; a step later on CUDA.

        Raises:
            LlavaRadError: if it is not.
        """
        values = [parts, *(whole(norm).reshape(1) for norm in norms.values())]
        odd = (~torch.isfinite(torch.cat(values))).any().float()
        self.finite.ask(step, self.accelerator.reduce(odd, "sum") if self.world > 1 else odd)

    def _backward(self, batch: Batch, step: int, turn: int, values: Values) -> Losses:
        accumulation = self.config.optimization.accumulation
        place = (step * accumulation + turn) * self.world + self.rank
        torch.manual_seed(int(generator(self.config.seed, Purpose.PATHS, place).integers(2**63)))
        last = turn + 1 == accumulation
        with processes.synchronised(self.wrapped, self.accelerator, last):
            with self.explained(), self.accelerator.autocast():
                losses: Losses = self.wrapped(batch, values.teacher_temperature)
            with self.explained():
                self.accelerator.backward(losses.total / accumulation)
        return losses

    def _numbers(
        self, parts: torch.Tensor, norms: dict[str, torch.Tensor], losses: Losses, values: Values
    ) -> dict[str, float]:
        parts = self.accelerator.reduce(parts, "mean")
        with torch.no_grad():
            scores = losses.teacher_vectors @ processes.whole(self.model.teacher.dino_head.last_layer()).t()
            scores = scores / values.teacher_temperature + self.model.dino_centre.offset(values.teacher_temperature)
        return {
            **dict(zip(("loss", "dino", "ibot", "koleo"), parts.tolist(), strict=True)),
            **{f"gradient_norm_{name}": float(processes.whole(norm)) for name, norm in norms.items()},
            "lr": values.lr,
            "weight_decay": values.weight_decay,
            "momentum": values.momentum,
            "teacher_temperature": values.teacher_temperature,
            "teacher_entropy": float(teacher_entropy(torch.softmax(scores, dim=1))),
            "cls_effective_rank": float(effective_rank(losses.teacher_cls)),
            "cls_std": float(cls_std(losses.teacher_cls)),
        }

    def _record(self, step: int, numbers: dict[str, float], bar: Any) -> None:
        warnings = self.monitor.update(step, numbers)
        for warning in warnings:
            self._note(f"warning: {warning}")
        if self.metrics is not None:
            self.metrics.write(step, numbers, warnings)
        bar.set_postfix(loss=f"{numbers['loss']:.3f}", lr=f"{numbers['lr']:.1e}", wait=f"{numbers['data_wait']:.0%}")

    def _probe(self) -> Probe | None:
        if not self.probed:
            return None
        probe = Probe(self.probed, size=self.config.probe.size or self.config.crops.global_size)
        if absent := probe.unreadable.lines():
            self._note(f"warning: probe.manifest: {len(absent)} images cannot be read and are left out; {absent[0]}")
        return probe

    def _look(self, step: int) -> bool:
        """Probe the teacher; return True if it is the best so far."""
        if self.probe is None:
            return False
        begin = time.perf_counter()
        scores = score_teacher(self.probe, self.config, self.model.teacher.backbone, self.accelerator.device)
        if self.metrics is not None:
            named = {f"probe_{name}": value for name, value in scores.items()}
            self.metrics.write(step, named | {"probe_seconds": time.perf_counter() - begin})
        self._note(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return self.selection.better(step, scores)

    def _save(self, step: int) -> None:
        groups = gather(self.model, self.optimizer)

        def write() -> None:
            if (odd := first_not_finite(groups["student"].items())) is not None:
                raise LlavaRadError(f"the weights are no longer finite (first {odd}); no checkpoint was written")
            best = self.selection.best
            state = {"step": step, "best": best, "steps": self.steps, "processes": self.world}
            self.checkpoints.save(step, groups, state, protect=[best[0]] if best else [])

        processes.on_first(write)

    def _export(self) -> Path:
        folder = self.output / EXPORT
        if self.main:
            from encoder.pretraining.export import describe, export

            best = self.selection.best
            step = best[0] if best and self.config.probe.select != "last" else self.steps
            groups, _ = self.checkpoints.load(self.checkpoints.folder / f"step-{step:08d}")
            teacher = groups["teacher"]
            measure = "log loss" if self.config.probe.select == "loss" else "AUPRC"
            scores = {f"linear probe macro {measure} (val)": best[1]} if best else None
            export(
                _part(teacher, "backbone."),
                self.config.model,
                folder,
                heads=_part(teacher, "dino_head."),
                image_size=self.config.crops.global_size,
                card=describe(self.config, self.datasets, step=step, scores=scores),
            )
            self._note(f"the teacher of step {step:,} is exported")
        self.accelerator.wait_for_everyone()
        return folder

    def _any(self, flag: bool) -> bool:
        """Return True on all processes if the flag is True on one of them."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, "sum") > 0)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
