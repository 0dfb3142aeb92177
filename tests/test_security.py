"""The sources contain no pickle, remote code or eval; the scanner itself is tested."""

from __future__ import annotations

import ast

import pytest

from tests.source_tree import PACKAGES, ROOT, python_files

pytestmark = pytest.mark.acceptance(row=21)

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_CALLS = {
    "os.system", "os.popen", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load", "torch.hub.load", "builtins.eval",
    "builtins.exec", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip
# Keyword arguments that are refused at every call, whatever is called, unless their value is the harmless constant.
HARMLESS = {"trust_remote_code": False, "shell": False, "allow_pickle": False, "strict": True, "weights_only": True}


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute chain, otherwise an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def findings(source: str) -> list[tuple[int, str]]:
    """Return the unsafe uses in a Python source, as (line, use).

    ``strict=False`` is refused for every call: an incomplete checkpoint must never load, and ``zip`` is as well
    written without it.
    """
    hits: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            hits += [(node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in UNSAFE_MODULES:
                hits.append((node.lineno, f"from {module} import"))
            hits += [(node.lineno, f"{module}.{a.name}") for a in node.names if f"{module}.{a.name}" in UNSAFE_CALLS]
            if module == "torch" and any(a.name == "load" for a in node.names):
                hits.append((node.lineno, "from torch import load"))
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in UNSAFE_NAMES or name in UNSAFE_CALLS:
                hits.append((node.lineno, f"{name}()"))
            safe = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
            if name == "torch.load" and "weights_only" not in safe:
                hits.append((node.lineno, "torch.load without weights_only=True"))
            for keyword in node.keywords:
                harmless = HARMLESS.get(keyword.arg or "")
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if harmless is not None and value is not harmless:
                    hits.append((node.lineno, f"{keyword.arg}={ast.unparse(keyword.value)}"))
    return hits


def test_no_unsafe_call_in_the_sources() -> None:
    files = python_files(*PACKAGES)
    assert len(files) > 5
    hits = [f"{p.relative_to(ROOT)}:{line}: {what}" for p in files for line, what in findings(p.read_text("utf-8"))]
    assert hits == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads as innocent",
        "def f():\n    import joblib",
        "import dill.source",
        "torch.load('w.bin')",
        "torch.load('w.bin', weights_only=False)",
        "torch.load('w.bin', weights_only=flag)",
        "from torch import load",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=args.trust)",
        "eval('1')",
        "x = [exec(line) for line in text]",
        "subprocess.run(c, shell=True)",
        "os.system('ls')",
        "from os import system",
        "model.load_state_dict(s, strict=False)",
        "model.load_state_dict(s, strict=strict)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(text)",
        "torch.hub.load('a', 'b')",
    ],
)
def test_the_scanner_finds(source: str) -> None:
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile('x')",
        "torch.load('w.bin', map_location='cpu', weights_only=True)",
        "model.load_state_dict(s, strict=True)",
        "zip(a, b, strict=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)",
        "subprocess.run(['ls'], check=True)",
        "x = 'import pickle; eval(y)'  # eval(z)",
        "json.load(f)",
        "yaml.safe_load(text)",
    ],
)
def test_the_scanner_leaves_alone(source: str) -> None:
    assert findings(source) == []
