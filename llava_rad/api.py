"""The Python interface: reports from images in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llava_rad.inputs import expand
from llava_rad.outputs.report import Report
from llava_rad.pipeline import Decoding, Failure, ReportWriter


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
) -> list[Report]:
    """Write a findings report for each radiograph; the text is the one that ``llava-rad generate`` prints.

    Args:
        paths: one or several files, folders or patterns (as on the command line), or a file's bytes.
        model: checkpoint folder or hub repository; None is the embedded default.
        revision: branch, tag or commit of a repository.
        device: ``"auto"`` or a torch device.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
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

    Returns:
        The reports in the order of the inputs.

    Raises:
        ReadError: an input is refused; use ``ReportWriter.write`` to go on with the others.
        ModelError: the model is missing or damaged.
    """
    named = [paths] if isinstance(paths, str | Path | bytes) else paths
    sources = expand(named, recursive=recursive).sources
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
    )
    reports = []
    with writer:
        for outcome in writer.write(sources, batch_size=batch_size):
            if isinstance(outcome, Failure):
                raise outcome.error
            reports.append(outcome)
    return reports
