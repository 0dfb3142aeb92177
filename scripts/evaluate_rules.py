"""Evaluate the labeler ``rules`` against the two human gold standards of Open-i's reports, or against judged sentences.

    python scripts/evaluate_rules.py path/to/iu_xray_reports
    python scripts/evaluate_rules.py tests/metrics/rules/sentences.csv

The folder holds ``reports.jsonl`` with findings, impression, NegBio's gold labels and the manual MeSH codes. Phrases
were tuned on the reports whose uid has an even SHA-256; by default the scores are those of the others. The table of
sentences has the columns ``kind``, ``sentence``, ``labels`` and ``reason``; phrases were tuned on the sentences whose
SHA-256 begins with an even digit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.labeler import label, weights_id

# Classes of NegBio's gold (those of ChestX-ray14) that CheXpert defines alike, and those with a similar definition.
SAME = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation",
    "Edema": "Edema", "Effusion": "Pleural Effusion", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
NEAR = {
    ("Mass", "Nodule"): "Lung Lesion",
    ("Infiltration",): "Lung Opacity",
    ("Pleural_Thickening",): "Pleural Other",
    ("normal",): "No Finding",
}
# Manual MeSH codes: heads of codes, each with a word that the rest must contain.
MESH: dict[str, tuple[tuple[str, str], ...]] = {
    "Cardiomegaly": (("Cardiomegaly", ""), ("Cardiac Shadow", "enlarged"), ("Heart", "enlarged")),
    "Lung Opacity": (
        ("Opacity", ""), ("Airspace Disease", ""), ("Infiltrate", ""), ("Density", "lung"),
        ("Markings", "interstitial"), ("Lung Diseases, Interstitial", ""),
    ),
    "Atelectasis": (("Pulmonary Atelectasis", ""), ("Volume Loss", "")),
    "Fracture": (("Fractures, Bone", ""),),
    "Consolidation": (("Consolidation", ""),),
    "Pleural Effusion": (("Pleural Effusion", ""), ("Hydropneumothorax", "")),
    "Pneumothorax": (("Pneumothorax", ""), ("Hydropneumothorax", "")),
    "Edema": (("Pulmonary Edema", ""), ("Pulmonary Congestion", ""), ("Heart Failure", "")),
    "No Finding": (("normal", ""),),
    "Support Devices": (
        ("Implanted Medical Device", ""), ("Medical Device", ""), ("Catheters, Indwelling", ""),
        ("Tube, Inserted", ""), ("Stents", ""),
    ),
    "Pneumonia": (("Pneumonia", ""),),
    "Lung Lesion": (("Nodule", ""), ("Mass", ""), ("Cavitation", "")),
}  # fmt: skip


class Row(NamedTuple):
    """Counts of one class."""

    tp: int
    fp: int
    fn: int

    @property
    def support(self) -> int:
        return self.tp + self.fn

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else 0.0


def read(folder: Path, half: str) -> list[dict[str, Any]]:
    """Return the reports with text of one half: ``tune``, ``report`` or ``all``."""
    with (folder / "reports.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    wanted = {"tune": (0,), "report": (1,), "all": (0, 1)}[half]
    return [row for row in rows if parity(row["uid"]) in wanted and text_of(row)]


def parity(uid: str) -> int:
    """Half of a report: 0 or 1."""
    return hashlib.sha256(uid.encode()).digest()[-1] % 2


def text_of(row: dict[str, Any]) -> str:
    """Return findings and impression."""
    return "\n\n".join(row[name] for name in ("findings", "impression") if row.get(name))


def openi(row: dict[str, Any]) -> dict[str, bool] | None:
    """NegBio's gold labels by CheXpert class; None where there are none."""
    gold = row.get("cxr14_gold")
    if gold is None:
        return None
    found = {ours: bool(gold[theirs]) for theirs, ours in SAME.items()}
    return found | {ours: any(gold[one] for one in theirs) for theirs, ours in NEAR.items()}


def mesh(row: dict[str, Any]) -> dict[str, bool] | None:
    """Manual codes by CheXpert class; None for a report without codes."""
    codes = [code.split("/", 1) for code in row.get("mesh_major") or []]
    if not codes or codes[0][0] == "No Indexing":
        return None
    return {
        name: any(code[0] == head and word in "/".join(code[1:]) for code in codes for head, word in heads)
        for name, heads in MESH.items()
    }


def table(
    rows: Iterable[dict[str, Any]], gold: Callable[[dict[str, Any]], dict[str, bool] | None], *, uncertain: bool
) -> dict[str, Row]:
    """Count agreement by class.

    Args:
        rows: reports.
        gold: labels of a report, or None.
        uncertain: count uncertain labels as positive.
    """
    positive = {POSITIVE, UNCERTAIN} if uncertain else {POSITIVE}
    counts: dict[str, list[int]] = {}
    for row in rows:
        truth = gold(row)
        if truth is None:
            continue
        codes = label(text_of(row))
        for name, there in truth.items():
            found = codes[CLASSES.index(name)] in positive
            one = counts.setdefault(name, [0, 0, 0])
            one[0] += found and there
            one[1] += found and not there
            one[2] += there and not found
    return {name: Row(*one) for name, one in counts.items()}


def macro(rows: dict[str, Row], classes: Iterable[str]) -> float:
    """Return the mean F1 of classes."""
    values = [rows[name].f1 for name in classes]
    return sum(values) / len(values)


CODES = {"positive": POSITIVE, "negative": NEGATIVE, "uncertain": UNCERTAIN, "absent": BLANK}


class Sentence(NamedTuple):
    """A sentence judged by hand: the code of each named class, and whether phrases were tuned on it."""

    kind: str
    text: str
    codes: dict[str, int]
    reason: str
    tuning: bool


def read_sentences(path: Path) -> list[Sentence]:
    """Read a table of judged sentences; labels are written ``Edema: negative; Fracture: absent``."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Sentence(
                row["kind"],
                row["sentence"],
                {name: CODES[code] for name, code in (part.split(": ") for part in row["labels"].split("; "))},
                row["reason"],
                int(hashlib.sha256(row["sentence"].encode()).hexdigest()[0], 16) % 2 == 0,
            )
            for row in csv.DictReader(file)
        ]


def agreement(sentences: Iterable[Sentence]) -> tuple[int, int]:
    """Count the judged labels that the labeler gives, and all of them."""
    pairs = [(label(one.text)[CLASSES.index(name)], code) for one in sentences for name, code in one.codes.items()]
    return sum(found == code for found, code in pairs), len(pairs)


def print_sentences(sentences: list[Sentence], half: str) -> None:
    """Print the agreement by kind."""
    wanted = [one for one in sentences if half == "all" or one.tuning == (half == "tune")]
    print(f"{weights_id()}; {len(wanted)} sentences ({half})\n{'kind':<30}{'labels':>8}{'right':>8}")
    kinds = sorted({one.kind for one in wanted})
    for kind, rows in (*((kind, [one for one in wanted if one.kind == kind]) for kind in kinds), ("all", wanted)):
        right, total = agreement(rows)
        print(f"{kind:<30}{total:>8}{right / total:>8.1%}")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with reports.jsonl, or table of judged sentences (.csv)")
    parser.add_argument("--half", choices=("tune", "report", "all"), default="report")
    options = parser.parse_args(arguments)
    if options.folder.suffix == ".csv":
        print_sentences(read_sentences(options.folder), options.half)
        return
    if not (options.folder / "reports.jsonl").is_file():
        sys.exit(f"{options.folder} has no reports.jsonl")
    rows = read(options.folder, options.half)
    begin = time.process_time()
    for row in rows:
        label(text_of(row))
    spent = time.process_time() - begin
    print(f"{weights_id()}; {len(rows):,} reports ({options.half}); {1000 * spent / len(rows):.2f} ms each")
    for title, gold, same in (
        ("Open-i gold (NegBio)", openi, tuple(SAME.values())),
        ("manual MeSH codes", mesh, tuple(MESH)),
    ):
        strict, loose = (table(rows, gold, uncertain=choice) for choice in (False, True))
        print(f"\n{title}\n{'class':<28}{'n':>6}{'prec':>8}{'recall':>8}{'F1':>8}{'F1 (uncertain +)':>18}")
        for name in (*same, *(name for name in strict if name not in same)):
            one = strict[name]
            shown = name if name in same else f"({name})"
            print(
                f"{shown:<28}{one.support:>6,}{one.precision:>8.3f}{one.recall:>8.3f}{one.f1:>8.3f}"
                f"{loose[name].f1:>18.3f}"
            )
        print(f"{'macro-F1, ' + str(len(same)) + ' classes':<50}{macro(strict, same):>8.3f}{macro(loose, same):>18.3f}")
    print("\nIn brackets: classes with different definitions; not in the macro-F1.")


if __name__ == "__main__":
    main()
