"""Every command, option, script, extra and link in the documents exists."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.source_tree import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "llava_rad" / "demo" / "README.md"])
DOCUMENTS = [path for path in DOCUMENTS if path.is_file()]
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def commands(text: str) -> list[list[str]]:
    """The command lines of a document's shell blocks, split; a block with ``$`` prompts counts only behind them."""
    found = []
    for block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            for part in re.split(r"&&|\|(?!\|)|;", line.split(" #")[0]):
                words = shlex.split(part.split(" > ")[0], comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    found.append(words)
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def cli_options() -> dict[str, set[str]]:
    """Command -> its options; "" holds those of `llava-rad` itself."""
    from typer.main import get_command

    from llava_rad.cli import app

    root = get_command(app)
    table = {"": {"--help", "-h", *(o for p in root.params for o in (*p.opts, *p.secondary_opts))}}
    for name, command in getattr(root, "commands", {}).items():
        for called, one in {
            name: command,
            **{f"{name} {n}": c for n, c in getattr(command, "commands", {}).items()},
        }.items():
            table[called] = {"--help", "-h", "-", *(o for p in one.params for o in (*p.opts, *p.secondary_opts))}
    return table


LAUNCHERS = ("srun", "torchrun", "deepspeed", "accelerate")


def launched(words: list[str]) -> list[str]:
    """The command that a launcher of several processes starts; none where it starts nothing of ours."""
    for place, word in enumerate(words):
        if word == "llava-rad":
            return words[place:]
        if word.startswith("scripts/"):
            return ["python", *words[place:]]
    return []


@cache
def launcher_options(program: str) -> set[str]:
    """The options of torchrun and of ``hf download``; the other launchers are not looked into."""
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        return {option for action in get_args_parser()._actions for option in action.option_strings}
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    return set(re.findall(r"^ +(--[a-z-]+)", told.stdout, re.MULTILINE)) | {"--repo-type", "-h"}


def configuration_keys(command: str) -> set[str]:
    """The dotted keys that ``llava-rad train`` or ``pretrain`` takes as KEY=VALUE."""
    from encoder.pretraining.config import PretrainingConfig
    from llava_rad.training.config import TrainingConfig
    from scripts.write_reference import configuration_keys as keys

    return set(keys(TrainingConfig if command == "train" else PretrainingConfig))


def complaint(words: list[str]) -> str | None:
    """Return the fault of a command in a document, or None."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    line = " ".join(words)
    program = Path(words[0]).name
    if program == "make":
        wrong = [w for w in words[1:] if "=" not in w and not w.startswith("-") and w not in make_targets()]
        return f"no such target: {line}" if wrong else None
    if program in LAUNCHERS:
        inner = launched(words)
        if program == "torchrun":
            before = words[1 : len(words) - len(inner)] if inner and inner[0] == "llava-rad" else []
            wrong = [w for w in before if w.startswith("--") and w.split("=")[0] not in launcher_options(program)]
            if wrong:
                return f"no such option {wrong}: {line}"
        return complaint(inner) if inner else None
    if program == "hf":
        wrong = [w for w in words[2:] if w.startswith("-") and w.split("=")[0] not in launcher_options(program)]
        return f"not hf download, or no such option {wrong}: {line}" if words[1] != "download" or wrong else None
    if program == "llava-rad":
        table = cli_options()
        named = [w for w in words[1:] if not w.startswith("-")]
        command = " ".join(named[:2]) if " ".join(named[:2]) in table else named[0] if named else ""
        if command not in table:
            return f"no such command: {line}"
        wrong = [w for w in words[1:] if w.startswith("-") and w.split("=")[0] not in table[command]]
        if not wrong and command in ("train", "pretrain"):
            found = [m[1] for w in words[2:] if (m := re.match(r"([a-z_0-9.]+)=", w))]
            wrong = sorted(set(found) - configuration_keys(command))
        return f"no such option or key {wrong}: {line}" if wrong else None
    if program.startswith("python") and len(words) > 1:
        if words[1] == "-m" and words[2].split(".")[0] == "scripts":
            script = ROOT / (words[2].replace(".", "/") + ".py")
        elif words[1].startswith("scripts/"):
            script = ROOT / words[1]
        else:
            return None
        if not script.is_file():
            return f"no such script: {line}"
        source = script.read_text("utf-8")
        flags = [w.split("=")[0] for w in words[2:] if w.startswith("--")]
        wrong = [f for f in flags if f not in source and f[2:].replace("-", "_") not in source]
        return f"no such option {wrong}: {line}" if wrong else None
    if program == "pip":
        named = {extra for some in re.findall(r"\[([\w,-]+)\]", line) for extra in some.split(",")}
        absent = named - set(data["project"]["optional-dependencies"])
        groups = {after for word, after in itertools.pairwise(words) if word == "--group"}
        absent |= groups - set(data["dependency-groups"])
        return f"no such extra or group {sorted(absent)}: {line}" if absent else None
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_in_documents_exist(path: Path) -> None:
    assert [c for words in commands(path.read_text("utf-8")) if (c := complaint(words))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    targets = [t for t in LINK.findall(path.read_text("utf-8")) if "://" not in t and not t.startswith("mailto:")]
    assert [t for t in targets if not (path.parent / t).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_no_document_is_unfinished(path: Path) -> None:
    assert re.findall(r"TODO|FIXME|TBD|XXX(?!X)|to be filled", path.read_text("utf-8")) == []


def test_every_document_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text("utf-8")))
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - linked == set()


def test_the_readme_starts_with_the_two_commands() -> None:
    first = commands((ROOT / "README.md").read_text("utf-8"))[:6]
    assert ["make", "demo"] in first and ["make", "test"] in first


def test_the_output_of_inspect_in_the_readme_is_the_real_one() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"^\$ llava-rad inspect --example\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", "inspect", "--example"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == shown


@pytest.mark.parametrize(
    "line",
    [
        "make nosuchtarget",
        "llava-rad nosuchcommand",
        "llava-rad generate a.dcm --no-such-option",
        "llava-rad train --config tiny optimization.nosuch=1",
        "torchrun --nproc-per-node 2 --no-python llava-rad train --no-such-option",
        "torchrun --no-such-option 2 --no-python llava-rad train --config tiny",
        "deepspeed --no_python llava-rad train engine.nosuch=1",
        "srun --ntasks-per-node 1 torchrun --nnodes 2 --no-python llava-rad nosuchcommand",
        "accelerate launch scripts/nosuch.py",
        "hf download owner/name --no-such-option",
        "python -m scripts.nosuch",
        "python scripts/nosuch.py",
        "pip install 'llava-rad[nosuch]'",
        "pip install --group nosuch -e .",
    ],
)
def test_the_rule_itself_finds(line: str) -> None:
    ((words),) = commands(f"```bash\n{line}\n```\n")
    assert complaint(words)


@pytest.mark.parametrize(
    "line",
    [
        "hf download owner/name --revision main --include '*.json' --local-dir here",
        "torchrun --nproc-per-node 2 --no-python llava-rad pretrain -c tiny loss.ibot=0 crops.crop_by=area",
        "deepspeed --no_python --no_local_rank llava-rad train --config paper 'data.pairs=[a.jsonl]' lora.r=64",
    ],
)
def test_the_rule_itself_lets_pass(line: str) -> None:
    ((words),) = commands(f"```bash\n{line}\n```\n")
    assert complaint(words) is None


def test_prompts_comments_pipes_and_continuations_are_read() -> None:
    text = (
        "```console\n$ A_B=1 make demo \\\n    PYTHON=x  # why\noutput\n$ cat f | llava-rad generate -\n```\n"
        "```python\nx\n```\n"
    )
    assert commands(text) == [["make", "demo", "PYTHON=x"], ["cat", "f"], ["llava-rad", "generate", "-"]]
