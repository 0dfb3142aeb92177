"""Measure the report model out of fold: five models, each judged on the patients that it has not seen.

    python -m scripts.report_folds --data DATA --encoder WORK/runs/high --output FOLDS [--jobs 2] [--more kermany]

All NIH images of the splits train and val are divided into five folds by patient. For each fold, a report model is
trained as by ``scripts/train_demo.py`` on the others, of which 15 % of the patients choose the epoch. It is compared
with a linear probe of the same features, written by the grammar from the levels with the best F1, and with the report
that is always normal. FOLDS holds the features (computed once), a file for each fold (a finished one is not trained
again), and ``results.json`` with the scores over all images and 95 % intervals by patient.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import LlavaRadError
from encoder.files import write
from encoder.preprocessing import RECIPES
from encoder.probing.logistic import FOLDS, folds
from encoder.probing.vectors import identity
from scripts.demo import abstention, evaluate, features, grammar, nih, pretraining
from scripts.demo.more_cases import more_cases
from scripts.demo.nih import Case
from scripts.grow_encoder import log
from scripts.train_demo import RECIPE, load_backbone, make_tokens

if TYPE_CHECKING:
    import torch

    from scripts.demo.model import TrainingConfig


def all_cases(data: Path, work: Path, more: Sequence[str], most: int) -> tuple[list[Case], list[Case]]:
    """Read NIH's cases of both splits, and training cases of further sets."""
    folder = data / pretraining.SETS["nih"][1]
    judged = [*nih.read_cases(folder, "train"), *nih.read_cases(folder, "val")]
    if not more:
        return judged, []
    manifests = pretraining.write_manifests(data, work / "manifests")
    return judged, [case for name in more for case in more_cases(name, manifests, most)]


def compute_features(cases: Sequence[Case], encoder: str, views: int, file: Path) -> torch.Tensor:
    """Compute the patch features [N, views, patches, width] of all cases, or read those of an earlier call."""
    import torch

    from encoder.backbones.loading import in_fastest_form
    from encoder.runs.processor import fast_type

    recipe, backbone = RECIPES[RECIPE], load_backbone(encoder)
    backbone.half().float()
    digest, none = identity(backbone), torch.zeros(0, 1, 1)
    if file.is_file():
        return features.load(file, digest, (len(cases), views), 0)[0]
    vision = in_fastest_form(backbone, size=recipe.size, device="cpu", dtype=fast_type())
    found = features.encode(vision, recipe, [case.path for case in cases], views=views)
    features.save(file, digest, found, none)
    return found


def run_fold(
    number: int, judged: Sequence[Case], more: Sequence[Case], given: torch.Tensor, config: TrainingConfig
) -> dict[str, Any]:
    """Train on the other folds and write reports of this one.

    Args:
        number: of the fold.
        judged: N cases, divided into folds.
        more: M cases that are trained on in every fold.
        given: [N + M, views, patches, width].
        config: of the training.

    Returns:
        Place of each judged case, its report, that of the probe, and the findings that cannot be judged.
    """
    from llava_rad.model.familiarity import Familiarity
    from scripts.demo.model import Model
    from scripts.demo.training import Trainer

    fold = folds([case.patient for case in judged])
    inside = [place for place in range(len(judged)) if fold[place] != number]
    outside = [place for place in range(len(judged)) if fold[place] == number]
    place_of = {case.path: place for place, case in enumerate([*judged, *more])}
    fit, held = nih.hold_out([judged[place] for place in inside], salt=f"fold {number}")
    fit = [*fit, *more]

    def of(cases: Sequence[Case]) -> torch.Tensor:
        return given[[place_of[case.path] for case in cases]]

    tokens = make_tokens(fit, config.seed)
    model = Model.create(config, given.shape[3], tokens, given.shape[2])
    levels = abstention.levels(Familiarity.describe(of(fit)[:, 0]), fit)
    Trainer(model, config, of(fit), fit, of(held)[:, 0], held, levels, log).run()
    reports = model.generate(given[outside][:, 0])
    described = [Familiarity.describe(given[places][:, 0]) for places in (inside, outside)]
    findings = abstention.fit(described[0], [judged[place] for place in inside])
    unsure: list[list[str]] = [[] for _ in outside]
    probe = [""] * len(outside)
    if findings is not None:
        unsure = [list(names) for names in findings.unsure(described[1])]
        present = (findings.probabilities(described[1]) >= findings.high).tolist()
        named = [[name for name, one in zip(findings.phrases, row, strict=True) if one] for row in present]
        rng = np.random.default_rng(0)
        probe = [grammar.text_of(grammar.write(names, {}, rng)) for names in named]
    return {"places": outside, "reports": reports, "probe": probe, "unsure": unsure}


def summarise(judged: Sequence[Case], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score the reports of all folds together.

    Args:
        judged: N cases.
        found: of ``run_fold`` for each fold.

    Raises:
        LlavaRadError: if a case has no report, or two.
    """
    places = [place for fold in found for place in fold["places"]]
    if sorted(places) != list(range(len(judged))):
        raise LlavaRadError("the folds do not have one report of each image", hint="use another output folder")
    cases = [judged[place] for place in places]
    truth, patients = [case.labels for case in cases], [case.patient for case in cases]
    systems = {
        "report model": [text for fold in found for text in fold["reports"]],
        "linear probe": [text for fold in found for text in fold["probe"]],
        "always normal": evaluate.always_normal(len(cases)),
    }
    results: dict[str, Any] = {"images": len(cases), "patients": len(set(patients))}
    for name, reports in systems.items():
        results[name] = evaluate.with_interval(reports, truth, patients)
    unsure = [names for fold in found for names in fold["unsure"]]
    results["abstention"] = abstention.measure(systems["report model"], truth, unsure, grammar.PHRASES)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run all folds, or one; the exit code is 0, or that of an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' folders")
    parser.add_argument("--encoder", required=True, help="as --encoder of llava-rad")
    parser.add_argument("--output", type=Path, required=True, help="folder of features, folds and results")
    parser.add_argument("--views", type=int, default=2, help="cached views of a training image [2]")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training images [8]")
    parser.add_argument("--more", action="append", default=[], help="also train on this set: kermany, covid")
    parser.add_argument("--most", type=int, default=150, help="cases of each class of such a set [150]")
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time, each on one thread [2]")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="this fold alone, in this process")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test the path")
    options = parser.parse_args(argv)
    try:
        judged, more = all_cases(options.data, options.output, options.more, options.most)
        file = options.output / "features.safetensors"
        options.output.mkdir(parents=True, exist_ok=True)
        if options.fold is None:
            compute_features([*judged, *more], options.encoder, options.views, file)
            _run_all(list(argv if argv is not None else sys.argv[1:]), options.output, options.jobs)
            found = [json.loads(_file(options.output, number).read_bytes()) for number in range(FOLDS)]
            results = summarise(judged, found)
            write(options.output / "results.json", json.dumps(results, indent=2) + "\n")
            for name in ("report model", "linear probe", "always normal"):
                one = results[name]
                log(f"{name}: macro-F1 {one['macro_f1']:.3f}, micro-F1 {one['micro_f1']:.3f}, "
                    f"no finding {one['no_finding_f1']:.3f}")  # fmt: skip
        else:
            _one(options, judged, more, file)
    except LlavaRadError as error:
        print(f"error: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def _one(options: argparse.Namespace, judged: Sequence[Case], more: Sequence[Case], file: Path) -> None:
    import torch

    from scripts.demo.model import TrainingConfig

    torch.set_num_threads(1)
    config = TrainingConfig().tiny() if options.tiny else replace(TrainingConfig(), epochs=options.epochs)
    given = compute_features([*judged, *more], options.encoder, options.views, file)
    found = run_fold(options.fold, judged, more, given, config)
    write(_file(options.output, options.fold), json.dumps(found) + "\n")


def _run_all(arguments: list[str], output: Path, jobs: int) -> None:
    """Run the folds that have no result yet, several at a time."""
    waiting = [number for number in range(FOLDS) if not _file(output, number).is_file()]
    while waiting:
        some, waiting = waiting[:jobs], waiting[jobs:]
        begun = [
            subprocess.Popen([sys.executable, "-m", "scripts.report_folds", *arguments, "--fold", str(number)])
            for number in some
        ]
        log(f"folds {', '.join(map(str, some))} of {FOLDS}")
        codes = [process.wait() for process in begun]
        if any(codes):
            raise LlavaRadError("a fold failed", hint="its message is above; the same command goes on")


def _file(output: Path, number: int) -> Path:
    return output / f"fold-{number}.json"


if __name__ == "__main__":
    raise SystemExit(main())
