"""Train a report model on phantoms and score its reports on others, to test that the whole chain learns from images.

    python scripts/phantom_training.py OUT          # about a quarter of an hour on two processor cores

Every step is the command of a user: make_phantom.py, llava-rad reports, train, generate, evaluate. The score is the
micro-F1 of the labels (labeler `rules`) on held-out phantoms, and that of the same reports assigned to other images.
Repeat the command to resume. The exit code is 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FINDINGS = "cardiomegaly,pneumothorax,edema,pacemaker"
"""Findings that are visible at 168 pixels and stated without doubt. Masses, tried as a fifth, have an F1 of 0.64."""
MATCHED, SHUFFLED = 0.90, 0.50
"""Lowest micro-F1 of the reports, and highest of the same reports on other images."""


def command(*arguments: str | Path) -> str:
    """Run ``llava-rad``; its standard error is shown.

    Returns:
        Its standard output.
    """
    code = "from llava_rad.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def scores(predictions: Path, references: Path) -> dict[str, float]:
    """Label F1 and ROUGE-L of a file of predictions."""
    printed = command("evaluate", predictions, references, "--metrics", "rules,rouge_l", "-f", "json", "--no-cache")
    found = json.loads(printed)["models"][0]["scores"]
    return {name: found[name]["point"] for name in ("rules_micro_f1_14", "rules_macro_f1_14", "rouge_l")}


def assign_to_others(predictions: Path, output: Path) -> None:
    """Write the same reports, each with the name of the next image."""
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    inputs = [line["input"] for line in lines]
    with output.open("w", encoding="utf-8") as file:
        for line, other in zip(lines, [*inputs[1:], inputs[0]], strict=True):
            file.write(json.dumps({**line, "input": other}) + "\n")


def run(out: Path, studies: int, size: int, overrides: list[str]) -> dict[str, Any]:
    """Run the whole chain; returns scores and seconds of each step."""
    from scripts.make_phantom import main as make_phantom

    seconds: dict[str, float] = {}

    def timed(name: str, step: Any) -> Any:
        begin = time.perf_counter()
        result = step()
        seconds[name] = round(time.perf_counter() - begin, 1)
        return result

    data, run_folder = out / "data", out / "run"
    cxr, tables = data / "mimic-cxr", data / "mimic-cxr-jpg"
    pairs, truth, written, dealt = (
        out / name for name in ("pairs.jsonl", "test.jsonl", "reports.jsonl", "dealt.jsonl")
    )
    out.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        phantom = [str(data), "--layout", "mimic-cxr", "--n", str(studies), "--size", str(size), "--findings", FINDINGS]
        timed("phantoms", lambda: make_phantom(phantom))
    both: list[str | Path] = ["reports", "mimic-cxr", cxr, "--tables", tables, "--overwrite"]
    timed("reports", lambda: print(command(*both, "-o", pairs), end=""))
    command(*both, "--split", "test", "--sha256", "-o", truth)
    training: list[str | Path] = ["train", "--config", "tiny", f"data.pairs=[{pairs}]", *overrides, "-o", run_folder]
    timed("training", lambda: command(*training))
    images = [line["image"] for line in map(json.loads, truth.read_text(encoding="utf-8").splitlines())]
    batch: list[str | Path] = ["--batch-size", "16", "-f", "jsonl", "--quiet", "--overwrite", "-o", written]
    model: list[str | Path] = ["--model", run_folder / "model"]
    timed("generation", lambda: command("generate", *(out / name for name in images), *model, *batch))
    assign_to_others(written, dealt)
    matched, shuffled = timed("evaluation", lambda: (scores(written, truth), scores(dealt, truth)))
    return {"images": len(images), "matched": matched, "shuffled": shuffled, "seconds": seconds}


def main(arguments: list[str] | None = None) -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for data, run and results")
    parser.add_argument("--n", type=int, default=2400, help="studies (default: 2400)")
    parser.add_argument("--size", type=int, default=256, help="image height in pixels (default: 256)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the configuration `tiny`")
    options = parser.parse_intermixed_args(arguments)  # changes may stand between options
    begin = time.perf_counter()
    result = run(options.out.resolve(), options.n, options.size, options.overrides)
    result["minutes"] = round((time.perf_counter() - begin) / 60, 1)
    result["passed"] = (
        result["matched"]["rules_micro_f1_14"] >= MATCHED and result["shuffled"]["rules_micro_f1_14"] <= SHUFFLED
    )
    text = json.dumps(result, indent=2)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
