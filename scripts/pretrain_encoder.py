"""Pre-trains an image encoder on chest radiographs; the same as ``llava-rad pretrain``, for launchers that want a file.

    torchrun --nproc-per-node 8 scripts/pretrain_encoder.py --config rad-dino --output RUN 'data.manifests=[a.csv]'
    accelerate launch scripts/pretrain_encoder.py --config rad-dino --output RUN 'data.manifests=[a.csv]'

docs/pretraining.md is the guide.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from llava_rad.cli import main

    sys.argv.insert(1, "pretrain")
    main()
