"""Compare the project with independent packages on drawn cases.

    python -m scripts.differential [SUBJECT ...] [--cases N] [--seed S] [--minutes M] [-o results.json] [--keep FOLDER]

Prints the seed first, a new one each time. ``-o`` writes counts after every part, and a file that exists is continued
with its seed, so that a long run can be done in parts. ``--keep`` writes each case with a fault as a file; put into
``tests/scripts/differential_cases``, it is compared by the tests from then on. Exit code 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
from pathlib import Path

from scripts.differential import dicom, documents, harness, prompts, rasters, scores, tables
from scripts.differential.harness import Subject, Tally

SUBJECTS: dict[str, Subject] = {
    module.SUBJECT.name: module.SUBJECT for module in (dicom, rasters, tables, scores, prompts, documents)
}
CASES = 100_000
_PARTS = 50
_SHOWN = 6


def shares(names: list[str], cases: int) -> dict[str, int]:
    """Return the number of cases of each subject; a subject alone gets all."""
    whole = sum(SUBJECTS[name].share for name in names)
    return {name: round(cases * SUBJECTS[name].share / whole) for name in names}


def report(tallies: dict[str, Tally], seed: int) -> str:
    """Return the counts as text."""
    lines = []
    for name, tally in tallies.items():
        cases = f"{tally.cases:,} cases" + (f" and {tally.fixed} files" if tally.fixed else "")
        lines.append(f"{name} against {SUBJECTS[name].oracles}: {cases}, {tally.cpu_s / 60:.1f} CPU minutes")
        lines += [f"  {count:7,}  {kind}" for kind, count in tally.kinds.most_common(_SHOWN)]
        rest = tally.kinds.most_common()[_SHOWN:]
        lines += [f"  {sum(count for _, count in rest):7,}  {len(rest)} other outcomes"] if rest else []
        lines += [f"  FAULT in case {number}: {kind}" for number, kind in tally.faults[:20]]
    total = sum(tally.cases for tally in tallies.values())
    faults = sum(len(tally.faults) for tally in tallies.values())
    cpu = sum(tally.cpu_s for tally in tallies.values()) / 60
    return "\n".join([*lines, f"seed {seed}: {total:,} cases, {cpu:.1f} CPU minutes, {faults:,} faults"])


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print its counts."""
    parser = argparse.ArgumentParser(prog="differential", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"{', '.join(SUBJECTS)} (all)")
    parser.add_argument("--cases", type=int, default=CASES, metavar="N", help=f"cases over all ({CASES:,})")
    parser.add_argument("--seed", type=int, help="of the cases; by default a new one")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no further part after this time")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="counts; an existing file is continued")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write each case with a fault there")
    options = parser.parse_args(arguments)
    names = options.subjects or list(SUBJECTS)
    if unknown := [name for name in names if name not in SUBJECTS]:
        parser.error(f"no subject {unknown[0]}: choose of {', '.join(SUBJECTS)}")
    seed, tallies = secrets.randbelow(1 << 32), dict[str, Tally]()
    if options.output and options.output.exists():
        seed, tallies = harness.load(options.output)
        if options.seed not in (None, seed):
            parser.error(f"{options.output} is of seed {seed}")
    elif options.seed is not None:
        seed = options.seed
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # it logs every damaged file
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    for part in range(1, _PARTS + 1):  # all subjects advance together, so that a run that is cut has seen each
        for name, wanted in shares(names, options.cases).items():
            if end is not None and time.monotonic() > end:
                break
            tally = tallies.setdefault(name, Tally())
            harness.run(SUBJECTS[name], seed, max(0, wanted * part // _PARTS - tally.cases), tally, keep=options.keep)
            if options.output:
                harness.save(options.output, seed, tallies)
    print(report(tallies, seed))
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
