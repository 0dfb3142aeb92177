"""Table 2 with one command; the same as ``llava-rad benchmark``, for launchers that want a file.

    python scripts/benchmark.py --dataset iu-xray --data IU --model my-model --output RESULTS
    torchrun --nproc-per-node 8 scripts/benchmark.py --dataset mimic-cxr-jpg --data MIMIC --model M --output RESULTS

docs/benchmark.md is the guide.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(arguments: list[str] | None = None) -> None:
    """Hands the arguments over; always ends in SystemExit.

    Args:
        arguments: in place of ``sys.argv[1:]``.
    """
    from llava_rad.cli import main as command_line

    command_line(["benchmark", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    main()
