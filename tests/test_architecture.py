"""Floors of packages, import circles, heavy imports of ``--help``, and names at the top level."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.source_tree import PACKAGES, ROOT, imports, module_name, python_files

ALLOWED: dict[str, set[str]] = {
    "encoder": {"encoder"},
    "metrics": {"metrics"},
    "llava_rad": {"llava_rad", "encoder", "metrics"},
    "app": {"app", "llava_rad", "encoder", "metrics"},
    "scripts": {"scripts", "app", "llava_rad", "encoder", "metrics"},
}
OURS = {*PACKAGES, "tests"}
# Seconds each: a help text, a version and a usage error wait for none of them.
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "pydicom",
    "PIL",
    "gradio",
    "timm",
    "peft",
    "highdicom",
    "imagecodecs",
    "numpy",
}
TOP_LEVEL = {
    *PACKAGES, "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "SECURITY.md",
    "MODEL_CARD.md", "CONTRIBUTING.md", "Makefile",
}  # fmt: skip


def forbidden(path: Path, root: Path = ROOT) -> list[str]:
    """The imports of a file that reach a floor above its own, as ``file:line: name``."""
    folder = path.relative_to(root).parts[0]
    return [
        f"{path.relative_to(root)}:{line}: {name}"
        for line, name in imports(path, root=root)
        if (top := name.split(".")[0]) in OURS and top not in ALLOWED[folder]
    ]


def loaded_by(module: str, root: Path = ROOT) -> dict[str, list[str]]:
    """Every top-level name that importing one of our modules loads -> the chain of our modules that leads to it."""
    files = {module_name(path, root): path for folder in PACKAGES for path in (root / folder).rglob("*.py")}
    chains: dict[str, list[str]] = {}
    todo: list[tuple[str, list[str]]] = [(module, [module])]
    seen: set[str] = set()
    while todo:
        name, chain = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for _, target in imports(files[name], at_import=True, root=root):
            chains.setdefault(target.split(".")[0], chain)
            # `from a.b import c` runs a, a.b and, where it is a module, a.b.c
            parts = target.split(".")
            for end in range(1, len(parts) + 1):
                part = ".".join(parts[:end])
                if part in files:
                    todo.append((part, [*chain, part]))
    return chains


def test_imports_go_down_the_floors_only() -> None:
    files = python_files(*PACKAGES)
    assert len(files) > 5
    assert [hit for path in files for hit in forbidden(path)] == []


@pytest.mark.parametrize(
    ("file", "source", "bad"),
    [
        ("encoder/a.py", "import llava_rad", True),
        ("encoder/a.py", "def f():\n    from llava_rad.model.config import X", True),
        ("encoder/a.py", "from .b import c\nfrom encoder import d\nimport torch", False),
        ("encoder/sub/a.py", "from ..errors import ReadError", False),
        ("metrics/a.py", "import encoder.errors", True),
        ("llava_rad/a.py", "from encoder.errors import ReadError", False),
        ("llava_rad/a.py", "import metrics", False),
        ("llava_rad/a.py", "from app import server", True),
        ("app/a.py", "from metrics import rouge", False),
        ("metrics/a.py", "def f():\n    from llava_rad import api", True),
        ("app/a.py", "import llava_rad, encoder", False),
        ("app/a.py", "import scripts.train_demo", True),
        ("scripts/a.py", "import app, llava_rad, encoder, metrics", False),
        ("scripts/a.py", "import tests", True),
    ],
)
def test_the_floor_rule_itself(tmp_path: Path, file: str, source: str, bad: bool) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert bool(forbidden(path, tmp_path)) is bad


def circles(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> list[list[str]]:
    """Groups of modules that import each other in a loop; imports in functions count, those under TYPE_CHECKING not."""
    files = {module_name(path, root): path for folder in packages for path in (root / folder).rglob("*.py")}
    targets: dict[str, set[str]] = {}
    for module, path in files.items():
        found = set()
        for _, name in imports(path, running=True, root=root):
            found.add(name if name in files else name.rpartition(".")[0])
        targets[module] = found & set(files) - {module}
    reached = {module: _reachable(module, targets) for module in files}
    groups = {frozenset({m} | {o for o in reached[m] if m in reached[o]}) for m in files if m in reached[m]}
    return sorted(sorted(group) for group in groups)


def _reachable(module: str, targets: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [*targets[module]]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += targets[name]
    return seen


def test_there_are_no_import_circles() -> None:
    assert circles() == []


def test_a_circle_through_a_function_is_found_and_one_under_type_checking_is_not(tmp_path: Path) -> None:
    for file, source in {
        "metrics/a.py": "from metrics import b\nimport metrics.d",
        "metrics/b.py": "def f():\n    from metrics.c import g",
        "metrics/c.py": "import metrics.a",
        "metrics/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from metrics import a",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(source)
    assert circles(tmp_path, ["metrics"]) == [["metrics.a", "metrics.b", "metrics.c"]]


def test_the_command_line_loads_nothing_heavy_statically() -> None:
    chains = loaded_by("llava_rad.cli")
    assert {name: " -> ".join(chain) for name, chain in chains.items() if name in HEAVY} == {}
    assert "typer" in chains, "the walk must see what is really imported"


def test_the_walk_finds_a_heavy_import_behind_two_modules(tmp_path: Path) -> None:
    for file, source in {
        "llava_rad/__init__.py": "",
        "llava_rad/cli.py": "from llava_rad import first\ndef later():\n    import gradio",
        "llava_rad/first.py": (
            "from typing import TYPE_CHECKING\nfrom .second import x\nif TYPE_CHECKING:\n    import PIL"
        ),
        "llava_rad/second.py": "try:\n    import torch\nexcept ImportError:\n    pass\nx = 1",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(source)
    chains = loaded_by("llava_rad.cli", tmp_path)
    assert set(chains) & HEAVY == {"torch"}
    assert chains["torch"] == ["llava_rad.cli", "llava_rad.first", "llava_rad.second"]


def test_the_command_line_loads_nothing_heavy_when_run() -> None:
    code = f"import sys, llava_rad.cli; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_images_are_read_while_torch_is_still_loading() -> None:
    code = "import sys, llava_rad.commands.results, llava_rad.generation.report_writer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_every_module_can_be_imported_from_a_clean_process_without_side_output() -> None:
    names = [
        module_name(path) for path in python_files("encoder", "llava_rad", "metrics", "app") if path.stem != "__main__"
    ]
    code = "import importlib\nfor name in " + repr(names) + ":\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]


def test_top_level_names() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout: only tracked names count")
    names = {name.split("/")[0] for name in listed.stdout.split("\0") if name}
    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL == set()
