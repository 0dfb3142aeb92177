"""Reference points: scores of reports that were not written for the image, as a lower bound for models.

Most frequent report, random report, report of the nearest neighbour, a model's own reports assigned to other
patients, and the patient's earlier report. A metric that does not distinguish a model from these says little about it.
Reports come from the training split if there is one, otherwise from other patients of the scored split; the results
state which.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from encoder.errors import LlavaRadError, ReadError
from llava_rad.outputs.files import write_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.benchmark.images import Images
    from llava_rad.benchmark.task import Case
    from llava_rad.benchmark.writing import Processes
    from llava_rad.generation.engine import Engine

    Floats = npt.NDArray[np.float32]

MOST_FREQUENT: Final = "most-frequent"
RANDOM: Final = "random"
NEAREST: Final = "nearest-neighbour"
SHUFFLED: Final = "shuffled"
PRIOR: Final = "prior-report"
POINTS: Final = (MOST_FREQUENT, RANDOM, NEAREST, SHUFFLED, PRIOR)
DESCRIPTIONS: Final = {
    MOST_FREQUENT: "the most frequent report for every image",
    RANDOM: "the report of a random other patient",
    NEAREST: "the report of the image that is nearest by the encoder's image vector (cosine)",
    SHUFFLED: "the model's own reports, each for another patient's image",
    PRIOR: "the earlier report of the same patient, copied, where there is one",
}
_ROWS = 512  # of similarities at a time
CHUNK = 32
"""Images per file of vectors, and per batch of the encoder."""


def most_frequent(cases: Sequence[Case], bank: Sequence[Case]) -> list[str]:
    """Return for each case the most frequent report of other patients; ties: the first in the bank."""
    counts = Counter(case.reference for case in bank)
    ranked = sorted(counts, key=counts.__getitem__, reverse=True)  # stable sort: ties keep the order of the bank
    own: dict[str, Counter[str]] = {}
    for case in bank:
        own.setdefault(case.patient, Counter())[case.reference] += 1
    texts = []
    for case in cases:
        less = own.get(case.patient, Counter())
        best, most = "", 0
        for text in ranked:
            if counts[text] <= most:
                break
            if counts[text] - less[text] > most:
                best, most = text, counts[text] - less[text]
        texts.append(_given(best))
    return texts


def random(cases: Sequence[Case], bank: Sequence[Case], seed: int) -> list[str]:
    """Return for each case a report of another patient, which depends on the seed and the case's id only."""
    texts = []
    for case in cases:
        digest = hashlib.sha256(f"{seed}/{case.id}".encode()).digest()
        start = int.from_bytes(digest[:8], "big") % len(bank)
        others = (bank[(start + step) % len(bank)] for step in range(len(bank)))
        texts.append(_given(next((other.reference for other in others if other.patient != case.patient), "")))
    return texts


def nearest(cases: Sequence[Case], features: Floats, bank: Sequence[Case], bank_features: Floats) -> list[str]:
    """Return for each case the report of another patient's image with the largest cosine similarity; ties: the first.

    Args:
        cases: N cases.
        features: [N, D] of the cases; a row of NaN (unreadable image) gives an empty text.
        bank: M cases.
        bank_features: [M, D] of the bank; rows of NaN are ignored.
    """
    import numpy as np

    def unit(vectors: Floats) -> Floats:
        lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        return vectors / lengths

    usable = np.asarray(np.isfinite(bank_features).all(axis=1))
    known = np.where(usable[:, None], bank_features, 0)
    keys = unit(known)
    of_patient: dict[str, list[int]] = {}
    for row, case in enumerate(bank):
        of_patient.setdefault(case.patient, []).append(row)
    texts = []
    for start in range(0, len(cases), _ROWS):
        similar = unit(features[start : start + _ROWS]) @ keys.T
        similar[:, ~usable] = -np.inf
        for row, case in zip(similar, cases[start : start + _ROWS], strict=True):
            row[of_patient.get(case.patient, [])] = -np.inf
            best = int(row.argmax())  # the first NaN, where there is one
            texts.append(bank[best].reference if np.isfinite(row[best]) else "")
    return texts


def shuffled(cases: Sequence[Case], texts: Sequence[str], seed: int) -> list[str]:
    """Assign each of a model's reports to a case of another patient; the score shows the worth of looking at images.

    Every report is used once; it goes to another patient if no patient has more than half of the cases.
    """
    order = sorted(range(len(cases)), key=lambda row: hashlib.sha256(f"{seed}/{cases[row].id}".encode()).digest())
    # cases grouped by patient, in random order: a rotation by the largest group gives everyone another patient's
    groups: dict[str, list[int]] = {}
    for row in order:
        groups.setdefault(cases[row].patient, []).append(row)
    line = [row for rows in groups.values() for row in rows]
    step = max(map(len, groups.values()))
    dealt = [""] * len(cases)
    for position, row in enumerate(line):
        dealt[row] = texts[line[(position + step) % len(line)]]
    return dealt


def chunks(cases: Sequence[Case], folder: Path) -> list[tuple[Path, Sequence[Case]]]:
    """Return the files of image vectors with the cases of each."""
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
    """Compute and write this process's share of the missing files of image vectors.

    Args:
        engine: loads the model; called once, if a file is missing.
        cases: with images.
        folder: of the files.
        processes: of the run.
        images: prepares the images.
        advance: receives numbers of completed cases.
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
        readable = [one.image.pixels for one in batch if not isinstance(one.image, ReadError)]
        vectors = np.full((len(chunk), model.vision.width), np.nan, np.float32)
        if readable:
            with torch.inference_mode():
                found = model.vision(model.recipe.normalise(np.stack(readable)).to(model.device)).cls
            rows = [not isinstance(one.image, ReadError) for one in batch]
            vectors[rows] = found.float().cpu().numpy()
        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        write_whole(file, buffer.getvalue(), overwrite=True)
        advance(len(chunk))


def read_features(cases: Sequence[Case], folder: Path) -> Floats:
    """Read the vectors [N, D] of the cases; a row of NaN stands for an unreadable image.

    Raises:
        LlavaRadError: if a file is missing, damaged or of other images.
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


def _given(text: str) -> str:
    if not text:
        raise LlavaRadError("all reports are of one patient: there are no others to take reference points from")
    return text
