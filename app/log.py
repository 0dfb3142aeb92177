"""Log of both servers: a line for each message; an unexpected error is its type and place, as on the command line."""

from __future__ import annotations

import logging
from typing import Any, Final

from encoder.errors import printable
from llava_rad.commands.console import debugging, line_of


class OneLine(logging.Formatter):
    """Formats each message as one line: control characters of names and foreign messages are escapes.

    The message of an unexpected error may quote a header or a report: only its type and place are told, unless the user
    asks for tracebacks.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, with type and place of its error."""
        raised = record.exc_info[1] if record.exc_info else None
        if raised is None or debugging():
            return super().format(record)
        text = f"{record.getMessage().strip()}: unexpected {type(raised).__name__} in {line_of(raised)}"
        return super().format(
            logging.makeLogRecord(vars(record) | {"msg": text, "args": (), "exc_info": None, "exc_text": None})
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message on one line."""
        return printable(super().formatMessage(record))


UVICORN: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": OneLine, "fmt": "llava-rad: %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "ERROR", "propagate": False} for name in ("uvicorn", "asyncio")
    },
}
"""Configuration of uvicorn's and asyncio's loggers."""
