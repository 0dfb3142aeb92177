"""Dockerfile and compose file as data: the part of their languages that scripts/deploy uses; all else is an error."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.source_tree import ROOT

FOLDER = ROOT / "scripts" / "deploy"
_VARIABLE = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:-|:\?)([^}]*))?\})")


class MissingVariable(Exception):
    """A variable without a default is not set."""


@dataclass
class Stage:
    """A stage of a Dockerfile.

    Attributes:
        base: image that it starts from.
        name: of the stage, or "".
        steps: instructions in their order, as (NAME, ARGUMENTS).
    """

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, name: str) -> str:
        """Arguments of the last instruction of a name."""
        return [arguments for found, arguments in self.steps if found == name][-1]


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$X``, ``${X}``, ``${X:-default}`` and ``${X:?message}``; ``$$`` is a dollar sign.

    Raises:
        MissingVariable: for ``${X:?message}`` if X is not set or empty, and for others if X is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, rule, more = match[1] or match[2], match[3], match[4]
        if name is None:
            return "$"
        found = values.get(name)
        if rule == ":-":
            return found or more
        if found is None or (rule == ":?" and not found):
            raise MissingVariable(name)
        return found

    return _VARIABLE.sub(value, text)


def dockerfile(path: Path = FOLDER / "Dockerfile", arguments: Mapping[str, str] | None = None) -> list[Stage]:
    """Read the stages of a Dockerfile.

    Args:
        path: of the file.
        arguments: build arguments; they replace the defaults of the first ARG instructions.
    """
    given = dict(arguments or {})
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, re.sub(r"\\\n", " ", text).splitlines())):
        name, _, rest = line.partition(" ")
        if not stages and name == "ARG":
            key, _, default = rest.partition("=")
            given.setdefault(key, default)
        elif name == "FROM":
            base, _, called = expand(rest, given).partition(" AS ")
            stages.append(Stage(base, called))
        else:
            stages[-1].steps.append((name, " ".join(rest.split()) if name != "HEALTHCHECK" else rest))
    return stages


def words(arguments: str) -> list[str]:
    """Words of CMD, ENTRYPOINT or a health check in JSON form; the shell form is not used here."""
    found: list[str] = json.loads(arguments[arguments.index("[") :])
    return found


def pairs(arguments: str, values: Mapping[str, str]) -> dict[str, str]:
    """Variables of an ENV instruction."""
    found = [one.partition("=") for one in shlex.split(arguments)]
    return {name: expand(value, values) for name, _, value in found}


def ignored(path: str, rules: Path = FOLDER / "Dockerfile.dockerignore") -> bool:
    """Tell whether a path of the context is left out; rules are `*`, `!PATH` and `**/NAME`."""
    out = False
    for rule in filter(None, rules.read_text("utf-8").splitlines()):
        if rule == "*":
            out = True
        elif rule.startswith("!"):
            out = out and not (path == rule[1:] or path.startswith(f"{rule[1:]}/"))
        else:
            assert rule.startswith("**/"), rule
            out = out or rule[3:] in path.split("/")
    return out


def compose(values: Mapping[str, str], path: Path = FOLDER / "compose.yaml") -> dict[str, Any]:
    """Read a compose file with the values of its variables."""

    def expanded(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: expanded(one) for name, one in part.items()}
        if isinstance(part, list):
            return [expanded(one) for one in part]
        return expand(part, values) if isinstance(part, str) else part

    found: dict[str, Any] = expanded(yaml.safe_load(path.read_text("utf-8")))
    return found


def variables(path: Path) -> set[str]:
    """Names of the variables that a file reads."""
    return {match[1] or match[2] for match in _VARIABLE.finditer(path.read_text("utf-8"))} - {None}
