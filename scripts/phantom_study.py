"""Train a report model on studies of phantoms over time, and show what it makes of lateral, prior and indication.

    python scripts/phantom_study.py OUT          # half an hour on two processor cores

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
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.phantom.statements import KINDS, best_guess, changes, counts, guessed
from scripts.phantom_training import command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_rad.model.templates import Study
    from llava_rad.reports.pairs import Pair
    from scripts.phantom.statements import Statements

Made = TypeVar("Made")
INPUTS = ("lateral", "prior", "prior_report", "indication")
TRAINING = (
    f"study.inputs=[{', '.join(INPUTS)}]",
    "study.leave_out=0.25",
    "model.recipe=rad-dino-112",
    "model.scratch.num_hidden_layers=4",
    "data.max_length=640",
    "optimization.epochs=12",
    "engine.checkpoint_every=400",
    "evaluation.max_pairs=48",
    "evaluation.samples=0",
)
"""Changes to the configuration `tiny`."""
GROUPED = 20
"""Patients whose DICOM files ``generate --group`` is given."""
CHANGES, LATERAL, CLAIMS = 0.85, 0.85, 0.01
"""Least F1 of changes with the prior and of findings of the lateral, largest share of reports that invent a prior."""


@dataclass(frozen=True)
class Given:
    """Inputs of one run of the model over the held-out studies.

    Attributes:
        names: of INPUTS, each where a study has it.
        others: those of them that are another patient's; a prior report goes with its prior.
    """

    names: tuple[str, ...] = INPUTS
    others: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name in tables and of files."""
        return " + ".join(
            ["frontal", *(f"other {name}" if name in self.others else name for name in self.names)]
        ).replace("_", " ")


COMBINATIONS = tuple(
    Given((*lateral, *prior, *indication))
    for prior, lateral, indication in product(
        ((), ("prior",), ("prior", "prior_report")), ((), ("lateral",)), ((), ("indication",))
    )
)
ALL, NO_PRIOR, NO_LATERAL, NO_TEXT, IMAGES = (
    Given(),
    Given(("lateral", "indication")),
    Given(("prior", "prior_report", "indication")),
    Given(("lateral", "prior", "prior_report")),
    Given(("lateral", "prior")),
)
OTHER_PRIOR, OTHER_LATERAL, OTHER_INDICATION = (Given(others=(name,)) for name in ("prior", "lateral", "indication"))
RUNS = (*COMBINATIONS, OTHER_PRIOR, OTHER_LATERAL, OTHER_INDICATION)
NEEDS = {"changes": "prior", "extents": "", "behind": "lateral", "answers": "indication"}
"""Kind of statement -> the input of the studies on which it is measured."""


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
        of = "prior" if name == "prior_report" else name
        source = context
        if of in given.others and getattr(context, of):
            source = pairs[donors(pairs, of)[number]].context
        value = getattr(source, name)
        if value and (name != "prior_report" or context.prior):
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
    features: dict[Path, Any] = {}
    found: dict[Given, list[str]] = {}
    for given in runs:
        file = home / f"{given.label}.json"
        if not file.is_file():
            features = features or _features(engine, pairs)
            texts = _texts(engine, features, [study_of(pairs, number, given) for number in range(len(pairs))])
            with writing(file, "w") as stream:
                json.dump(texts, stream, indent=1)
        found[given] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _features(engine: Any, pairs: Sequence[Pair]) -> dict[Path, Any]:
    """Encode every image once: its patch features [1, N, D]."""
    from encoder.reader.sandbox import Reader

    paths = {path for pair in pairs for path in (pair.row.path, pair.context.lateral, pair.context.prior) if path}
    with Reader() as reader:
        return {
            path: engine.encode_images(reader.prepare(path, engine.recipe, force=True).pixels[None])
            for path in sorted(paths)
        }


def _texts(engine: Any, features: Mapping[Path, Any], studies: Sequence[tuple[list[Path], Study]]) -> list[str]:
    """Decode greedily, in batches of prompts of similar length."""
    import torch

    from llava_rad.generation.decoding import _decode, draft
    from llava_rad.generation.options import Decoding
    from llava_rad.outputs.report import clean

    order = sorted(range(len(studies)), key=lambda number: (len(studies[number][0]), len(str(studies[number][1]))))
    texts = [""] * len(studies)
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        patches = torch.cat([features[path] for number in some for path in studies[number][0]])
        prompts = [engine.config.conversation.with_study(studies[number][1]) for number in some]
        rows: list[list[int]] = [[] for _ in some]
        for tokens in _decode(engine, *engine.embed(patches, prompts), Decoding()):
            for row, token in tokens:
                rows[row].append(token)
        for number, row in zip(some, rows, strict=True):
            texts[number] = clean(draft(engine, row).text).strip()
    return texts


def f1(found: Sequence[Statements], true: Sequence[Statements], patients: Sequence[str]) -> dict[str, float | None]:
    """Return the micro-F1 of statements with its 95 % interval by patient, and the number of true ones."""
    import numpy as np

    from metrics.bootstrap import Bootstrap
    from metrics.scores import Scores

    def of_sums(sums: NDArray[np.float64], numbers: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        right, false, missed = (sums[..., column] for column in range(3))
        return {"f1": 2 * right / np.maximum(2 * right + false + missed, 1e-12)}

    bootstrap, counted = Bootstrap(), counts(found, true)
    interval = bootstrap.by_patient(Scores(counted, of_sums, {}, "statements"), bootstrap.patients(patients))["f1"]
    return {
        "f1": interval.point, "low": interval.low, "high": interval.high, "statements": int(counted[:, [0, 2]].sum()),
    }  # fmt: skip


def share(values: Sequence[bool], patients: Sequence[str]) -> dict[str, float | None]:
    """Return the share of reports for which something is true, with its interval by patient."""
    import numpy as np

    from metrics.bootstrap import Bootstrap
    from metrics.scores import mean_scores

    if not values:
        return {"share": None, "low": None, "high": None, "reports": 0}
    bootstrap, scores = Bootstrap(), mean_scores({"share": np.array(values, np.float64)}, "share")
    found = bootstrap.by_patient(scores, bootstrap.patients(patients))["share"]
    return {"share": found.point, "low": found.low, "high": found.high, "reports": len(values)}


def measure(pairs: Sequence[Pair], texts: Mapping[Given, Sequence[str]], trained_on: Sequence[Pair]) -> dict[str, Any]:
    """Measure all runs and the reference points against the true reports.

    Args:
        pairs: held-out studies.
        texts: reports of each run.
        trained_on: training studies, of which the best guess is made.
    """
    from llava_rad.reports.comparisons import comparing

    rows = {kind: [n for n, pair in enumerate(pairs) if not need or getattr(pair.context, need)]
            for kind, need in NEEDS.items()}  # fmt: skip
    true = {kind: [KINDS[kind](pairs[n].findings) for n in rows[kind]] for kind in rows}
    patients = {kind: [pairs[n].row.subject for n in rows[kind]] for kind in rows}
    measured = []
    for given, written in texts.items():
        one: dict[str, Any] = {
            kind: f1([KINDS[kind](written[n]) for n in rows[kind]], true[kind], patients[kind]) for kind in rows
        }
        alone = [n for n, pair in enumerate(pairs) if "prior" not in given.names or not pair.context.prior]
        claims = share([bool(comparing(written[n])) for n in alone], [pairs[n].row.subject for n in alone])
        measured.append({"inputs": given.label, **one, "claims": claims})
    later = rows["changes"]
    guesses = best_guess([pair.findings for pair in trained_on if pair.context.prior])
    points = {
        "copy of the prior report": [changes(pairs[n].context.prior_report) for n in later],
        "best guess without a prior": [guessed(pairs[n].findings, guesses) for n in later],
    }
    there = sum(map(len, true["behind"])) / max(1, len(true["behind"]))
    return {
        "patients": len({pair.row.subject for pair in pairs}),
        "studies": {"all": len(pairs), **{need: len(rows[kind]) for kind, need in NEEDS.items() if need}},
        "runs": measured,
        "reference points": {name: f1(found, true["changes"], patients["changes"]) for name, found in points.items()},
        "chance of lateral": 2 * there / (1 + there),  # F1 of a report that always has the finding
    }


def check(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare what was measured with the aims."""
    of = {one["inputs"]: one for one in found["runs"]}

    def value(given: Given, kind: str) -> float:
        return float(of[given.label][kind]["f1"] or 0.0)

    with_prior, without = value(ALL, "changes"), value(NO_PRIOR, "changes")
    cost, gain = with_prior - value(OTHER_PRIOR, "changes"), with_prior - without
    copied = float(found["reference points"]["copy of the prior report"]["f1"] or 0.0)
    claims = max(one["claims"]["share"] for one in found["runs"] if one["claims"]["reports"])
    rows: list[tuple[str, float, str, float]] = [
        ("F1 of changes with the prior", with_prior, ">=", CHANGES),
        ("its gain over the same model without the prior", gain, ">", 0.0),
        ("its gain over a copy of the prior report", with_prior - copied, ">", 0.0),
        ("share of the gain that another patient's prior costs", cost / gain if gain > 0 else 0.0, ">=", 0.5),
        ("F1 of the finding of the lateral, with it", value(ALL, "behind"), ">=", LATERAL),
        ("the same without a lateral, against chance", value(NO_LATERAL, "behind"), "<=", found["chance of lateral"]),
        ("reports that claim a comparison without a prior", claims, "<=", CLAIMS),
    ]  # fmt: skip
    holds: dict[str, Callable[[float, float], bool]] = {
        ">=": lambda one, limit: one >= limit,
        ">": lambda one, limit: one > limit,
        "<=": lambda one, limit: one <= limit,
    }
    return [
        {"aim": aim, "value": round(number, 4), "limit": f"{sign} {limit:.4g}", "met": holds[sign](number, limit)}
        for aim, number, sign, limit in rows
    ]


def table(found: Mapping[str, Any]) -> str:
    """Write all runs, reference points and aims as Markdown; scores times 100."""

    def cell(value: Mapping[str, Any], name: str = "f1") -> str:
        if value[name] is None:
            return "-"
        bounds = "" if value["low"] is None else f" ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
        return f"{100 * value[name]:.1f}{bounds}"

    lines = ["| inputs | changes | finding of the lateral | answers | extents | invented comparisons |"]
    lines.append("|---|---|---|---|---|---|")
    for one in found["runs"]:
        cells = [cell(one[kind]) for kind in ("changes", "behind", "answers", "extents")]
        lines.append(f"| {' | '.join([one['inputs'], *cells, cell(one['claims'], 'share')])} |")
    for name, value in found["reference points"].items():
        lines.append(f"| {name} | {cell(value)} | | | | |")
    lines += ["", "| aim | measured | limit | |", "|---|---|---|---|"]
    lines += [
        f"| {one['aim']} | {one['value']:.3f} | {one['limit']} | {'met' if one['met'] else 'missed'} |"
        for one in found["aims"]
    ]
    return "\n".join(lines) + "\n"


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


def run(out: Path, patients: int, size: int, overrides: Sequence[str]) -> dict[str, Any]:
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
        timed("phantoms", lambda: write(data, patients, size))
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
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration `tiny`")
    options = parser.parse_intermixed_args(arguments)  # changes may stand between options
    if options.n < 20:
        parser.error("--n must be at least 20, so that there are several held-out patients")
    begin, out = time.perf_counter(), options.out.resolve()
    result = run(out, options.n, options.size, options.overrides)
    result["minutes"] = round((time.perf_counter() - begin) / 60, 1)
    result["passed"] = all(one["met"] for one in result["aims"])
    for name, text in (("results.json", json.dumps(result, indent=2) + "\n"), ("results.md", table(result))):
        with writing(out / name, "w") as stream:
            stream.write(text)
    print(table(result), end="")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
