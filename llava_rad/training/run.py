"""One training run, from a configuration to a checkpoint directory: on one process or many, stopped and resumed.

::

    RUN/
      config.yaml      the resolved configuration
      data.sha256      hash of the pairs, by which an edited table is noticed
      initial/         the checkpoint that training started from (not where model.checkpoint lies ready)
      cache/           prepared images, unless data.cache names another folder
      checkpoints/     see ``encoder.runs.trainer_checkpoints``
      metrics.jsonl    one line for each logged step; tensorboard/ next to it where TensorBoard is installed
      samples.jsonl    reports written for pairs of ``val`` during training
      curves.png       the same as curves, where Matplotlib is installed
      model/           the result: a checkpoint directory for ``llava-rad generate --model``
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from encoder.backbones.loading import stored_sizes
from encoder.backbones.weight_files import read_json
from encoder.files import sha256_of
from encoder.runs.curves import plot_run
from encoder.runs.distributed import choose_deepspeed_device, keep_freed_memory, on_first
from encoder.runs.folder import MayChange, data_digest, locked_run, prepare
from encoder.runs.images import open_images, stage_images
from encoder.runs.metrics_log import MetricsLog
from encoder.runs.preflight import available_memory
from encoder.runs.processor import slow_precision
from encoder.runs.progress import progress_bar, stop_signals
from encoder.runs.trainer_checkpoints import TrainerCheckpoints
from encoder.runs.workers import check_shared_memory
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL
from llava_rad.model.config import LlavaRadConfig
from llava_rad.training import deepspeed_config
from llava_rad.training.callbacks import SAMPLES, Watcher, panels
from llava_rad.training.config import TrainingConfig, accumulation, load_config, total_steps, warmup_steps
from llava_rad.training.cost import decide_recomputation, sizes_of
from llava_rad.training.data import (
    Pixels,
    Prompted,
    Samples,
    cache_builder,
    cache_folder,
    select_pairs,
    tokenise,
)
from llava_rad.training.export import export
from llava_rad.training.initial import load_encoder, load_trainable, make_initial, with_adapters
from llava_rad.training.kept_features import keep_features
from llava_rad.training.kernels import compile_layers, use_liger
from llava_rad.training.module import ReportLoss
from llava_rad.training.studies import Layout, StudySamples, check_positions, study_samples
from llava_rad.training.study_images import CONTEXT_IMAGES
from llava_rad.training.trainer import ReportTrainer

MODEL, INITIAL, CHECKPOINTS = "model", "initial", "checkpoints"
_MAY_CHANGE: MayChange = {
    "engine": {
        "tf32",
        "activation_checkpointing",
        "liger",
        "compile",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    },
    "data": {"workers", "cache", "keep_features"},
    "evaluation": None,
}
"""Settings that do not change what is learned beyond rounding."""


def run(
    config: TrainingConfig,
    output: Path,
    *,
    offline: bool = False,
    progress: bool = True,
    restart: bool = False,
    stage: Path | None = None,
) -> Path:
    """Train, or go on training, and write the checkpoint directory.

    Args:
        config: what to do.
        output: the run folder.
        offline: look for weights in the hub's cache only.
        progress: a progress bar on stderr, where that is a terminal, and notes.
        restart: begin anew where the folder holds a run.
        stage: folder on a disk of each machine, to which the pixel cache is copied; None reads it where it is.

    Returns:
        The result's folder.

    Raises:
        ConfigError: if the configuration cannot be run, or the folder holds a run of another one.
        ModelError: if weights are missing or damaged.
        LlavaRadError: if too many images are unreadable, the disk refuses, or the loss is no longer finite.
        KeyboardInterrupt: if stopped by SIGINT or SIGTERM, after a checkpoint of the last whole step.
    """
    keep_freed_memory()
    choose_deepspeed_device()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with locked_run(output) if environ.get("RANK", "0") == "0" else nullcontext():
            return _ReportTrainingRun(
                config, output, offline=offline, progress=progress, restart=restart, stage=stage
            ).train()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


class _ReportTrainingRun:
    def __init__(
        self,
        config: TrainingConfig,
        output: Path,
        *,
        offline: bool,
        progress: bool,
        restart: bool,
        stage: Path | None,
    ) -> None:
        self.config, self.output, self.offline, self.stage = config, output, offline, stage
        if config.data.workers:
            check_shared_memory()
        settings = deepspeed_config.prepare(config)
        self.world = int(environ.get("WORLD_SIZE", "1"))
        self.accumulation = accumulation(config, self.world)
        facts = {"processes": self.world, "engine.deepspeed": config.engine.deepspeed}
        self.checkpoints = TrainerCheckpoints(output / CHECKPOINTS, config.engine.keep_checkpoints, facts)
        self.selected = select_pairs(config.data, config.study.inputs)
        self.arguments = self._arguments(settings)
        alone = one_device(self.arguments)
        self.main = self.arguments.process_index == 0
        self.progress = progress and self.main
        if alone is not None:
            self._note(alone)
        if slow := slow_precision(config.engine.precision):
            self._note(f"warning: {slow}")
        if settings is not None:
            deepspeed_config.join_processes()
        if self.main:
            anew = prepare(
                output,
                config,
                load=load_config,
                begun=lambda: bool(self.checkpoints.all()),
                may_change=_MAY_CHANGE,
                results=(CHECKPOINTS, INITIAL, MODEL, SAMPLES),
                restart=restart,
                data=data_digest(self.selected.images.rows, self._texts()),
                data_key="data.pairs",
            )
            if anew:  # made from other parts or other reports
                shutil.rmtree(output / INITIAL, ignore_errors=True)
        with deepspeed_config.whole_weights(self.arguments):
            self._load_whole()
        self._load_trainable()

    def _texts(self, *splits: str) -> list[str]:
        """Texts that the samples of splits are made of; of all without a split."""
        pairs = [pair for pair in self.selected.pairs if not splits or pair.row.split in splits]
        inputs = [name for name in self.config.study.inputs if name not in CONTEXT_IMAGES]
        given = [getattr(pair.context, name) for pair in pairs for name in inputs]
        if "impression" in self.config.data.sections:
            given += [pair.context.impression for pair in pairs]
        return [*(pair.findings for pair in pairs), *given]

    def _note(self, message: str) -> None:
        if self.progress:
            sys.stderr.write(f"llava-rad: {message}\n")

    def _arguments(self, settings: dict[str, Any] | None) -> TrainingArguments:
        config, run = self.config, self.config.optimization
        cuda = torch.cuda.is_available()
        every = config.engine.checkpoint_every
        when: dict[str, Any] = {"save_strategy": "epoch", "eval_strategy": "epoch"}
        if every is not None:
            when = {"save_strategy": "steps", "save_steps": every, "eval_strategy": "steps", "eval_steps": every}
        return TrainingArguments(
            output_dir=str(self.checkpoints.partial),
            per_device_train_batch_size=run.micro_batch_size,
            per_device_eval_batch_size=max(2, run.micro_batch_size),
            gradient_accumulation_steps=self.accumulation,
            num_train_epochs=run.epochs,
            max_steps=run.steps or -1,
            learning_rate=run.lr,
            lr_scheduler_type="cosine",
            weight_decay=run.weight_decay,
            adam_beta1=run.betas[0],
            adam_beta2=run.betas[1],
            adam_epsilon=run.epsilon,
            max_grad_norm=run.clip,
            logging_strategy="steps",
            logging_steps=config.engine.log_every,
            logging_nan_inf_filter=False,
            bf16=config.engine.precision == "bf16",
            tf32=True if cuda and config.engine.tf32 and torch.cuda.get_device_capability()[0] >= 8 else None,
            use_cpu=not cuda,
            ddp_backend="gloo" if self.world > 1 and not cuda else None,
            ddp_timeout=12 * 3600,  # the first process may be reading a million images into the cache
            ddp_find_unused_parameters=False,
            deepspeed=settings,
            dataloader_num_workers=config.data.workers,
            dataloader_persistent_workers=config.data.workers > 0,
            dataloader_pin_memory=cuda,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            seed=config.seed,
            **when,
        )

    def _load_whole(self) -> None:
        """Load the parts that every process has whole: the first checkpoint on disk, the encoder, the images."""
        config = self.config
        texts = self._texts("train")
        with self.arguments.main_process_first(local=False, desc="first checkpoint"):
            self.initial = make_initial(config, self.output / INITIAL, texts, offline=self.offline)
        half = config.engine.precision == "bf16"
        self.encoder = load_encoder(self.initial, torch.bfloat16 if half else torch.float32)
        self.encoder.to(self.arguments.device)
        self.images: Any = self._images()

    def _images(self) -> Any:
        config, recipe = self.config, LlavaRadConfig.load(self.initial).preprocessing
        with self.arguments.main_process_first(local=False, desc="images"):
            cache = open_images(
                partial(
                    cache_builder, config.data, self.selected.images.rows, recipe, cache_folder(config, self.output)
                ),
                cache_folder(config, self.output),
                replace=self.main and not config.data.cache and not self.checkpoints.all(),
                progress=self.progress,
            )
        if self.stage is not None:
            with self.arguments.main_process_first(local=True, desc="copy of the images"):
                cache = stage_images(cache, self.stage, progress=self.progress)
        self.rows = cache.rows
        pixels = Pixels(cache, recipe)
        if not config.data.keep_features:
            return pixels
        with (
            self.arguments.main_process_first(local=False, desc="features"),
            progress_bar(len(cache), "encoding images", self.progress) as bar,
        ):
            return keep_features(
                pixels,
                self.encoder,
                sha256_of(self.initial / ENCODER / "model.safetensors"),
                recipe,
                device=self.arguments.device,
                advance=bar.update,
            )

    def _load_trainable(self) -> None:
        config = self.config
        spread = self.arguments.deepspeed is not None
        half = config.engine.precision == "bf16" and (spread or config.lora is not None)
        settings, projector, language_model, tokens = load_trainable(
            self.initial, torch.bfloat16 if half else torch.float32, config.study, config.data.sections
        )
        self.settings = settings
        if half and not spread:
            projector.float()  # trained in float32; with DeepSpeed its optimiser keeps a copy that is
        prompt = Prompted.of(settings, tokens)
        pairs, dropped = self.selected.pairs, self.selected.dropped
        self.samples: Mapping[str, Samples | StudySamples]
        if config.study.inputs:
            check_positions(config, read_json(self.initial / LANGUAGE_MODEL / "config.json", "the language model"))
            layout, images = Layout.of(settings, tokens), self.selected.images
            self.samples, unfit = study_samples(
                pairs, images, self.rows.tolist(), layout, config.study, config.data, config.seed
            )
        else:
            self.samples, unfit = tokenise(pairs, self.rows.tolist(), tokens, prompt, config.data)
        dropped |= unfit
        for split in self.samples.values():
            split.source = self.images
        counted = ", ".join(f"{split} {len(samples):,}" for split, samples in self.samples.items())
        left_out = "; left out: " + ", ".join(f"{reason} {n:,}" for reason, n in dropped.items()) if dropped else ""
        self._note(f"samples: {counted}{left_out}")
        if config.engine.compile:
            compile_layers(language_model)
        if config.engine.liger:
            use_liger(language_model)
        if self._recomputes(settings):
            language_model.activation_checkpointing_enable({"use_reentrant": False})
        if config.lora is not None:
            language_model = with_adapters(language_model, config.lora, config.seed, float32=not spread)
        pool = settings.further_images.pool if settings.further_images else 1
        recipe = settings.preprocessing
        self.model = ReportLoss(projector, language_model, tokens, prompt, self.encoder, recipe, pool)

    def _recomputes(self, settings: LlavaRadConfig) -> bool:
        """Tell whether decoder blocks are computed again in the backward pass."""
        if self.config.engine.activation_checkpointing != "auto":
            return self.config.engine.activation_checkpointing
        train, device = self.samples["train"], self.arguments.device
        words = read_json(self.initial / LANGUAGE_MODEL / "config.json", "the language model")
        encoder = stored_sizes(self.initial / ENCODER).config
        _, sizes = sizes_of(encoder, words, settings.image_tokens, train)
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        decided = decide_recomputation(self.config, sizes, self.world, memory or available_memory(device))
        found = bool(decided.engine.activation_checkpointing)
        self._note(
            f"activations of decoder blocks are {'recomputed' if found else 'kept'} (activation_checkpointing=auto)"
        )
        return found

    def train(self) -> Path:
        """The loop."""
        newest = on_first(self.checkpoints.latest)
        for name, reason in self.checkpoints.ignored.items():
            self._note(f"warning: {name} is passed over: {reason}")
        start = int(newest.name.rpartition("-")[2]) if newest else 0
        steps = total_steps(self.config, len(self.samples["train"]), self.arguments.world_size)
        self.arguments.warmup_steps = warmup_steps(self.config, steps)
        metrics = MetricsLog(self.output, step=start) if self.main else None
        if newest is not None:
            self._note(f"going on from step {start:,}")
        with stop_signals() as stop, progress_bar(steps, self.config.name, self.progress, start) as bar:
            samples = self.output / SAMPLES if self.main else None
            watcher = Watcher(
                metrics, samples, bar, stop, notes=self.progress, with_impression=self.settings.with_impression
            )
            trainer = ReportTrainer(
                self.model,
                self.arguments,
                self.config,
                self.samples["train"],
                self.samples["val"],
                self.checkpoints,
                [watcher],
            )
            watcher.trainer = trainer
            if start < steps or self.arguments.deepspeed:
                trainer.train(resume_from_checkpoint=str(newest) if newest else None)
            else:
                trainer._load_from_checkpoint(str(newest))
            if watcher.stopped:
                raise KeyboardInterrupt
        if metrics is not None:
            metrics.close()
        folder = self._export(trainer, steps)
        if self.main and (no_picture := plot_run(self.output, panels(self.config.study.inputs))):
            self._note(no_picture)
        return folder

    def _export(self, trainer: ReportTrainer, steps: int) -> Path:
        folder = self.output / MODEL
        state = trainer.gather()
        if self.main:
            with deepspeed_config.whole_weights(self.arguments):
                export(
                    self.config, self.model, state, self.initial, self.settings, folder, self._describe(trainer, steps)
                )
            self._note(f"the model is in {folder}")
        trainer.accelerator.wait_for_everyone()
        return folder

    def _describe(self, trainer: ReportTrainer, steps: int) -> dict[str, Any]:
        measured = [entry for entry in trainer.state.log_history if "val_loss" in entry]
        return {
            "steps": steps,
            "losses": {name: value for name, value in (measured or [{}])[-1].items() if name.startswith("val_loss")},
            "pairs": {split: len(samples) for split, samples in self.samples.items()},
            "datasets": sorted({pair.row.dataset for pair in self.selected.pairs} - {""}),
        }


def one_device(arguments: TrainingArguments) -> str | None:
    """Keep a process without a launcher to one GPU, where transformers would copy the model to all (``DataParallel``).

    Returns:
        What to tell the user where there are more, or None.
    """
    if arguments.n_gpu <= 1:
        return None
    found, arguments._n_gpu = arguments.n_gpu, 1
    return f"one process trains on one of {found} GPUs; torchrun --nproc-per-node {found} --no-python uses all"
