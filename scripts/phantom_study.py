"""Train a report model on studies of phantoms over time, and show what it makes of lateral, prior and indication.

    python scripts/phantom_study.py OUT          # about 40 minutes on two processor cores

Every step is the command of a user: llava-rad reports, train (with study.inputs), generate --group. The model then
writes about held-out patients with every combination of inputs, and with another patient's; statements of its reports
are compared with the true ones. Repeat the command to resume. The exit code is 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.phantom.measures import IMAGES, INPUTS, RUNS, Given, check, measure, table
from scripts.phantom_training import command

if TYPE_CHECKING:
    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.model.templates import Study
    from llava_rad.reports.pairs import Pair

Made = TypeVar("Made")
TRAINING = (
    f"study.inputs=[{', '.join(INPUTS)}]",
    "study.leave_out=0.15",
    "model.recipe=rad-dino-112",
    "model.scratch.num_hidden_layers=4",
    "data.max_length=640",
    "optimization.epochs=32",
    "optimization.batch_size=8",
    "optimization.micro_batch_size=8",
    "optimization.lr=8.0e-4",
    "engine.precision=bf16",
    "engine.checkpoint_every=600",
    "evaluation.max_pairs=48",
    "evaluation.samples=0",
)
"""Changes to the configuration `tiny`."""
GROUPED = 20
"""Patients whose DICOM files ``generate --group`` is given."""


def donors(pairs: Sequence[Pair], name: str) -> dict[int, int]:
    """Map the studies that have an input to the next study of another patient that has it."""
    having = [number for number, pair in enumerate(pairs) if getattr(pair.context, name)]
    found = {}
    for at, number in enumerate(having):
        rest = having[at + 1 :] + having[:at]
        found[number] = next(one for one in rest if pairs[one].row.subject != pairs[number].row.subject)
    return found


def study_of(pairs: Sequence[Pair], number: int, given: Given) -> tuple[list[Path], Study]:
    """Return the images of a study in their order, and its prompt's inputs."""
    from llava_rad.model.templates import Study

    context, images, found = pairs[number].context, [pairs[number].row.path], dict[str, Any]()
    for name in given.names:
        if not getattr(context, name):
            continue
        source = pairs[donors(pairs, name)[number]].context if name in given.others else context
        value = getattr(source, name)
        found[name] = True if isinstance(value, Path) else value
        images += [value] if isinstance(value, Path) else []
    return images, Study(**found)


def write_reports(model: Path, pairs: Sequence[Pair], runs: Sequence[Given], folder: Path) -> dict[Given, list[str]]:
    """Write the reports of all runs, or read those that an earlier start has written with this model.

    Returns:
        For each run the reports of the pairs, in their order.
    """
    from encoder.files import writing
    from llava_rad.generation.engine import Engine

    engine = Engine.from_pretrained(model)
    home = folder / engine.sha256[:16]
    home.mkdir(parents=True, exist_ok=True)
    pixels: dict[Path, Any] = {}
    found: dict[Given, list[str]] = {}
    for given in runs:
        file = home / f"{given.label}.json"
        if not file.is_file():
            pixels = pixels or _prepared(engine.recipe, pairs)
            texts = _texts(engine, pixels, [study_of(pairs, number, given) for number in range(len(pairs))])
            with writing(file, "w") as stream:
                json.dump(texts, stream, indent=1)
        found[given] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _prepared(recipe: Recipe, pairs: Sequence[Pair]) -> dict[Path, Any]:
    """Read every image once: its pixels [S, S] uint8."""
    from encoder.reader.sandbox import Reader

    paths = {path for pair in pairs for path in (pair.row.path, pair.context.lateral, pair.context.prior) if path}
    with Reader() as reader:
        return {path: reader.prepare(path, recipe, force=True).pixels for path in sorted(paths)}


def _texts(engine: Engine, pixels: Mapping[Path, Any], studies: Sequence[tuple[list[Path], Study]]) -> list[str]:
    """Decode greedily, in batches of prompts of similar length."""
    from llava_rad.generation.decoding import generate
    from llava_rad.outputs.report import clean

    order = sorted(range(len(studies)), key=lambda number: (len(studies[number][0]), len(str(studies[number][1]))))
    texts = [""] * len(studies)
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        images = [pixels[path] for number in some for path in studies[number][0]]
        drafts = generate(engine, images, studies=[studies[number][1] for number in some])
        for number, draft in zip(some, drafts, strict=True):
            texts[number] = clean(draft.text).strip()
    return texts


def agreement(data: Path, model: Path, pairs: Sequence[Pair], texts: Sequence[str], out: Path) -> dict[str, Any]:
    """Compare the reports of ``generate --group``, which finds laterals and priors by the DICOM headers.

    Args:
        data: folder of MIMIC-CXR's files.
        model: the checkpoint.
        pairs: held-out studies, by the SHA-256 of their image.
        texts: their reports from frontal, lateral and prior image.
        out: folder for the command's reports.
    """
    subjects = list(dict.fromkeys(pair.row.subject for pair in pairs))[:GROUPED]
    folders = [data / "files" / f"p{subject[:2]}" / f"p{subject}" for subject in subjects]
    written = out / "grouped.jsonl"
    how: list[str | Path] = ["--recursive", "--group", "--model", model, "-f", "jsonl", "-o", written]
    command("generate", *folders, *how, "--overwrite", "--quiet")
    lines = map(json.loads, written.read_text(encoding="utf-8").splitlines())
    found = {line["input"]["sha256"]: line["report"]["text"] for line in lines}
    wanted = {pair.row.image: text for pair, text in zip(pairs, texts, strict=True) if pair.row.subject in subjects}
    return {
        "studies": len(wanted),
        "reports": len(found),
        "same": sum(found.get(image) == text for image, text in wanted.items()),
    }


def run(out: Path, patients: int, size: int, overrides: Sequence[str], seed: int = 1) -> dict[str, Any]:
    """Run the whole chain; returns measurements, aims and the seconds of each step."""
    from llava_rad.reports.pairs import read_pairs
    from scripts.phantom.course import write

    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Made]) -> Made:
        begin = time.perf_counter()
        result = step()
        seconds[name] = round(time.perf_counter() - begin, 1)
        return result

    data, run_folder, studies, held_out = (out / name for name in ("data", "run", "studies.jsonl", "test.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        timed("phantoms", lambda: write(data, patients, size, seed))
    cxr = data / "mimic-cxr"
    both: list[str | Path] = ["reports", "mimic-cxr", cxr, "--tables", data / "mimic-cxr-jpg", "--overwrite"]
    print(timed("reports", lambda: command(*both, "-o", studies)), end="", file=sys.stderr)
    command(*both, "--split", "test", "--sha256", "-o", held_out)
    settings = [*TRAINING, *overrides, f"data.pairs=[{studies}]"]
    timed("training", lambda: command("train", "--config", "tiny", *settings, "-o", run_folder))
    pairs, model = read_pairs(held_out), run_folder / "model"
    texts = timed("generation", lambda: write_reports(model, pairs, RUNS, out / "reports"))
    trained_on = [pair for pair in read_pairs(studies) if pair.row.split == "train"]
    found = timed("evaluation", lambda: measure(pairs, texts, trained_on))
    found["generate --group"] = timed("group", lambda: agreement(cxr, model, pairs, texts[IMAGES], out))
    return {**found, "aims": check(found), "seconds": seconds}


def main(arguments: list[str] | None = None) -> int:
    """Run, write results.json and results.md, and print the latter; returns the exit code."""
    from encoder.files import writing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for data, run and results")
    parser.add_argument("--n", type=int, default=600, help="patients (default: 600)")
    parser.add_argument("--size", type=int, default=128, help="image height in pixels (default: 128)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the patients (default: 1; 0 was used for choosing settings)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration `tiny`")
    options = parser.parse_intermixed_args(arguments)  # changes may stand between options
    if options.n < 20:
        parser.error("--n must be at least 20, so that there are several held-out patients")
    begin, out = time.perf_counter(), options.out.resolve()
    result = run(out, options.n, options.size, options.overrides, options.seed)
    result["minutes"] = round((time.perf_counter() - begin) / 60, 1)
    result["passed"] = all(one["met"] for one in result["aims"])
    for name, text in (("results.json", json.dumps(result, indent=2) + "\n"), ("results.md", table(result))):
        with writing(out / name, "w") as stream:
            stream.write(text)
    print(table(result), end="")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
