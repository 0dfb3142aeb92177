"""Findings reports from chest radiographs.

>>> import llava_rad
>>> llava_rad.generate("image.dcm")[0].text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_rad.api import generate
    from llava_rad.generation.report_writer import Failure, ReportWriter
    from llava_rad.outputs.report import Report

__all__ = ["Failure", "Report", "ReportWriter", "__version__", "generate"]


def __getattr__(name: str) -> Any:
    """Import on first use: a help text must not wait for NumPy, let alone torch."""
    if name == "generate":
        from llava_rad.api import generate

        return generate
    if name in {"Failure", "ReportWriter"}:
        from llava_rad.generation import report_writer

        return getattr(report_writer, name)
    if name == "Report":
        from llava_rad.outputs.report import Report

        return Report
    if name == "__version__":
        from importlib.metadata import version

        return version("llava-rad")
    raise AttributeError(f"module 'llava_rad' has no attribute {name!r}")
