"""The Python interface: reports from images in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from encoder.errors import ConfigError
from llava_rad.generation.report_writer import Decoding, Failure, ReportWriter
from llava_rad.generation.sources import expand
from llava_rad.generation.study import gather
from llava_rad.outputs.report import Report


def generate(
    paths: str | Path | bytes | Iterable[str | Path | bytes],
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    batch_size: int = 4,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    prompt: str | None = None,
    force: bool = False,
    frame: int | None = None,
    recursive: bool = False,
    show_paths: bool = False,
    lateral: str | Path | bytes | None = None,
    prior: str | Path | bytes | None = None,
    prior_report: str | None = None,
    indication: str | None = None,
    technique: str | None = None,
    comparison: str | None = None,
    grounded: bool = False,
) -> list[Report]:
    """Write a findings report for each radiograph; the text is the one that ``llava-rad generate`` prints.

    Args:
        paths: one or several files, folders or patterns (as on the command line), or a file's bytes.
        model: checkpoint folder or hub repository; None is the embedded default.
        revision: branch, tag or commit of a repository.
        device: ``"auto"`` or a torch device.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"8bit"`` or ``"4bit"``.
        offline: never ask the hub.
        batch_size: images at a time.
        max_new_tokens: longest report in tokens; None takes the checkpoint's default.
        num_beams: 1 is greedy; None takes the checkpoint's default.
        temperature: 0 takes the likeliest token; above 0 samples.
        seed: of the sampling.
        prompt: instruction in place of the checkpoint's own.
        force: read images that would be refused as no frontal chest radiograph.
        frame: which frame of a multi-frame file, from 1.
        recursive: look into subfolders.
        show_paths: keep the input's path in the report. File names may identify a patient.
        lateral: file of the lateral image, for models whose prompt has a place for it; so are those below.
        prior: file of the frontal image of an earlier study.
        prior_report: the text of the earlier study's findings.
        indication: text: why the images were taken.
        technique: text: how.
        comparison: text: what they are compared with.
        grounded: ask for boxes; the reports are ``outputs.report.GroundedReport``.

    Returns:
        The reports in the order of the inputs.

    Raises:
        ReadError: an input is refused; use ``ReportWriter.write`` to go on with the others.
        ModelError: the model is missing or damaged.
        ConfigError: the model's prompt has no place for something, or it is given with several images.
    """
    named = [paths] if isinstance(paths, str | Path | bytes) else paths
    sources = expand(named, recursive=recursive).sources
    further = gather(
        lateral=lateral,
        prior=prior,
        prior_report=prior_report,
        indication=indication,
        technique=technique,
        comparison=comparison,
        grounded=grounded,
    )
    if [name for name in further.study.used if name != "grounded"] and len(sources) > 1:
        raise ConfigError("the further inputs belong to one image, several are named")
    decoding = Decoding(max_new_tokens, num_beams, temperature, seed, prompt)
    writer = ReportWriter(
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        offline=offline,
        decoding=decoding,
        force=force,
        frame=frame,
        show_paths=show_paths,
        further=further,
    )
    reports = []
    with writer:
        for outcome in writer.write(sources, batch_size=batch_size):
            if isinstance(outcome, Failure):
                raise outcome.error
            reports.append(outcome)
    return reports
