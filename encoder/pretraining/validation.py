"""Check a run's configuration, data, weights and cost without training (``pretrain --validate``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from encoder.datasets.manifest import Row, counts
from encoder.datasets.splits import disjoint_files
from encoder.errors import ConfigError
from encoder.pretraining.config import HeadConfig, ModelConfig, PretrainingConfig
from encoder.pretraining.data import cache_folder, images_per_process, probe_rows, training_rows
from encoder.pretraining.heads import Head
from encoder.pretraining.initialisation import CHECKPOINTS, load_backbone, load_heads
from encoder.pretraining.masking import check_masks
from encoder.pretraining.optimization import Schedules, peak_lr, total_steps
from encoder.pretraining.probes import fitting_seconds
from encoder.pretraining.student_teacher import Network
from encoder.pretraining.vit import Crops, VisionTransformer
from encoder.runs.preflight import (
    Report,
    Trace,
    by_depth,
    cache_need,
    checkpoints_need,
    duration,
    flop,
    parameters_of,
    trace,
)
from encoder.units import gigabytes

SMALL_BATCH = 64
"""Smallest batch at which the method is known to learn well; below it the loss often stays flat or collapses."""
LARGE_PROBE = 0.03
"""Share of a run's time that probes should not exceed."""
_PAPER_IMAGES = 838_336
_GLOBAL_CROPS = 2
_CHUNK = 1 << 28
"""Scores held at a time on a GPU (``losses.py``)."""
_CHUNK_BYTES = 6
"""For each score: student's scores, and both's probabilities, in bfloat16; twice as many in float32."""


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    Attributes:
        backbone: parameters of the backbone.
        heads: parameters of the head, or of both heads.
        images: images of each batch on each process.
        tera_flops: operations of each image of a step, in units of 1e12, with all residual branches.
        tera_flops_run: the same without the branches that drop path leaves out.
        weights: bytes on each process for weights of student and teacher, gradients and AdamW's moments.
        activations: bytes on each process for what the backward pass needs.
        scores: bytes on each process for one chunk of scores and the gradients of the prototypes.
        checkpoint: bytes of each checkpoint on disk.
    """

    backbone: int
    heads: int
    images: int
    tera_flops: float
    tera_flops_run: float
    weights: int
    activations: int
    scores: int
    checkpoint: int

    @property
    def memory(self) -> int:
        """Bytes on each process, together."""
        return self.weights + self.activations + self.scores


def cost_of(config: PretrainingConfig, processes: int = 1) -> Cost:
    """Measure the cost of a run on the shapes of one and two images; backward passes count twice the forward pass."""
    run, engine = config.optimization, config.engine
    images = max(1, run.batch_size // (run.accumulation * processes))
    kept = 1 - run.drop_path
    blocks = config.model.num_hidden_layers
    backbone = parameters_of(lambda: VisionTransformer(config.model))
    parameters = parameters_of(lambda: Network(config, 0.0))

    bf16 = engine.precision == "bf16"
    teacher = _GLOBAL_CROPS * _crop_cost(config.model, config.crops.global_size, bf16)
    student = teacher
    if config.crops.local_crops:
        student += config.crops.local_crops * _crop_cost(config.model, config.crops.local_size, bf16)
    vector = _head_cost(config.model.hidden_size, config.head, bf16)
    masked = masked_patches(config)
    learning = _GLOBAL_CROPS + config.crops.local_crops + masked
    head = vector.flops * (3 * learning + _GLOBAL_CROPS + masked)

    row = config.model.hidden_size * student.tokens
    in_block = kept * (student.block.kept + (2 if bf16 else 4) * row)  # GPUs keep attention's output by crop and packed
    # with checkpointing: inputs of all blocks, and one block recomputed
    in_blocks = blocks * (2 if bf16 else 4) * row + in_block if engine.activation_checkpointing else blocks * in_block
    shards = processes if engine.sharding == "fsdp" else 1
    return Cost(
        backbone=backbone,
        heads=parameters - backbone,
        images=images,
        tera_flops=(teacher.flops(blocks) + 3 * student.flops(blocks) + head) / 1e12,
        tera_flops_run=(teacher.flops(blocks) + 3 * student.flops(blocks * kept) + head) / 1e12,
        # student, teacher, gradients and two moments in float32, and the student's weights as autocast casts them
        weights=20 * parameters // shards + (2 * parameters if engine.precision == "bf16" else 0),
        activations=int(images * (student.rest.kept + in_blocks + learning * vector.kept)),
        scores=_scores(config, images),
        checkpoint=16 * parameters,
    )


class ProbeCost(NamedTuple):
    """Seconds of one call of the probes in the loop.

    Attributes:
        encoding: of the images, shared by all processes.
        fitting: of the linear probe, on the first process while others wait.
        training: from one call to the next.
    """

    encoding: float
    fitting: float
    training: float

    @property
    def seconds(self) -> float:
        """Of a call."""
        return self.encoding + self.fitting

    @property
    def share(self) -> float:
        """In proportion to training."""
        return self.seconds / self.training


def probe_cost(config: PretrainingConfig, images: int, fitting: float, cost: Cost, rate: float) -> ProbeCost:
    """Estimate the cost of the probes.

    Args:
        config: the run.
        images: probed images.
        fitting: seconds of the linear probe, see ``probes.fitting_seconds``.
        cost: of the run.
        rate: TFLOP/s of all processes together.
    """
    side, blocks = config.probe.size or config.crops.global_size, config.model.num_hidden_layers
    one = _crop_cost(config.model, side, config.engine.precision == "bf16").flops(blocks) / 1e12
    steps = config.probe.every * config.optimization.batch_size * cost.tera_flops_run
    return ProbeCost(images * one / rate, fitting, steps / rate)


def masked_patches(config: PretrainingConfig) -> float:
    """Mean number of masked patches of an image's two global crops together: 411 at 518 px."""
    if config.loss.ibot == 0:
        return 0.0
    patches = (config.crops.global_size // config.model.patch_size) ** 2
    return _GLOBAL_CROPS * config.masking.probability * sum(config.masking.ratio) / 2 * patches


class _Crops(NamedTuple):
    """Cost of some crops outside of the blocks and in each block, and their tokens; nothing is dropped."""

    rest: Trace
    block: Trace
    tokens: int

    def flops(self, blocks: float) -> float:
        return (self.rest + blocks * self.block).flops

    def __add__(self, other: tuple[Any, ...]) -> _Crops:
        return _Crops(self.rest + other[0], self.block + other[1], self.tokens + other[2])

    def __rmul__(self, count: int) -> _Crops:  # type: ignore[override]
        return _Crops(count * self.rest, count * self.block, count * self.tokens)


@cache
def _crop_cost(model: ModelConfig, side: int, bf16: bool) -> _Crops:
    tokens = 1 + (side // model.patch_size) ** 2

    def measure(blocks: int, crops: int) -> Trace:
        shallow = model.model_copy(update={"num_hidden_layers": blocks})
        return trace(
            lambda: VisionTransformer(shallow),
            lambda backbone: backbone(
                [Crops(torch.zeros(crops, side, side, dtype=torch.uint8))], torch.arange(crops * tokens)
            ),
            bf16=bf16,
        )

    return _Crops(*by_depth(measure), tokens)


@cache
def _head_cost(width: int, head: HeadConfig, bf16: bool) -> Trace:
    """Cost of one vector in a head; its scores count as operations alone, they are never kept."""

    def measure(vectors: int) -> Trace:
        return trace(lambda: Head(width, head), lambda head: head(torch.zeros(vectors, width)), bf16=bf16)

    one = measure(2) - measure(1)
    return Trace(one.flops + 2 * head.bottleneck * head.prototypes, one.kept)


def _scores(config: PretrainingConfig, images: int) -> int:
    """Bytes of the largest chunk of scores, and of the prototypes with their gradients."""
    head, crops = config.head, _GLOBAL_CROPS + config.crops.local_crops
    rows = max(images * crops, int(images * masked_patches(config)))
    held = max(min(_CHUNK, rows * head.prototypes), crops * head.prototypes)
    size = _CHUNK_BYTES if config.engine.precision == "bf16" else 2 * _CHUNK_BYTES
    return held * size + 3 * 4 * head.prototypes * head.bottleneck


def check_sizes(config: PretrainingConfig, processes: int) -> None:
    """Check that batch, accumulation, processes, masks and KoLeo fit together.

    Raises:
        ConfigError: if they do not.
    """
    images = images_per_process(config, processes)
    check_masks(config)
    if config.loss.koleo and images < 2:
        raise ConfigError(
            "loss.koleo looks for each image's nearest neighbour on its own process, where there is one image only",
            hint="use fewer processes, less optimization.accumulation, a larger batch_size, or loss.koleo=0",
        )


def validate(
    config: PretrainingConfig,
    *,
    processes: int = 1,
    offline: bool = False,
    output: Path = Path(),
    tflops: float | None = None,
) -> Report:
    """Check everything that a run needs.

    Args:
        config: the run.
        processes: number of processes that will train.
        offline: look for weights in the cache only.
        output: the run folder, whose disk is looked at.
        tflops: TFLOP/s that the run reaches on each process; None for a share of what is measured here.

    Returns:
        Summary, warnings and problems; problems are kept, not raised, so that all are seen at once.
    """
    report = Report()
    cost = cost_of(config, processes)
    _model(report, config, cost)
    report.attempt(lambda: check_sizes(config, processes))
    report.attempt(lambda: _data(report, config, cost, processes, output, tflops))
    report.attempt(lambda: _weights(report, config, offline))
    _cost(report, config, cost, processes)
    _warn(report, config)
    return report


def _model(report: Report, config: PretrainingConfig, cost: Cost) -> None:
    model, crops = config.model, config.crops
    report.lines += [
        f"run         {config.name}, seed {config.seed}",
        f"model       {model.hidden_size} wide, {model.num_hidden_layers} blocks, patches of {model.patch_size} px, "
        f"{cost.backbone / 1e6:.1f} M parameters; heads {cost.heads / 1e6:.1f} M",
        f"crops       2 of {crops.global_size} px and {crops.local_crops} of {crops.local_size} px, "
        f"by {crops.crop_by}: {_range(crops.global_scale)} and {_range(crops.local_scale)}",
    ]


def _data(
    report: Report, config: PretrainingConfig, cost: Cost, processes: int, output: Path, tflops: float | None
) -> None:
    selection = training_rows(config)
    rows, run = selection.rows, config.optimization
    report.lines.append(f"images      {len(rows):,} to train on")
    report.lines += _table(rows, by_data_set=config.data.folder is None)
    if selection.dropped:
        report.lines += [f"  {line}" for line in selection.lines()]
    report.warnings += selection.warnings()
    if config.data.exclude and not any(reason.startswith("excluded") for reason in selection.dropped):
        report.warnings.append("data.exclude leaves nothing out: its data sets, subjects and images are others")
    report.attempt(lambda: report.check_files(rows, config.data.max_unreadable))
    report.attempt(lambda: disjoint_files(rows))

    steps = total_steps(run, len(rows))
    Schedules.from_config(config, steps)
    passes = steps * run.batch_size / len(rows)
    report.lines.append(
        f"schedule    {steps:,} steps of {run.batch_size:,} images, {passes:.1f} passes; learning rate "
        f"{peak_lr(run):.3g} after {run.warmup_steps:,} steps"
    )
    if len(rows) < run.batch_size:
        report.warnings.append(f"a batch has {run.batch_size:,} images, the data only {len(rows):,}")
    operations = steps * run.batch_size * cost.tera_flops_run
    each = f"{flop(cost.tera_flops_run)} an image"
    rate = report.tell_time(operations, processes, each, precision=config.engine.precision, tflops=tflops)
    number = config.engine.keep_checkpoints + 1 + (config.probe.select != "last")  # one being written, the best one
    report.check_disks(
        [
            cache_need(len(rows), config.data.size, cache_folder(config, output)),
            checkpoints_need(number, cost.checkpoint, output / CHECKPOINTS),
        ]
    )

    probed = probe_rows(config)
    report.attempt(lambda: disjoint_files(probed))
    if probed:
        trained = {(row.dataset, row.subject) for row in rows if row.subject}
        shared = {(row.dataset, row.subject) for row in probed} & trained
        fitting = _fitting(config, probed) if tflops is None else 0.0  # of another device it is not known
        fitted = f"fitting {duration(fitting)}, measured here" if fitting else "without fitting"
        probes = probe_cost(config, len(probed), fitting, cost, rate * processes)
        report.lines.append(
            f"probe       {len(probed):,} labelled images, every {config.probe.every:,} steps: about "
            f"{duration(probes.seconds)} (encoding {duration(probes.encoding)}; {fitted}), "
            f"{probes.share:.2%} of the training time"
        )
        if probes.share > LARGE_PROBE:
            report.warnings.append(
                f"probes take {probes.share:.0%} of the time: raise probe.every, or name fewer images"
            )
        if shared:
            report.warnings.append(
                f"{len(shared):,} subjects of probe.manifest are trained on too: name it in data.exclude as well"
            )


def _fitting(config: PretrainingConfig, rows: Sequence[Row]) -> float:
    labels = {name for row in rows for name in row.labels}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    number = sum(row.split == "train" for row in rows)
    return fitting_seconds(number, config.model.hidden_size, len(labels), device)


def _table(rows: Sequence[Row], *, by_data_set: bool) -> list[str]:
    """Counts by data set, next to the paper's."""
    if not by_data_set:
        return []
    from encoder.datasets.registry import published_for

    lines = [f"  {'data set':<16}{'images':>10}{'subjects':>10}{'lateral':>10}   paper, table D.1"]
    for dataset, by_view in sorted(counts(rows).items()):
        total, lateral = by_view["all"], by_view.get("lateral")
        paper = published_for(dataset)
        beside = "" if paper is None else f"{paper.count.images:,} images, {paper.count.subjects:,} subjects"
        lines.append(
            f"  {dataset or 'unnamed':<16}{total.images:>10,}{total.subjects or 'unknown':>10}"
            f"{lateral.images if lateral else 0:>10,}   {beside}".rstrip()
        )
    lines.append(f"  {'together':<16}{len(rows):>10,}{'':>20}   {_PAPER_IMAGES:,} images")
    return lines


def _weights(report: Report, config: PretrainingConfig, offline: bool) -> None:
    _, found = load_backbone(config, offline=offline)
    load_heads(config, offline=offline)
    report.lines += [f"{'weights' if i == 0 else '':<12}{line}" for i, line in enumerate(found.lines())]


def _cost(report: Report, config: PretrainingConfig, cost: Cost, processes: int) -> None:
    run = config.optimization
    report.lines += [
        f"processes   {processes}, with {cost.images:,} images each"
        + (f", {run.accumulation} times a step" if run.accumulation > 1 else ""),
        f"memory      about {gigabytes(cost.memory)} for each: weights and optimizer {gigabytes(cost.weights)}, "
        f"activations {gigabytes(cost.activations)}, scores {gigabytes(cost.scores)}",
        f"compute     {flop(cost.tera_flops_run)} an image ({flop(cost.tera_flops)} if no paths were dropped)",
    ]
    report.check_memory(cost.memory, "raise optimization.accumulation, or set engine.activation_checkpointing=true")


def _warn(report: Report, config: PretrainingConfig) -> None:
    batch = config.optimization.batch_size
    if batch < SMALL_BATCH:
        report.warnings.append(
            f"batches of {batch} images: the paper has 640, and below {SMALL_BATCH} the loss often stays flat"
        )
    if config.data.size < config.crops.global_size:
        report.warnings.append(
            f"data.size = {config.data.size} is less than crops.global_size = {config.crops.global_size}: "
            "all global crops are enlarged"
        )
    if config.model.image_size != config.crops.global_size:
        report.warnings.append(
            f"model.image_size = {config.model.image_size} is not crops.global_size = {config.crops.global_size}: "
            "position embeddings are resized at every step"
        )


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:g}-{values[1]:g}"
