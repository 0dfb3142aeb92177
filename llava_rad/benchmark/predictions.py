"""Predictions on disk: one shard per process, continued after a kill, and merged by id."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoder.errors import LlavaRadError
from encoder.files import LineFile, reported
from encoder.json_files import parse_json
from llava_rad.outputs.files import write_whole
from llava_rad.outputs.report import NOTICE

SCHEMA: Final = "llava-rad.prediction/1"
TAKEN: Final = "A report about another patient, taken as a reference point. Research use only. Not for clinical use."


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted text of one case.

    Attributes:
        id: of the case.
        text: "" if the image could not be read.
        complete: False if the text reached the maximal length.
        error: reason of the reader if the image could not be read, else None.
        warning: why the image is probably damaged or incomplete (:mod:`encoder.reader.information`), else "".
        inputs: what a model wrote the text from, such as ``frontal``; None if that is not known.
    """

    id: str
    text: str
    complete: bool = True
    error: str | None = None
    warning: str = ""
    inputs: tuple[str, ...] | None = None

    def line(self, notice: str = NOTICE) -> str:
        """Return one line of JSON; equal predictions give equal bytes."""
        content: dict[str, Any] = {"schema": SCHEMA, "notice": notice, "id": self.id, "prediction": self.text}
        content |= {"complete": self.complete, "error": self.error, "warning": self.warning}
        content |= {} if self.inputs is None else {"inputs": self.inputs}
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Prediction:
        """Parse a line that :meth:`line` wrote.

        Raises:
            ValueError: if it is not a prediction.
        """
        content = parse_json(line)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError("no prediction")
        inputs = content.get("inputs")
        try:
            return cls(
                content["id"],
                content["prediction"],
                content["complete"],
                content["error"],
                content.get("warning", ""),
                None if inputs is None else tuple(inputs),
            )
        except (KeyError, TypeError):
            raise ValueError("no prediction") from None


class Shards:
    """Predictions of one model until they are merged: a folder with one file per process.

    Lines are appended batch by batch and are on the disk when ``append`` returns. A half-written last line, left by a
    kill or crash, is ignored, and removed when its process appends again.

    Args:
        folder: created if missing.
        rank: of this process.
        size: number of processes.
    """

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / f"shard-{rank:05}-of-{size:05}.jsonl"
        self._file: LineFile | None = None

    def done(self) -> set[str]:
        """Return the ids that any process of this or an earlier run has written."""
        return {prediction.id for file in self._files() for prediction in _read(file)}

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Append predictions to this process's file and wait until they are on the disk.

        Raises:
            LlavaRadError: if they cannot be written, or another process has the file open.
        """
        data = "".join(prediction.line() for prediction in predictions).encode()
        with reported("predictions"):
            if self._file is None:
                self._file = LineFile(self._own, busy="another run is writing to the same results folder")
            self._file.append(data)

    def close(self) -> None:
        """Release this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def merge(self, ids: Sequence[str], target: Path, *, notice: str = NOTICE) -> None:
        """Write all predictions into one file in the order of ``ids``, and remove the shards.

        Raises:
            LlavaRadError: if an id is missing, unknown or comes twice.
        """
        found: dict[str, Prediction] = {}
        for file in self._files():
            for prediction in _read(file):
                if prediction.id in found:
                    raise LlavaRadError(f"two shards hold a prediction of the same image ({file.name})")
                found[prediction.id] = prediction
        missing, odd = sum(key not in found for key in ids), len(found.keys() - set(ids))
        if missing or odd or len(set(ids)) != len(ids):
            raise LlavaRadError(
                f"the shards do not fit the {len(ids)} images: {missing} have no prediction, {odd} are too many",
                hint="run the same command again; if that does not help, remove the folder of the shards",
            )
        write_predictions([found[key] for key in ids], target, notice=notice)
        for file in self._files():
            file.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("shard-*.jsonl"))


def write_predictions(predictions: Sequence[Prediction], target: Path, *, notice: str = NOTICE) -> None:
    """Write a file of predictions atomically."""
    write_whole(target, "".join(prediction.line(notice) for prediction in predictions).encode(), overwrite=True)


def read_predictions(file: Path, ids: Sequence[str]) -> list[Prediction]:
    """Read a merged file.

    Raises:
        LlavaRadError: if its ids are not ``ids``, in this order.
    """
    found = list(_read(file))
    if [prediction.id for prediction in found] != list(ids):
        raise LlavaRadError(f"{file.name} does not hold one prediction for each image", hint="remove it, and run again")
    return found


def _read(file: Path) -> Iterator[Prediction]:
    """Yield the predictions of the complete lines of a file."""
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Prediction.of_line(line.decode())
                except ValueError:
                    raise LlavaRadError(f"line {number} of {file.name} is no prediction") from None
    except OSError as error:
        raise LlavaRadError(f"{file.name} cannot be read ({os.strerror(error.errno or 0)})") from None
