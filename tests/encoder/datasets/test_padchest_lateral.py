"""PadChest's lateral subset: who is positive, who is drawn as negative, and what is unknown."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.datasets.padchest import FINDINGS
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint
from scripts.make_phantom import make_dataset

VDC, PE, CAB = FINDINGS
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def read(root: Path, seed: int = 0) -> list[Row]:
    rows, missing = DATASETS["padchest-lateral"].rows(root, seed=seed)
    assert missing == 0
    disjoint(rows)
    return rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """40 lateral images with none of the findings, 4 VDC, 3 PE of which one with CAB, and what must not be drawn."""
    labels = ["['normal']"] * 20 + ["['cardiomegaly']"] * 20
    labels += [f"['{VDC}']"] * 3 + [f"['{VDC}', 'scoliosis']"] + [f"['{PE}']"] * 2 + [f"['{PE}', '{CAB}']"]
    labels += ["['unchanged']", "['exclude']", "['suboptimal study', 'cardiomegaly']", "[]", "nan"] * 20
    lines = [f'{i},{i}.png,0,s{i},p{i // 2},L,"{text}"' for i, text in enumerate(labels)]
    lines += [f"{900 + i},{900 + i}.png,0,s{900 + i},q{i},PA,\"['{VDC}']\"" for i in range(5)]
    (tmp_path / TABLE).write_text(",ImageID,ImageDir,StudyID,PatientID,Projection,Labels\n" + "\n".join(lines) + "\n")
    for i in range(1000):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    return tmp_path


def test_as_many_negatives_as_positives(root: Path) -> None:
    rows = read(root)
    assert {row.view for row in rows} == {"lateral"}
    assert {row.dataset for row in rows} == {"padchest"}
    assert all(set(row.labels) == set(FINDINGS) for row in rows)
    for finding, number in ((VDC, 4), (PE, 3), (CAB, 1)):
        values = Counter(row.labels[finding] for row in rows)
        assert (values[1.0], values[0.0]) == (number, number)
        assert all(int(row.image[:-4]) < 40 for row in rows if row.labels[finding] == 0), "none that says nothing"
    (both,) = [row for row in rows if row.labels[CAB] == 1]
    assert (both.labels[PE], both.labels[VDC]) == (1.0, None), "a positive is no negative of another finding"
    assert all(any(value is not None for value in row.labels.values()) for row in rows)


def test_the_seed_draws_the_negatives(root: Path) -> None:
    def negatives(seed: int, finding: str = VDC) -> set[str]:
        return {row.image for row in read(root, seed) if row.labels[finding] == 0}

    assert negatives(1) == negatives(1)
    assert len({frozenset(negatives(seed)) for seed in range(5)}) > 1
    assert any(not negatives(seed, PE) <= negatives(seed) for seed in range(3)), "each finding draws its own"
    drawn = {image for seed in range(60) for image in negatives(seed)}
    assert len(drawn) > 35, "every one of the 40 can be drawn"


def test_phantoms(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, ["padchest"], studies=60, size=64, seed=5)
    rows = read(out / "padchest", seed=2)
    lines = (out / "truth" / "padchest.jsonl").read_text().splitlines()
    truth = {str(out / record["image"]): record for record in map(json.loads, lines)}
    kinds = {VDC: "vertebral degeneration", PE: "pleural effusion", CAB: "costophrenic blunting"}
    lateral = {path: record for path, record in truth.items() if record["view"] == "LATERAL"}
    for finding, kind in kinds.items():
        positive = {p for p, record in lateral.items() if kind in {f["kind"] for f in record["findings"]}}
        assert {str(r.path) for r in rows if r.labels[finding] == 1} == positive
        negative = {str(r.path) for r in rows if r.labels[finding] == 0}
        free = {p for p, r in lateral.items() if not {f["kind"] for f in r["findings"]} & set(kinds.values())}
        assert negative <= free
        assert len(negative) == min(len(positive), len(free))
        assert positive
    subjects = Counter(split for _, split in {(row.subject, row.split) for row in rows})
    total = sum(subjects.values())
    assert subjects == {"train": round(0.8 * total), "val": round(0.1 * total), "test": total - round(0.9 * total)}
