"""Spelling of all sources by typos, and prose of documents and docstrings by proselint."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.referees.programs import program
from tests.source_tree import PACKAGES, ROOT, python_files

pytestmark = pytest.mark.referee

OPINIONS = {
    "typography": "Markdown and docstrings are plain text: straight quotes, three full stops, 3x; resume is no résumé",
    "misc.phrasal_adjectives.ly": "lightly-train is a name",
    "dates_times": "takes 'SHA-256 among' for a time of day and '95 % interval, from 1,000' for years",
    "needless_variants: Needless variant. 'discriminating'": "Fisher's linear discriminant has this name",
}
"""Checks of proselint whose results are left out, with the reason."""


def prose(text: str) -> str:
    """Replace code, links and names of arguments by words that occur once; lines keep their numbers."""
    number = itertools.count()
    text = re.sub(
        r"```.*?```", lambda block: f"q{next(number):05}z" + "\n" * block[0].count("\n"), text, flags=re.DOTALL
    )
    text = re.sub(r"(`+)[^`]+?\1", lambda code: f"q{next(number):05}z" + "\n" * code[0].count("\n"), text)
    text = re.sub(r"^\s+\*{0,2}\w+:", lambda _: f"q{next(number):05}z:", text, flags=re.MULTILINE)
    return re.sub(r"\]\([^)]*\)|https?://\S+", lambda _: f"] q{next(number):05}z ", text)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_typos_finds_no_misspelt_word() -> None:
    done = subprocess.run(
        [program("typos"), "--format", "brief"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout.splitlines(), done.returncode) == ([], 0), "add words of the field to [tool.typos]"


def test_typos_reads_documents_and_docstrings(tmp_path: Path) -> None:
    files = {"README.md": "The recieved image.\n", "module.py": '"""Recieve an image."""\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [program("typos"), "--config", str(ROOT / "pyproject.toml"), "--format", "brief", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert sorted(line.split(":")[0].removeprefix("./") for line in done.stdout.splitlines()) == sorted(files)


def test_proselint_has_no_objection(tmp_path: Path) -> None:
    documents = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.name != "reference.md"]
    texts = {path: path.read_text("utf-8") for path in documents}  # the reference is made of docstrings
    texts |= {path: "\n\n".join(docstrings(path)) for path in python_files(*PACKAGES)}
    for path, text in texts.items():
        (tmp_path / f"{'.'.join(path.relative_to(ROOT).parts)}.txt").write_text(prose(text), encoding="utf-8")
    (tmp_path / "planted.txt").write_text("A very unique result, for ever.\n", encoding="utf-8")
    command = [program("proselint"), "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    results = [line.removeprefix(f"{tmp_path}/") for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    found = [one for one in results if not any(f": {name}" in one for name in OPINIONS)]
    assert {one.split(": ")[1] for one in found if "planted.txt" in one} == {
        "uncomparables",
        "weasel_words.very",
        "archaism",
    }
    assert [one for one in found if "planted.txt" not in one] == []
