"""Pre-train RAD-DINO-S for 110,000 image views and measure the encoder on the way.

    python -m scripts.grow_encoder --data DATA --output WORK [--controls] [--views 100000] [--views-224 10000]

DATA is the folder of ``scripts/train_demo.py``. Steps, each resumed by the same command:

  trial     four settings (``scripts/demo/growth.py``), two at a time, ranked by probes of training patients;
            ``WORK/choice.json`` holds the ranking and the choice, which may be edited before the next step
  low       the run at 112 px, six encoders on the way
  high      the run at 224 px that continues it, two encoders
  curve     probes of every encoder, and of the mean of the first and the last one's weights, paired with DINOv2-S:
            ``WORK/curve.md``, ``curve.json``, ``curve.png``
  controls  with --controls: without MIM, from scratch, without RSNA's images, and unchanged, each at a third of the
            views: ``WORK/controls.md``

The encoder is in ``WORK/runs/high/export``, the mean in ``WORK/encoders/mean``, as ``--encoder`` of every command
takes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from encoder.errors import LlavaRadError
from encoder.files import write
from encoder.preprocessing import RECIPES
from encoder.runs.metrics_log import read_metrics
from scripts.compare_encoders import table
from scripts.demo import curve, growth, pretraining
from scripts.demo.growth import CANDIDATES, HIGH, LOW, Plan, Point

START = "DINOv2-S"
RECIPE = "rad-dino-224"
STEPS = ("trial", "low", "high", "curve")


def log(line: str) -> None:
    """Print a line with the time of the day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


class Growth:
    """The steps in one folder.

    Args:
        data: folder of the data sets.
        work: folder of everything that is written.
        plan: sizes of the runs.
    """

    def __init__(self, data: Path, work: Path, plan: Plan) -> None:
        import torch

        torch.set_num_threads(plan.threads)
        self.work, self.runs, self.plan = work, work / "runs", plan
        self.manifests = pretraining.write_manifests(data, work / "manifests")
        self.trained_on = growth.permitted(self.manifests, work / "manifests")

    def trial(self) -> str:
        """Try the candidates, unless ``choice.json`` is there; return the chosen one."""
        file = self.work / "choice.json"
        if not file.is_file():
            folders = {name: self.runs / f"trial-{name}" for name in CANDIDATES}
            waiting = list(folders.items())
            while waiting:
                # the first run builds the cache of images that all share; a run alone would leave a core idle
                pair, waiting = waiting[: self.plan.threads], waiting[self.plan.threads :]
                self._together({folder: self._settings("trial", name) for name, folder in pair})
            points = {name: growth.export_points(folder, self._encoders)[-1] for name, folder in folders.items()}
            questions = self._questions(choosing=True)
            encoders = {START: pretraining.START} | {name: str(point.folder) for name, point in points.items()}
            found = curve.compare(
                questions, curve.measure_all(questions, encoders, self.work / "measured" / "choosing", log)
            )
            ranking = {name: round(curve.strength(found.gains[name]), 3) for name in points}
            best = max(ranking, key=lambda name: ranking[name])
            write(self.work / "trial.md", table(found.scores, found.gains))
            write(file, json.dumps({"chosen": best, "mean gain in standard errors": ranking}, indent=2) + "\n")
        chosen = growth.choice(file)
        log(f"settings: {chosen}")
        self._expect(chosen)
        return chosen

    def _expect(self, chosen: str) -> None:
        """Log the expected time of the run at 112 px, by the speed of the trial, in which every thread had a run."""
        run = self.runs / f"trial-{chosen}"
        lines = read_metrics(run) if run.is_dir() else []
        if speeds := [line["images_per_s"] for line in lines if "images_per_s" in line]:
            minutes = self.plan.low / (speeds[-1] * self.plan.threads) / 60
            log(f"about {minutes:.0f} minutes for {self.plan.low} views at 112 px; --views changes their number")

    def long(self, run: str, chosen: str) -> None:
        """Run or resume ``LOW`` or ``HIGH``."""
        self._together({self.runs / run: self._settings(run, chosen)})

    def points(self) -> list[Point]:
        """Export the encoders of both long runs, in the order of their views."""
        low = growth.export_points(self.runs / LOW, self._encoders)
        high = growth.export_points(self.runs / HIGH, self._encoders, low[-1].views) if low else []
        return [*low, *high]

    def measure_curve(self) -> str:
        """Measure all encoders, and the mean of the weights of the start and the last one.

        Returns:
            The table, which is written next to numbers and picture.
        """
        points = self.points()
        encoders = {START: pretraining.START} | {point.name: str(point.folder) for point in points}
        mean = self._encoders / "mean"
        if not mean.is_dir():
            growth.average(pretraining.START, str(points[-1].folder), mean)
        encoders["mean of first and last"] = str(mean)
        text, found = self._compare(encoders, "curve")
        curve.draw(found, points, self.work / "curve.png")
        return text

    def controls(self, chosen: str) -> str:
        """Train the controls at a third of the views, and compare them with the same settings at as many."""
        plan = self.plan.third()
        encoders = {START: pretraining.START}
        for control in (growth.EQUAL, *growth.CONTROLS):
            named = control if control in growth.CONTROLS else None
            arguments = growth.settings(LOW, chosen, plan, self.trained_on, self.runs, named)
            self._together({self.runs / control: arguments})
            encoders[control] = str(growth.export_points(self.runs / control, self._encoders)[-1].folder)
        return self._compare(encoders, "controls")[0]

    def _compare(self, encoders: Mapping[str, str], name: str) -> tuple[str, curve.Curve]:
        questions = self._questions()
        found = curve.compare(questions, curve.measure_all(questions, encoders, self.work / "measured", log))
        text = table(found.scores, found.gains)
        numbers = {part: {one: {q: asdict(v) for q, v in of.items()} for one, of in getattr(found, part).items()}
                   for part in ("scores", "gains")}  # fmt: skip
        write(self.work / f"{name}.json", json.dumps(numbers, indent=2) + "\n")
        write(self.work / f"{name}.md", text)
        return text, found

    @property
    def _encoders(self) -> Path:
        return self.work / "encoders"

    def _questions(self, *, choosing: bool = False) -> curve.Questions:
        cache = self.work / "prepared"
        return curve.Questions.of(self.manifests, RECIPES[RECIPE], cache, choosing=choosing)

    def _settings(self, run: str, candidate: str) -> list[str]:
        return growth.settings(run, candidate, self.plan, self.trained_on, self.runs)

    def _together(self, runs: Mapping[Path, Sequence[str]]) -> None:
        threads = max(1, self.plan.threads // len(runs))
        log("pre-training " + ", ".join(run.name for run in runs))
        begun = {run: growth.begin(run, arguments, threads) for run, arguments in runs.items()}
        for run, process in begun.items():
            growth.finish(run, process)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; the exit code is 0, or that of an error."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' folders")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs, encoders and results")
    parser.add_argument("--views", type=int, default=usual.low, help=f"image views at 112 px [{usual.low}]")
    parser.add_argument("--views-224", type=int, default=usual.high, help=f"image views at 224 px [{usual.high}]")
    parser.add_argument("--trial-views", type=int, default=usual.trial, help=f"of each setting [{usual.trial}]")
    parser.add_argument("--points", type=int, default=usual.low_points, help=f"encoders at 112 px [{usual.low_points}]")
    parser.add_argument("--batch", type=int, default=usual.batch, help=f"images a step at 112 px [{usual.batch}]")
    parser.add_argument("--threads", type=int, default=usual.threads, help=f"processor threads [{usual.threads}]")
    parser.add_argument("--settings", choices=list(CANDIDATES), help="use these settings, without a trial")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="last step [curve]")
    parser.add_argument("--controls", action="store_true", help="also train and compare the controls")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of llava-rad pretrain for every run"
    )
    options = parser.parse_args(argv)
    plan = Plan(
        options.views, options.views_224, options.trial_views, options.points, usual.high_points, options.batch,
        options.threads, tuple(options.set),
    )  # fmt: skip
    try:
        growing = Growth(options.data, options.output, plan)
        chosen = options.settings or growing.trial()
        last = STEPS.index(options.until)
        for run in (LOW, HIGH)[:last]:
            growing.long(run, chosen)
        if options.until == "curve":
            print(growing.measure_curve(), end="")
            if options.controls:
                print(growing.controls(chosen), end="")
    except LlavaRadError as error:
        print(f"error: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
