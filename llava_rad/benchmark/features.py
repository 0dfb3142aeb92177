"""The encoder's vector of every image, in files of fixed chunks: shared by processes, resumed chunk by chunk."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ReadError
from llava_rad.benchmark.processes import Processes
from llava_rad.benchmark.task import Case
from llava_rad.benchmark.writing import Images
from llava_rad.outputs.files import write_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.generation.engine import Engine

CHUNK = 32
"""Images in a file, and in a batch of the encoder."""


def chunks(cases: Sequence[Case], folder: Path) -> list[tuple[Path, Sequence[Case]]]:
    """The files and what belongs into them."""
    starts = range(0, len(cases), CHUNK)
    return [(folder / f"{number:06}.npy", cases[start : start + CHUNK]) for number, start in enumerate(starts)]


def write_features(
    engine: Callable[[], Engine],
    cases: Sequence[Case],
    folder: Path,
    processes: Processes,
    images: Images,
    advance: Callable[[int], None] = lambda number: None,
) -> None:
    """Write this process's share of the files that are not there.

    Args:
        engine: called once, if anything is missing.
    """
    import numpy as np
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    mine = chunks(cases, folder)[processes.rank :: processes.size]
    missing = [(file, chunk) for file, chunk in mine if not file.is_file()]
    advance(sum(len(chunk) for _, chunk in mine) - sum(len(chunk) for _, chunk in missing))
    if not missing:
        return
    model = engine()
    prepared = images.batches([chunk for _, chunk in missing], model.recipe)
    for (file, chunk), batch in zip(missing, prepared, strict=True):
        readable = [image for _, image in batch if not isinstance(image, ReadError)]
        vectors = np.full((len(chunk), model.vision.width), np.nan, np.float32)
        if readable:
            with torch.inference_mode():
                found = model.vision(model.recipe.normalise(np.stack(readable)).to(model.device)).cls
            rows = [not isinstance(image, ReadError) for _, image in batch]
            vectors[rows] = found.float().cpu().numpy()
        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        write_whole(file, buffer.getvalue(), overwrite=True)
        advance(len(chunk))


def read_features(cases: Sequence[Case], folder: Path) -> npt.NDArray[np.float32]:
    """[N, D] vectors of the cases; a row of NaN where the image could not be read.

    Raises:
        LlavaRadError: a file is missing or damaged.
    """
    import numpy as np

    parts = []
    for file, chunk in chunks(cases, folder):
        try:
            part = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise LlavaRadError(
                f"the features in {file.name} cannot be read", hint="remove the file, and run again"
            ) from None
        if part.shape[0] != len(chunk):
            raise LlavaRadError(
                f"the features in {file.name} are of other images", hint="remove the folder of features"
            )
        parts.append(part)
    return np.concatenate(parts)
