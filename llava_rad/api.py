"""The Python interface: reports from images in one call."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from encoder.errors import ConfigError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import Failure, ReportWriter
from llava_rad.generation.sources import expand
from llava_rad.generation.study import StudyInputs
from llava_rad.outputs.report import Report


def generate(
    paths: str | Path | bytes | Iterable[str | Path | bytes],
    model: str | Path | None = None,
    *,
    recursive: bool = False,
    **options: Any,
) -> list[Report]:
    """Write a findings report for each radiograph; the text is the one that ``llava-rad generate`` prints.

    Args:
        paths: one or several files, folders or patterns (as on the command line), or a file's bytes.
        model: checkpoint folder or hub repository; None is the embedded default.
        recursive: look into subfolders.
        **options: fields of :class:`llava_rad.GenerationOptions` and :class:`llava_rad.StudyInputs`, with their
            defaults: ``batch_size``, ``device``, ``dtype``, ``max_new_tokens``, ``num_beams``, ``temperature``,
            ``lateral``, ``indication``, ``grounded`` and so on.

    Returns:
        The reports in the order of the inputs; with ``grounded`` their findings have ``boxes``.

    Raises:
        ReadError: if an input is refused; ``ReportWriter.write`` goes on with the others.
        ModelError: if the model is missing or damaged.
        ConfigError: if an input is neither path nor bytes (but an array), an option is out of its range, the model's
            prompt does not take a study input, or study inputs are given with several images.
        TypeError: if there is no such option.
    """
    named = paths if isinstance(paths, Iterable) and not isinstance(paths, str | bytes) else [paths]
    sources = expand(named, recursive=recursive).sources
    inputs = StudyInputs(**{name: options.pop(name) for name in STUDY & options.keys()})
    if [name for name in inputs.study.used if name != "grounded"] and len(sources) > 1:
        raise ConfigError("study inputs belong to one image, several are named")
    reports = []
    with ReportWriter(GenerationOptions(model=model, **options), inputs) as writer:
        for outcome in writer.write(sources):
            if isinstance(outcome, Failure):
                raise outcome.error
            reports.append(outcome)
    return reports


STUDY = {field.name for field in dataclasses.fields(StudyInputs)}


def _signature() -> inspect.Signature:
    """The signature of ``generate`` with every option by name, for ``help()`` and editors."""
    own = list(inspect.signature(generate).parameters.values())[:-1]
    fields = [field for kind in (GenerationOptions, StudyInputs) for field in dataclasses.fields(kind)]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields
        if "cli" in field.metadata and field.name != "model"
    ]
    return inspect.Signature([*own, *options], return_annotation="list[Report]")


generate.__signature__ = _signature()  # type: ignore[attr-defined]
