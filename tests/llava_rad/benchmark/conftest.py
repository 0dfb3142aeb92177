"""A small data set with splits, patients and reports, and the command on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.forked import Command
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Ran, finished

TEST, TRAIN = 12, 4
METRICS = ("--metrics", "rouge_l,bleu_4,rules", "--bootstrap", "20", "--no-cache")
PRELOAD = (
    "llava_rad.cli", "llava_rad.generation.engine", "llava_rad.generation.decoding", "llava_rad.benchmark.results",
    "matplotlib.backends.backend_svg", "matplotlib.figure",
)  # fmt: skip
WORDS = ("The heart is enlarged.", "There is a pleural effusion.", "No pneumothorax.", "The lungs are clear.")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 12 test and 4 training images, two of each patient, with sex and age."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(TEST + TRAIN):
        name = small_files.dicom(folder / f"{number}.dcm", seed=number % 11).name
        text = " ".join(word for bit, word in enumerate(WORDS) if (number % 7 + 1) >> bit & 1)
        split = "test" if number < TEST else "train"
        rows.append(
            {"id": f"image-{number}", "image": name, "findings": text, "subject": f"p{number // 2}", "split": split}
            | {"sex": "FM"[number // 2 % 2], "age": 20 + 2 * number}
        )
    table = folder / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return table


def start(pairs: Path, output: Path, *arguments: str | Path, processes: int = 1) -> Command:
    """Start the command on the data set, in one process or in several that work together."""
    command = ["benchmark", "--dataset", "csv", "--data", pairs, "-o", output, *METRICS, *arguments]
    return Command(command, processes, PRELOAD)


def benchmark(pairs: Path, output: Path, *arguments: str | Path, processes: int = 1, code: int = 0) -> Ran:
    """Run the command to its end, which must have the exit code ``code``."""
    ran = finished(start(pairs, output, *arguments, processes=processes), timeout=300)
    assert ran.code == code, ran.err[-3000:]
    return ran


def contents(folder: Path, names: Sequence[str] = ()) -> dict[str, bytes]:
    """Files of a results folder by name, except those with times and the machine."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if name not in ("environment.json", "index.html", "digests.json", *names)
    }
