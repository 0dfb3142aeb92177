"""The project's own Python files, parsed, for the tests that read sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoder", "metrics", "llava_rad", "app", "scripts")


def python_files(*folders: str) -> list[Path]:
    """Every .py file below the named top-level folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    """``encoder/reader/dicom.py`` -> ``encoder.reader.dicom``; a package's ``__init__.py`` has the package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _parsed(path: Path, _modified: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(
    path: Path, *, at_import: bool = False, running: bool = False, root: Path = ROOT
) -> Iterator[tuple[int, str]]:
    """The absolute names that a file imports, with their lines; ``from a import b`` gives ``a.b``.

    Args:
        path: the file.
        at_import: only imports that run when the module is imported, not those in functions or under TYPE_CHECKING.
        running: all imports except those under TYPE_CHECKING.
        root: the folder that module names start from.
    """
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*parents, base] if base else parents)
                yield from ((child.lineno, f"{base}.{alias.name}") for alias in child.names)
            elif (at_import or running) and _is_type_checking(child):
                assert isinstance(child, ast.If)
                for other in child.orelse:
                    yield from walk(other)
            elif at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for outer in [*getattr(child, "decorator_list", []), child.args]:
                    yield from walk(outer)
            else:
                yield from walk(child)

    yield from walk(_parsed(path, path.stat().st_mtime_ns))
