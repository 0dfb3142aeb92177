"""Write synthetic chest radiographs in the folder layouts of public data sets.

python scripts/make_phantom.py OUT                                   # all layouts, 40 studies each: about 370 images
python scripts/make_phantom.py --layout mimic-cxr,iu-xray --n 300 --size 512 --seed 0 OUT
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project's root holds the package `scripts`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.phantom.cohort import Request
from scripts.phantom.files import Truth, write_text
from scripts.phantom.findings import KINDS
from scripts.phantom.layouts import LAYOUTS

_NOTE = (
    "Synthetic chest radiographs drawn by scripts/make_phantom.py: no patient, no hospital, no acquisition.\n"
    "Folder and column names follow the public data sets so that readers can be tested; the contents are invented.\n"
    "truth/ says what was drawn: findings, labels, boxes and masks per image.\n"
)


def make_dataset(
    out: Path,
    layouts: Sequence[str],
    *,
    studies: int = 200,
    size: int = 512,
    seed: int = 0,
    only: Sequence[str] | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Write the layouts below `out`; the same arguments give the same bytes.

    Args:
        out: target folder.
        layouts: keys of LAYOUTS.
        studies: per layout.
        size: image height in pixels.
        seed: of all random choices.
        only: findings that may occur; None is all.
        force: replaces a folder that is not empty.

    Returns:
        layout -> number of images.

    Raises:
        FileExistsError: if `out` is a file, or not empty and `force` is False. Nothing is changed then.
    """
    if out.exists() and not (out.is_dir() and (force or not any(out.iterdir()))):
        raise FileExistsError(f"{out} exists and is not an empty folder (--force replaces it)")
    work = out.parent / f".{out.name}.{os.getpid()}.part"
    counts: dict[str, int] = {}
    try:
        work.mkdir(parents=True)
        for name in layouts:
            truth = Truth(work, name)
            LAYOUTS[name].write(Request(work, studies, size, seed, truth, None if only is None else tuple(only)))
            counts[name] = truth.close()
        write_text(work / "truth" / "README.txt", _NOTE)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Write the data and print one line per layout; returns the exit code."""
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
