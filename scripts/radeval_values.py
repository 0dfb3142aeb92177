"""Write the values that RadEval 2.2.1 gives to random reports with small random weights; a test compares ours.

    python -m scripts.radeval_values --peer-python PEER/bin/python tests/metrics/radeval.json

PEER is an environment of its own with ``pip install radeval==2.2.1``. Weights and reports depend on a seed alone
(``scripts/radeval_standins.py``), so that the test makes the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from scripts.bench.worker import Worker
from scripts.radeval_standins import write

METRICS = ["radcliq", "radgraph", "f1chexbert", "bertscore", "ratescore"]
REPORTS, WORDS = 12, 14
_PACKAGES = ("radeval", "torch", "transformers", "scikit-learn", "medspacy", "PyRuSH")
_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def main(argv: list[str] | None = None) -> None:
    """Run RadEval and write its values."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--peer-python", required=True, help="interpreter of the environment that has RadEval")
    made.add_argument("output", type=Path)
    options = made.parse_args(argv)
    versions = json.loads(subprocess.check_output([options.peer_python, "-c", _VERSIONS, *_PACKAGES]))
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= write(Path(folder) / "weights").environment
        values = ask(options.peer_python, {"metrics": METRICS, "reports": REPORTS, "words": WORDS})
    found = {
        "made by": "python -m scripts.radeval_values --peer-python PEER/bin/python tests/metrics/radeval.json",
        "versions": versions, "reports": REPORTS, "words": WORDS, "values": values,
    }  # fmt: skip
    options.output.write_text(json.dumps(found, indent=1) + "\n")


def ask(python: str, order: dict[str, Any]) -> dict[str, list[float]]:
    """Return RadEval's values of single reports, those of RadCliQ's parts under ``radcliq_PART``."""
    settings = json.dumps({"device": "cpu", "threads": 1, **order})
    with Worker(python, "scripts.bench.metrics_peer", [settings], 1) as worker:
        values = worker.ask("scores")
        return values | {f"radcliq_{name}": column for name, column in worker.ask("parts").items()}


if __name__ == "__main__":
    main()
