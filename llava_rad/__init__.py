"""Findings reports from chest radiographs.

>>> import llava_rad
>>> llava_rad.generate("image.dcm")[0].text  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rad.api import generate
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_writer import Failure, ReportWriter
    from llava_rad.generation.study import StudyInputs
    from llava_rad.outputs.report import Report
    from llava_rad.probes.embedding import Embedded, embed

__all__ = [
    "Embedded",
    "Failure",
    "GenerationOptions",
    "Report",
    "ReportWriter",
    "StudyInputs",
    "__version__",
    "embed",
    "generate",
]

_MODULES = {
    "generate": "llava_rad.api",
    "embed": "llava_rad.probes.embedding",
    "Embedded": "llava_rad.probes.embedding",
    "GenerationOptions": "llava_rad.generation.options",
    "Failure": "llava_rad.generation.report_writer",
    "ReportWriter": "llava_rad.generation.report_writer",
    "StudyInputs": "llava_rad.generation.study",
    "Report": "llava_rad.outputs.report",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that a help text does not wait for NumPy or torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("llava-rad")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'llava_rad' has no attribute {name!r}")
