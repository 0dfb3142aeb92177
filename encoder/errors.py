"""The one tree of errors. Each carries the exit code that the command line ends with."""

from __future__ import annotations


class LlavaRadError(Exception):
    """Something a user can act on: the message is one line and holds no patient identifier and no header value.

    Attributes:
        exit_code: what the process ends with (0 ok, 1 failed, 2 usage, 3 some inputs failed, 4 input refused,
            5 model missing or damaged, 130 interrupted).
        hint: what to do about it, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ReadError(LlavaRadError):
    """An image file that is not read: damaged, not supported, or not a frontal chest radiograph.

    Attributes:
        reason: a fixed slug such as ``"lateral"`` or ``"truncated"``, for programs.
        forcible: whether ``--force`` reads it all the same.
    """

    exit_code = 4

    def __init__(self, reason: str, message: str, *, forcible: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.forcible = forcible


class ModelError(LlavaRadError):
    """A model that is missing, damaged, or not of a form that is read."""

    exit_code = 5


class ConfigError(LlavaRadError):
    """A configuration that cannot be run: an unknown key, a value out of range, parts that do not fit together."""

    exit_code = 2
