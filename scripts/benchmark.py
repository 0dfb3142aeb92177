"""Table 2 with one command; the same as ``llava-rad benchmark``, for launchers that want a file.

    python scripts/benchmark.py --dataset iu-xray --data IU --model my-model --output RESULTS
    torchrun --nproc-per-node 8 scripts/benchmark.py --dataset mimic-cxr-jpg --data MIMIC --model M --output RESULTS

docs/benchmark.md is the guide.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from llava_rad.cli import main

    sys.argv.insert(1, "benchmark")
    main()
