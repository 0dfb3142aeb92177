"""Is everything there and does it fit? A run's configuration, data, weights and cost, looked at without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from encoder.datasets.manifest import Row, counts
from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.data import probe_rows, training_rows
from encoder.pretraining.estimate import Estimate, estimate
from encoder.pretraining.optimization import Schedules, peak_lr, total_steps

SMALL_BATCH = 64
"""Below so many images a step the method is known to stay flat or to collapse."""
_LOOKED_AT = 64
_PAPER_IMAGES = 838_336


@dataclass
class Report:
    """What was found.

    Attributes:
        lines: the run in words.
        warnings: what will run, but perhaps not as meant.
        problems: what will not run.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[LlavaRadError] = field(default_factory=list)

    def attempt(self, check: Callable[[], None]) -> None:
        """Run a check and keep the error that it ends with."""
        try:
            check()
        except LlavaRadError as error:
            self.problems.append(error)

    def to_text(self) -> str:
        """The run and its warnings, for a person."""
        return "\n".join([*self.lines, *(f"warning: {warning}" for warning in self.warnings)]) + "\n"


def check_sizes(config: PretrainingConfig, processes: int) -> None:
    """Whether batch, accumulation, processes, masks and KoLeo go together.

    Raises:
        ConfigError: they do not.
    """
    from encoder.pretraining.data import images_per_process
    from encoder.pretraining.masking import check_masks

    images = images_per_process(config, processes)
    check_masks(config)
    if config.loss.koleo and images < 2:
        raise ConfigError(
            "loss.koleo looks for each image's nearest neighbour on its own process, where there is one image only",
            hint="use fewer processes, less optimization.accumulation, a larger batch_size, or loss.koleo=0",
        )


def validate(config: PretrainingConfig, *, processes: int = 1, offline: bool = False) -> Report:
    """Look at everything that a run needs.

    Args:
        config: the run.
        processes: as many as will train.
        offline: look for weights in the cache only.

    Returns:
        Summary, warnings and problems; problems are kept, not raised, so that all are seen at once.
    """
    report = Report()
    cost = estimate(config, processes)
    _model(report, config, cost)
    report.attempt(lambda: check_sizes(config, processes))
    report.attempt(lambda: _data(report, config))
    report.attempt(lambda: _weights(report, config, offline))
    _cost(report, config, cost, processes)
    _warn(report, config)
    return report


def _model(report: Report, config: PretrainingConfig, cost: Estimate) -> None:
    model, crops = config.model, config.crops
    report.lines += [
        f"run         {config.name}, seed {config.seed}",
        f"model       {model.hidden_size} wide, {model.num_hidden_layers} blocks, patches of {model.patch_size} px, "
        f"{cost.backbone / 1e6:.1f} M parameters; heads {cost.heads / 1e6:.1f} M",
        f"crops       2 of {crops.global_size} px and {crops.local_crops} of {crops.local_size} px, "
        f"by {crops.crop_by}: {_range(crops.global_scale)} and {_range(crops.local_scale)}",
    ]


def _data(report: Report, config: PretrainingConfig) -> None:
    selection = training_rows(config)
    rows, run = selection.rows, config.optimization
    report.lines.append(f"images      {len(rows):,} to train on")
    report.lines += _table(rows, by_data_set=config.data.folder is None)
    if selection.dropped:
        left_out = ", ".join(f"{reason} {number:,}" for reason, number in selection.dropped.items())
        report.lines.append(f"  left out: {left_out}")
    if config.data.exclude and not any(reason.startswith("excluded") for reason in selection.dropped):
        report.warnings.append("data.exclude leaves nothing out: its data sets, subjects and images are others")
    look_at_files(report, rows, config.data.max_unreadable)

    steps = total_steps(run, len(rows))
    Schedules.from_config(config, steps)
    passes = steps * run.batch_size / len(rows)
    report.lines.append(
        f"schedule    {steps:,} steps of {run.batch_size:,} images, {passes:.1f} passes; learning rate "
        f"{peak_lr(run):.3g} after {run.warmup_steps:,} steps"
    )
    if len(rows) < run.batch_size:
        report.warnings.append(f"a batch has {run.batch_size:,} images, the data only {len(rows):,}")
    size = config.data.size
    report.lines.append(
        f"disk        pixel cache of {size} px: {len(rows) * size**2 / 1e9:.1f} GB if images are square"
    )

    probed = probe_rows(config)
    if probed:
        trained = {(row.dataset, row.subject) for row in rows if row.subject}
        shared = {(row.dataset, row.subject) for row in probed} & trained
        report.lines.append(f"probe       {len(probed):,} labelled images, every {config.probe.every:,} steps")
        if shared:
            report.warnings.append(
                f"{len(shared):,} subjects of probe.manifest are trained on too: name it in data.exclude as well"
            )


def _table(rows: Sequence[Row], *, by_data_set: bool) -> list[str]:
    """Counts by data set beside the paper's."""
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


def look_at_files(report: Report, rows: Sequence[Row], allowed: float) -> None:
    """Whether some of the files, spread evenly, are there at all."""
    some = [rows[i * len(rows) // _LOOKED_AT] for i in range(_LOOKED_AT)] if len(rows) > _LOOKED_AT else rows
    missing = sum(not row.path.is_file() for row in some)
    if missing > allowed * len(some):
        raise ConfigError(
            f"{missing} of {len(some)} image files that were looked at are missing",
            hint="is the disk mounted, were they moved? Manifests hold paths; llava-rad manifest writes them anew",
        )
    if missing:
        report.warnings.append(f"{missing} of {len(some)} image files that were looked at are missing")


def _weights(report: Report, config: PretrainingConfig, offline: bool) -> None:
    from encoder.pretraining.initialisation import load_backbone, load_heads

    _, found = load_backbone(config, offline=offline)
    load_heads(config, offline=offline)
    report.lines += [f"{'weights' if i == 0 else '':<12}{line}" for i, line in enumerate(found.lines())]


def _cost(report: Report, config: PretrainingConfig, cost: Estimate, processes: int) -> None:
    run = config.optimization
    report.lines += [
        f"processes   {processes}, with {cost.images:,} images each"
        + (f", {run.accumulation} times a step" if run.accumulation > 1 else ""),
        f"memory      about {gigabytes(cost.memory)} for each: weights and optimizer {gigabytes(cost.weights)}, "
        f"activations {gigabytes(cost.activations)}, scores {gigabytes(cost.scores)}",
        f"compute     {flop(cost.tera_flops_run)} an image ({flop(cost.tera_flops)} if no paths were dropped)",
        f"checkpoints {gigabytes(cost.checkpoint)} each, up to {config.engine.keep_checkpoints + 1} are kept",
    ]
    available = gpu_memory()
    if available is not None and cost.memory > available:
        report.warnings.append(
            f"about {gigabytes(cost.memory)} are needed for each process, the GPU has {gigabytes(available)}: raise "
            "optimization.accumulation, or set engine.activation_checkpointing=true"
        )


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


def gpu_memory() -> int | None:
    """Bytes of the first GPU, or None where there is none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:g}-{values[1]:g}"


def gigabytes(number: float) -> str:
    """A number of bytes in words."""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"


def flop(tera: float) -> str:
    """A number of 1e12 floating-point operations in words."""
    return f"{tera:.3g} TFLOP" if tera >= 0.1 else f"{1000 * tera:.3g} GFLOP"
