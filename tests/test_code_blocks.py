"""Run the code blocks of README and guides that need no weights and no data sets."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest
from llava_rad.generation.sources import example
from tests.llava_rad import small_files
from tests.llava_rad.published import rad_dino_folder
from tests.source_tree import ROOT
from tests.test_tutorials import follow

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BEFORE = {"pretraining.md 1": 'import shutil\nshutil.copy("b.png", "image.png")\n'}
"""Code that a block presupposes."""
LEFT_OUT = {"vllm.md 1": "needs vLLM in an environment of its own"}
PYTHON = [
    f"{path.name} {number}"
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if not path.name.startswith(("tutorial", "how-to"))  # those are followed from end to end
    for number, _ in enumerate(re.findall("^```python", path.read_text("utf-8"), re.MULTILINE), 1)
]


def block(language: str, name: str) -> str:
    """A document's block: README.md 1 is the first in README in that language."""
    file, number = name.split()
    path = ROOT / file if file == "README.md" else ROOT / "docs" / file
    found = [text for kind, text in BLOCK.findall(path.read_text("utf-8")) if kind == language]
    return str(found[int(number) - 1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the blocks name."""
    shutil.copy(example(), tmp_path / "image.dcm")
    small_files.dicom(tmp_path / "a.dcm", seed=1)
    Image.effect_noise((320, 300), 60).save(tmp_path / "b.png")
    for name in ("study/series", "more"):
        (tmp_path / name).mkdir(parents=True)
        small_files.dicom(tmp_path / name / "c.dcm", seed=len(name))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, folder: Path) -> None:
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    if name.startswith("pretraining"):
        export = rad_dino_folder(folder / "runs" / "my-run" / "export")
        processor = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56}
        (export / "preprocessor_config.json").write_text(json.dumps(processor))
    if name == "python.md 5":
        images = [(folder / f"{n}.png", n) for n in range(12)]
        for path, n in images:
            small_files.picture(path, seed=n)
        rows = [
            Row(path, "own", f"p{n}", image=f"i{n}", split="test" if n > 7 else "train", labels={"A": float(n % 2)})
            for path, n in images
        ]
        write_manifest(rows, folder / "labelled.csv")
    printed = follow(folder, "python", BEFORE.get(name, "") + block("python", name))
    if name.startswith("README"):
        assert len(printed.splitlines()) == 2
    if name == "python.md 1":
        assert printed.startswith("(1, 384) [")
    if name == "python.md 2":
        assert Image.open(folder / "attention.png").size[0] > 4 * 224
    if name == "python.md 4":
        assert "rouge_l 0." in printed and ", p " in printed
    if name == "python.md 5":
        assert printed.startswith("{'A': [")


@pytest.mark.slow
def test_the_engineers_block(folder: Path) -> None:
    text = next(text for _, text in BLOCK.findall((ROOT / "README.md").read_text("utf-8")) if "generate - " in text)
    follow(folder, "bash", text)
    assert (folder / "reports.jsonl").read_text().count("\n") == 2


@pytest.mark.slow
def test_documents_for_the_archive(folder: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("llava-rad generate") and "-f sr" in line)
    follow(folder, "bash", line)
    kinds = sorted(path.name.split(".", 1)[1] for path in (folder / "documents").iterdir())
    assert kinds == ["labels.dcm", "report.dcm"]
