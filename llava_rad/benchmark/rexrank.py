"""Predictions in ReXrank's form: its file of studies in, the same file with a prediction of each study out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from encoder.datasets.forms import FORMS
from encoder.datasets.values import is_no_answer
from encoder.errors import LlavaRadError, ReadError
from encoder.json_files import read_json
from encoder.reader.views import FRONTAL, view_of
from llava_rad.benchmark.leaderboard import prediction
from llava_rad.generation.sources import Source
from llava_rad.generation.study import prepare
from llava_rad.model.templates import Study
from llava_rad.outputs.files import write_whole

if TYPE_CHECKING:
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.report_model import Description
    from llava_rad.generation.report_writer import ReportWriter

KEY: Final = "model_prediction"
_LARGEST: Final = 1 << 30  # bytes
_EVERY: Final = 60.0
"""Seconds between writes of the file, which is written whole."""
_TEXTS: Final = ("indication", "comparison", "technique")

Entry = dict[str, Any]


@dataclass(frozen=True)
class _Ready:
    """A study whose images have been read."""

    key: str
    study: Study
    frontal: PreparedImage
    context: list[tuple[str, PreparedImage]]


class Studies:
    """Studies of a file of ReXrank, and their predictions.

    Args:
        entries: of the file, by study.
        images: folder of the images; paths of the file may begin with a slash.
        output: file of the predictions.
        done: predictions of an earlier run, by study.
    """

    def __init__(self, entries: dict[str, Entry], images: Path, output: Path, done: dict[str, str]) -> None:
        self._entries, self._images, self._output = entries, images, output
        self._predictions = dict(done)
        self._saved = time.monotonic()

    @classmethod
    def load(cls, file: Path, images: Path, output: Path, *, overwrite: bool = False) -> Studies:
        """Read the file, and an unfinished output.

        Raises:
            LlavaRadError: if one of them is no file of ReXrank, or the output is of other studies.
        """
        if not images.is_dir():
            raise LlavaRadError("the folder of the images does not exist", hint="--img_root_dir names it")
        entries = _read(file, "the input")
        done: dict[str, str] = {}
        if output.exists() and not overwrite:
            before = _read(output, "the output")
            if before.keys() - entries.keys():
                raise LlavaRadError("the output holds other studies", hint="name another, or --overwrite")
            # an empty prediction is of an image that could not be read then
            done = {key: text for key, entry in before.items() if isinstance(text := entry.get(KEY), str) and text}
        return cls(entries, images, output, done)

    def __len__(self) -> int:
        return len(self._entries)

    def left(self) -> list[str]:
        """Return the studies without a prediction, in the order of the file."""
        return [key for key in self._entries if key not in self._predictions]

    def write(
        self, writer: ReportWriter, keys: Sequence[str], say: Callable[[str], None] = lambda message: None
    ) -> Iterator[tuple[int, ReadError | None]]:
        """Write predictions; yield the number of each study in the file, and the error of one that cannot be read.

        Raises:
            LlavaRadError: if the model is missing or damaged, or the file cannot be written.
        """
        config = writer.config()
        places = config.places
        taken = sorted(places & {"lateral", *_TEXTS})
        say(f"beside the frontal image the model takes {', '.join(taken) if taken else 'nothing'}")
        numbers = {key: number for number, key in enumerate(self._entries, 1)}
        waiting: list[_Ready] = []
        for key in keys:
            try:
                ready = self._prepared(key, writer, config, places)
            except ReadError as error:
                self._predictions[key] = ""
                yield numbers[key], error
                continue
            if waiting and (waiting[0].study != ready.study or len(waiting) == writer.options.batch_size):
                yield from self._flush(writer, waiting, numbers)
            waiting.append(ready)
        yield from self._flush(writer, waiting, numbers)

    def save(self) -> None:
        """Write the studies that have a prediction, in one step.

        Raises:
            OutputError: if the file cannot be written.
        """
        content = {
            key: {**entry, KEY: self._predictions[key]}
            for key, entry in self._entries.items()
            if key in self._predictions
        }
        write_whole(self._output, (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode(), overwrite=True)
        self._saved = time.monotonic()

    def _flush(
        self, writer: ReportWriter, waiting: list[_Ready], numbers: dict[str, int]
    ) -> Iterator[tuple[int, ReadError | None]]:
        """Write the reports of studies of one kind."""
        if not waiting:
            return
        batch = [(one.frontal, one.context) for one in waiting]
        for number, part in writer.stream_batch(batch, waiting[0].study):
            if not isinstance(part, str):
                self._predictions[waiting[number].key] = prediction(part.text)
        for one in waiting:
            yield numbers[one.key], None
        waiting.clear()
        if time.monotonic() - self._saved > _EVERY:
            self.save()

    def _prepared(self, key: str, writer: ReportWriter, config: Description, places: frozenset[str]) -> _Ready:
        """Read the images of a study. A lateral that cannot be read is left out.

        Raises:
            ReadError: if there is no frontal image, or it is refused.
        """
        entry = self._entries[key]
        read = partial(writer.read, config.preprocessing)
        frontal, lateral = _images(entry)
        if frontal is None:
            raise ReadError("missing", "the study names no frontal image")
        image = writer.read(config.preprocessing, self._source(frontal), True)  # the file says what is frontal
        context = []
        if lateral is not None and "lateral" in places:
            try:
                context.append(("lateral", prepare("lateral", self._source(lateral), read, force=True)))
            except ReadError:
                lateral = None
        derived = FORMS["ReXrank"].derived(entry, "the file")
        texts = {name: str(derived.get(name) or "") for name in _TEXTS if name in places}
        given: dict[str, Any] = {name: text for name, text in texts.items() if text and not is_no_answer(text)}
        return _Ready(key, Study(lateral=bool(context), **given), image, context)

    def _source(self, image: str) -> Source:
        return Source(1, path=self._images / image.lstrip("/"))


def _images(entry: Entry) -> tuple[str | None, str | None]:
    """Return the frontal and the lateral image of a study; without ``key_image_path`` the first frontal one."""
    key, found, views = (entry.get(name) for name in ("key_image_path", "image_path", "frontal_lateral"))
    images = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]
    same = isinstance(views, list) and len(views) == len(images)
    sides = [view_of(str(view)) for view in views] if same and isinstance(views, list) else [""] * len(images)
    if not isinstance(key, str):
        key = next((image for image, side in zip(images, sides, strict=True) if side in FRONTAL), None)
        key = key or next((image for image, side in zip(images, sides, strict=True) if side != "lateral"), None)
    pairs = zip(images, sides, strict=True)
    return key, next((image for image, side in pairs if side == "lateral" and image != key), None)


def _read(file: Path, what: str) -> dict[str, Entry]:
    """Read a file of ReXrank.

    Raises:
        LlavaRadError: if it is none; no content is quoted.
    """
    try:
        found = read_json(file, limit=_LARGEST)
    except FileNotFoundError:
        raise LlavaRadError(f"{what} does not exist") from None
    except (OSError, ValueError) as error:
        raise LlavaRadError(f"{what} cannot be read as JSON ({type(error).__name__})") from error
    named = isinstance(found, dict) and all(
        isinstance(entry, dict) and ("key_image_path" in entry or "image_path" in entry) for entry in found.values()
    )
    if not named or not found:
        raise LlavaRadError(f"{what} is no file of ReXrank", hint="it is a JSON object of studies with key_image_path")
    entries: dict[str, Entry] = found
    return entries
