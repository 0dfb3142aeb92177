"""Write ``docs/reference.md`` from the code: commands, exit codes, configuration keys, file formats.

    python scripts/write_reference.py [--check]

``--check`` writes nothing and exits with 1 if the document differs from the code.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "reference.md"

HEAD = """\
# Reference

Written by `python scripts/write_reference.py`. Parentheses hold defaults; keys without one are null.
"""
KEYS = """\
Keys of YAML files and of `key=value`, from [{source}](../{source}). Brackets hold sources.
`--show` prints the values of a configuration.
"""
FORMATS = (
    ("checkpoint", "a folder, `llava-rad/1`: parts, and SHA-256 of every file", "checkpoint-format.md"),
    ("report", "JSON, schema `llava-rad.report/3`", "archive.md"),
    ("manifest of images", "CSV, first line `# llava-rad.manifest/1 root=FOLDER`", "../encoder/datasets/manifest.py"),
    ("image-report pairs", "JSONL", "reports.md"),
    ("review store", "SQLite", "../app/schema.sql"),
    ("scores", "JSON, with a signature that names every choice", "metrics.md"),
)
"""Content, form and description of each format."""


def reference() -> str:
    """Text of the whole document."""
    from encoder.pretraining.config import PretrainingConfig
    from llava_rad.outputs.formats import document_formats
    from llava_rad.training.config import TrainingConfig

    parts = [HEAD, "## Commands\n", *_commands()]
    for command, config in (("pretrain", PretrainingConfig), ("train", TrainingConfig)):
        parts.append(f"## Configuration of `llava-rad {command}`\n")
        source = Path(inspect.getfile(config)).relative_to(ROOT)
        parts.append(KEYS.format(source=source))
        parts.append("\n".join(_keys(config)) + "\n")
    exports = "; ".join(f"`{row.name}`: {row.title}" for row in document_formats())
    formats = (*FORMATS, ("documents for hospitals", exports, "archive.md"))
    rows = [f"- {what}: {form} ([{Path(link).name}]({link}))" for what, form, link in formats]
    parts += ["## File formats\n", "\n".join(rows) + "\n"]
    return "\n".join(parts)


def _commands() -> Iterator[str]:
    from typer.main import get_command

    from llava_rad.cli import EPILOG, app

    root: Any = get_command(app)
    yield "\n\n".join(EPILOG.split("\n\n")[:2]) + "\n"
    commands = {
        f"{name} {called}".strip(): one
        for name, command in root.commands.items()
        for called, one in getattr(command, "commands", {}).items() or [("", command)]
    }
    rows = {
        name: {
            one.name: _parameter(one, command.context_class(command))
            for one in command.params
            if not getattr(one, "hidden", False)
        }
        for name, command in commands.items()
    }
    counted = Counter(item for some in rows.values() for item in some.items())
    shared: dict[str, str] = {}  # option -> the text that most commands have
    for (option, row), count in counted.most_common():
        if count > 1 and row.startswith("- `-"):  # positional arguments stay with their command
            shared.setdefault(option, row)
    yield "### Options of several commands\n"
    yield "\n".join(shared.values()) + "\n"
    first: dict[str, str] = {}  # paragraph of an epilog -> the command that has it first
    for name, one in commands.items():
        yield f"### `llava-rad {name}`\n"
        yield _plain(one.help or "") + "\n"
        own = [row for option, row in rows[name].items() if row != shared.get(option)]
        if own:
            yield "\n".join(own) + "\n"
        if others := [row for option, row in rows[name].items() if row == shared.get(option)]:
            yield f"Also: {', '.join(re.findall(r'`[^`]+`', row)[0] for row in others)}.\n"
        if one.epilog and one.epilog != EPILOG:
            notes = [part.strip() for part in one.epilog.split("\n\n") if part.strip()]
            elsewhere = {first.setdefault(note, name) for note in notes} - {name}
            yield from (f"{note}\n" for note in notes if first[note] == name)
            if elsewhere:
                yield f"See also the notes of {' and '.join(f'`llava-rad {other}`' for other in sorted(elsewhere))}.\n"


def _parameter(parameter: Any, context: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = (
        ", ".join(f"`{name}`" for name in names if name.startswith("-")) or f"`{parameter.metavar or names[0].upper()}`"
    )
    if parameter.metavar and names[0].startswith("-"):
        shown += f" {parameter.metavar}"
    elif names[0].startswith("-") and "|" in (kind := parameter.display_type(context)):
        shown += f" {kind.strip('[]<>')}"
    default = parameter.default
    if parameter.required and names[0].startswith("-"):
        default = "required"
    elif default is None or default is False or default in ((), []) or callable(default):
        default = ""
    told = parameter.help or ""
    if parameter.envvar:
        told += f" Or the environment variable {parameter.envvar}."
    return _item(shown, str(getattr(default, "value", default)), told)


def _keys(config: Any) -> Iterator[str]:
    keys = configuration_keys(config)
    for key, (default, told) in keys.items():
        if told:
            yield _item(f"`{key}`", "" if default is None else _yaml(default), told)
    yield "- " + ", ".join(f"`{key}` ({_yaml(default)})" for key, (default, told) in keys.items() if not told)


def configuration_keys(config: Any, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Dotted key of a configuration -> (default, meaning)."""
    from pydantic import BaseModel

    from llava_rad.commands.options import attributes

    found: dict[str, tuple[Any, str]] = {}
    told = attributes(inspect.getdoc(config) or "")
    for name, field in config.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            found |= configuration_keys(type(default), f"{prefix}{name}.")
        else:
            parts = [
                part for part in get_args(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)
            ]
            for part in parts:  # null, or keys of its own, or those of each member of a list
                found |= configuration_keys(part, f"{prefix}{name}.")
            found[f"{prefix}{name}"] = (default, told.get(name, ""))
    return found


def _yaml(value: object) -> str:
    import yaml

    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).strip()
    return f"`{text.removesuffix('...').strip()}`"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _item(name: str, default: str, meaning: str) -> str:
    """Line of a list; an argument, option or key with its default."""
    return f"- {name}" + (f" ({default})" if default else "") + (f": {_plain(meaning)}" if meaning else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare the document; the exit code is 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(argv)
    text = reference()
    if options.check:
        return int(not DOCUMENT.is_file() or DOCUMENT.read_text("utf-8") != text)
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
