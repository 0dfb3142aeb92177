"""Configuration of report-generator training: a typed, frozen tree read from YAML. Unknown keys are errors.

Sources: [paper] = Pérez-García et al. 2024 (RAD-DINO), sections 2.2 and E.3.3; [LLaVA] = LLaVA-1.5's
``scripts/v1_5/finetune.sh`` and ``zero3.json``, which the paper names for everything else; [LLaVA-LoRA] = its
``finetune_lora.sh``; [ours] = our choice where all are silent.
"""

from __future__ import annotations

import math
from math import ceil
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from encoder.errors import ConfigError
from encoder.runs.config import Configurations
from llava_rad.model.sections import BOTH, FINDINGS_ALONE, Section
from llava_rad.model.templates import TemplateName

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]

StudyInput = Literal["lateral", "prior", "prior_report", "indication", "technique", "comparison"]
DEEPSPEED = ("zero2", "zero2-offload", "zero3", "zero3-offload")
"""DeepSpeed configurations that come with the package."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScratchConfig(_Strict):
    """A small Llama with random weights, and a tokenizer learned from the training reports [ours].

    Attributes:
        vocabulary: largest number of tokens.
    """

    hidden_size: Positive = 192
    num_hidden_layers: Positive = 3
    num_attention_heads: Positive = 3
    intermediate_size: Positive = 512
    vocabulary: Annotated[int, Field(ge=400)] = 1000


class ModelConfig(_Strict):
    """The parts that training starts from.

    Attributes:
        checkpoint: a checkpoint of ours (folder or hub repository) to start from, which replaces the keys below; null
            combines the parts below.
        encoder: name (``docs/encoders.md``), folder, hub repository, file of weights, or export of ``llava-rad
            pretrain``; frozen [paper].
        encoder_kind: name of the encoder, if its files do not tell; or null.
        language_model: a Llama folder or hub repository [paper]; null for ``scratch``.
        scratch: the language model where ``language_model`` is null.
        projector: safetensors file of a trained projector; null for random weights [paper].
        recipe: preprocessing, such as ``rad-dino-224``; null for the encoder's own [paper].
    """

    checkpoint: str | None = None
    encoder: str = "microsoft/rad-dino"
    encoder_kind: str | None = None
    language_model: str | None = "lmsys/vicuna-7b-v1.5"
    scratch: ScratchConfig = ScratchConfig()
    projector: str | None = None
    recipe: str | None = None


class LoraConfig(_Strict):
    """Low-rank adapters in place of full fine-tuning, on every linear layer of the decoder blocks [LLaVA-LoRA].

    The projector is trained whole beside them, the encoder never.

    Attributes:
        merge: merge the adapters into the written model; false writes a PEFT adapter folder with
            ``model.language_model`` as its base.
    """

    r: Positive = 128
    alpha: Positive = 256
    dropout: float = Field(default=0.05, ge=0, lt=1)
    merge: bool = True


class DataConfig(_Strict):
    """Image-report pairs.

    Attributes:
        pairs: tables of ``llava-rad reports``, or any CSV or JSONL with columns for image and text. ``train`` is
            trained on, ``val`` evaluated, other splits are left out.
        sections: sections of a report that are taught: ``[findings]`` [paper], or ``[findings, impression]`` [ours]; a
            study without an impression then teaches its findings.
        cache: folder of the pixel cache, which runs on the same rows and size can share; null for the run folder's.
        keep_features: keep the encoder's features on disk, for small language models: at 7B the encoder is half a
            percent of the work, at 309 GB for MIMIC-CXR.
        max_length: longest sample in tokens, image included [LLaVA]; longer samples are left out.
        max_too_long: largest share of longer samples.
        max_unreadable: largest share of unreadable images.
        workers: processes that load samples, for each training process [LLaVA].
    """

    pairs: tuple[str, ...] = ()
    sections: tuple[Section, ...] = FINDINGS_ALONE
    cache: str | None = None
    keep_features: bool = False
    max_length: Positive = 2048
    max_too_long: Share = 0.01
    max_unreadable: Share = 0.01
    workers: Count = 4


class StudyConfig(_Strict):
    """Inputs of a sample besides its frontal image, as the table of studies has them [ours; the paper has none].

    Attributes:
        inputs: names of the inputs: ``lateral``, ``prior``, ``prior_report``, ``indication``, ``technique``,
            ``comparison``. A sample takes those that its row has.
        leave_out: rate at which each input is left out of a training sample, so that one model serves every
            combination; a prior report is left out with its prior.
        keep_comparisons: keep the sentences that compare with an earlier study in the report of a sample whose prior is
            left out, which teaches to invent them. Otherwise they are left out with it, and a report that has no other
            sentence keeps its prior.
        template: words around them, see ``llava_rad.model.templates``; null for the checkpoint's, and for ``study``
            where that takes none.
        pool: side of the squares of patches whose features are averaged, for images after the first; 1 for all
            features. 2 leaves 361 of 1369 tokens.
        markers: learn a vector for laterals and one for priors, which is added to their features.
        rope_factor: linear scaling of positions, so that more tokens fit: 1.5 in MAIRA-2 (Bannur et al. 2024).
    """

    inputs: tuple[StudyInput, ...] = ()
    leave_out: Share = 0.1
    keep_comparisons: bool = False
    template: TemplateName | None = None
    pool: Positive = 1
    markers: bool = True
    rope_factor: float = Field(default=1.0, ge=1, le=64)


class OptimizationConfig(_Strict):
    """AdamW, cosine to zero.

    Attributes:
        epochs: passes over the data [paper].
        steps: optimiser steps in place of ``epochs``; or null.
        batch_size: samples a step, over all processes and accumulated micro-batches [paper: 4 x 32].
        micro_batch_size: samples at a time on each process [ours, for 80 GB with ZeRO-3].
        lr: peak learning rate [paper, LLaVA].
        projector_lr: of the projector; null for ``lr`` [LLaVA].
        warmup: linear from 0, share of the steps [LLaVA].
        weight_decay: of matrices [LLaVA].
        betas: of AdamW [LLaVA: PyTorch's].
        epsilon: of AdamW [LLaVA: PyTorch's].
        clip: largest gradient norm [LLaVA: the Trainer's default]; 0 does not clip.
        group_by_length: samples of similar length make a batch [LLaVA].
    """

    epochs: float = Field(default=3.0, gt=0)
    steps: Positive | None = None
    batch_size: Positive = 128
    micro_batch_size: Positive = 16
    lr: float = Field(default=2e-5, gt=0)
    projector_lr: float | None = Field(default=None, gt=0)
    warmup: Share = 0.03
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, ge=0)
    group_by_length: bool = True


class EngineConfig(_Strict):
    """Use of the machine; no setting changes what is learned beyond rounding.

    Attributes:
        precision: ``bf16`` [LLaVA] or ``fp32``.
        tf32: float32 matrix products in TF32 where the GPU has it [LLaVA].
        deepspeed: ``none``; ``zero2``, ``zero3`` [LLaVA]; ``zero2-offload``, ``zero3-offload`` (optimiser state, and
            weights, in main memory); or a DeepSpeed JSON file.
        activation_checkpointing: recompute decoder blocks in the backward pass [LLaVA: true]; ``auto`` only if the
            memory of the device is too small without.
        liger: Liger's kernels for Llama (CUDA, package liger-kernel).
        compile: torch.compile of Llama's norms and MLPs, in place of Liger's kernels; not with ZeRO-3.
        log_every: steps.
        checkpoint_every: steps; null for every epoch.
        keep_checkpoints: number of newest checkpoints to keep.
    """

    precision: Literal["bf16", "fp32"] = "bf16"
    tf32: bool = True
    deepspeed: str = "none"
    activation_checkpointing: Literal["auto"] | bool = "auto"
    liger: bool = False
    compile: bool = False
    log_every: Positive = 10
    checkpoint_every: Positive | None = None
    keep_checkpoints: Positive = 2


class EvaluationConfig(_Strict):
    """Evaluation on the split ``val``, with every checkpoint and at the end.

    Attributes:
        max_pairs: number of first pairs whose loss is measured, also with the next pair's image; 0 for none.
        samples: number of first pairs for which reports are written, with ROUGE-L and label F1 (rules).
        max_new_tokens: longest findings [paper]; with an impression, reports have 100 tokens more.
    """

    max_pairs: Count = 2000
    samples: Count = 16
    max_new_tokens: Positive = 150


class TrainingConfig(_Strict):
    """One run. ``seed`` decides random weights, the order of the samples and dropout."""

    name: str = "paper"
    seed: Count = 0
    model: ModelConfig = ModelConfig()
    lora: LoraConfig | None = None
    data: DataConfig = DataConfig()
    study: StudyConfig = StudyConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        run, scratch = self.optimization, self.model.scratch
        if run.batch_size % run.micro_batch_size:
            raise ValueError("optimization.batch_size must be a multiple of optimization.micro_batch_size")
        if self.data.sections not in (FINDINGS_ALONE, BOTH):
            raise ValueError("data.sections is [findings] or [findings, impression]")
        if "prior_report" in self.study.inputs and "prior" not in self.study.inputs:
            raise ValueError("study.inputs: prior_report needs the image that it is about, prior")
        if len(set(self.study.inputs)) < len(self.study.inputs):
            raise ValueError("study.inputs names an input twice")
        if not self.study.inputs and self.study != StudyConfig():
            raise ValueError("study has settings, but study.inputs is empty")
        if self.engine.compile and self.engine.liger:
            raise ValueError("engine.compile and engine.liger replace the same kernels: choose one")
        if any(1e30 < rate < math.inf for rate in (run.lr, run.projector_lr or 0)):
            raise ValueError("optimization.lr must be at most 1e30")  # AdamW multiplies it
        if scratch.hidden_size % (2 * scratch.num_attention_heads):
            raise ValueError("model.scratch.hidden_size must be an even multiple of its num_attention_heads")
        if self.lora and not self.lora.merge and (self.model.language_model is None or self.model.checkpoint):
            raise ValueError("lora.merge = false needs a base that others can load: model.language_model")
        return self


def accumulation(config: TrainingConfig, processes: int) -> int:
    """Micro-batches of one step on each process.

    Raises:
        ConfigError: if the batch cannot be divided evenly.
    """
    run = config.optimization
    if run.batch_size % (run.micro_batch_size * processes):
        raise ConfigError(
            f"optimization.batch_size = {run.batch_size} is no multiple of {run.micro_batch_size} samples on "
            f"{processes} processes",
            hint="change optimization.micro_batch_size, or the number of processes",
        )
    return run.batch_size // (run.micro_batch_size * processes)


def total_steps(config: TrainingConfig, samples: int, processes: int) -> int:
    """Optimiser steps of a run, counted as transformers' Trainer does: the last batch of an epoch may be smaller."""
    run = config.optimization
    if run.steps is not None:
        return run.steps
    batches = ceil(ceil(samples / run.micro_batch_size) / processes)
    return ceil(run.epochs * ceil(batches / accumulation(config, processes)))


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Steps until the peak of the learning rate."""
    return ceil(config.optimization.warmup * steps)


_CONFIGURATIONS = Configurations(TrainingConfig, "llava_rad.training")
load_config, shipped = _CONFIGURATIONS.load, _CONFIGURATIONS.shipped
