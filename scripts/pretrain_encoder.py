"""Pre-trains an image encoder on chest radiographs; the same as ``llava-rad pretrain``, for launchers that want a file.

    torchrun --nproc-per-node 8 scripts/pretrain_encoder.py --config rad-dino --output RUN 'data.manifests=[a.csv]'
    accelerate launch scripts/pretrain_encoder.py --config rad-dino --output RUN 'data.manifests=[a.csv]'

docs/pretraining.md is the guide.
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

    command_line(["pretrain", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    main()
