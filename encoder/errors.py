"""Exceptions of the project. Each class has the exit code of the command line."""

from __future__ import annotations


class LlavaRadError(Exception):
    """Base class of errors that a user can act on.

    The message is one line without patient identifiers and header values.

    Attributes:
        exit_code: exit code of the process (0 success, 1 failure, 2 usage, 3 some inputs failed, 4 input refused,
            5 model missing or damaged, 130 interrupted).
        hint: advice, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ReadError(LlavaRadError):
    """An image file is refused: damaged, not supported, or not a frontal chest radiograph.

    Attributes:
        reason: fixed identifier such as ``"lateral"`` or ``"truncated"``, for programs.
        forcible: True if ``--force`` overrides the refusal.
    """

    exit_code = 4

    def __init__(self, reason: str, message: str, *, forcible: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.forcible = forcible


class ModelError(LlavaRadError):
    """A model is missing, damaged, or in an unsupported format."""

    exit_code = 5


class ConfigError(LlavaRadError):
    """A configuration is invalid: unknown key, value out of range, or settings that contradict each other."""

    exit_code = 2


def printable(text: str) -> str:
    """Write control characters, and bytes of names that are no UTF-8, as escapes, so that a message is one line."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
