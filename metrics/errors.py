"""Errors of the metrics. Each carries the exit code that a command ends with and, where there is one, the cure."""

from __future__ import annotations


class MetricError(Exception):
    """Something a user can act on, in one line, without any report's text.

    Attributes:
        exit_code: what a process ends with (1 failed, 2 usage, 5 weights missing or damaged).
        hint: what to do about it, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(MetricError):
    """Texts, labels, annotations or tables that cannot be scored: other lengths, wrong types, ids that do not match."""

    exit_code = 2


class WeightsError(MetricError):
    """Weights that are missing, damaged, or plainly not those of the model that they are to be."""

    exit_code = 5
