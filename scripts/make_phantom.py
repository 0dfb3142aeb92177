"""Writes synthetic chest radiographs in the folder layouts of public data sets.

python scripts/make_phantom.py OUT                                   # all layouts, 40 studies each: about 370 images
python scripts/make_phantom.py --layout mimic-cxr,iu-xray --n 300 --size 512 --seed 0 OUT
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project's root holds the package `scripts`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.phantom.dataset import make_dataset
from scripts.phantom.findings import KINDS
from scripts.phantom.layouts import LAYOUTS


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, writes the data and prints one line per layout; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make_phantom.py", description="Synthetic chest radiographs in the layouts of public data sets."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder; must be absent or empty")
    parser.add_argument("--layout", default="all", help=f"comma-separated: all, {', '.join(LAYOUTS)} (default: all)")
    parser.add_argument("--n", type=int, default=40, help="studies per layout (default: 40)")
    parser.add_argument("--size", type=int, default=512, help="image height in pixels (default: 512)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument("--findings", help=f"comma-separated: only these occur, of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--force", action="store_true", help="replace a folder that is not empty")
    args = parser.parse_args(arguments)
    names = list(LAYOUTS) if args.layout == "all" else [name.strip() for name in args.layout.split(",") if name.strip()]
    unknown = [name for name in names if name not in LAYOUTS]
    if unknown or not names:
        parser.error(f"unknown layout {', '.join(unknown) or '(none)'}; known: {', '.join(LAYOUTS)}")
    if args.n < 1 or not 64 <= args.size <= 4096:
        parser.error("--n must be at least 1 and --size between 64 and 4096")
    only = None if args.findings is None else [kind.strip() for kind in args.findings.split(",") if kind.strip()]
    if only is not None and (not only or not set(only) <= KINDS.keys()):
        parser.error(f"--findings: choose from {', '.join(KINDS)}")
    start = time.perf_counter()
    try:
        counts = make_dataset(
            args.out, names, studies=args.n, size=args.size, seed=args.seed, only=only, force=args.force
        )
    except FileExistsError as error:
        print(f"make_phantom.py: {error}", file=sys.stderr)
        return 1
    for name, images in counts.items():
        print(f"{name}: {args.n} studies, {images} images")
    print(f"{sum(counts.values())} images in {time.perf_counter() - start:.1f} s -> {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
