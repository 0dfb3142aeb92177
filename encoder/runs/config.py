"""From YAML to a checked configuration and back: shipped names, files, ``extends`` and ``key=value`` overrides.

One :class:`Configurations` for each kind of run: pre-training and report-generator training each have theirs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from encoder.errors import ConfigError

_FOLDER = "configs"
_EXTENDS = "extends"

Config = TypeVar("Config", bound=BaseModel)


class Configurations(Generic[Config]):
    """The configurations of one kind of run.

    Args:
        model: class of the configuration; frozen, unknown keys forbidden.
        package: its folder ``configs`` holds the shipped configurations.
    """

    def __init__(self, model: type[Config], package: str) -> None:
        self._model, self._package = model, package

    def shipped(self) -> list[str]:
        """The names of the configurations that come with the package."""
        folder = resources.files(self._package) / _FOLDER
        return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))

    def load(self, name_or_file: str, overrides: Sequence[str] = ()) -> Config:
        """Read, merge and check a configuration.

        Args:
            name_or_file: a shipped name (`shipped`) or a YAML file. Either may say ``extends: NAME-OR-FILE`` and then
                holds only what differs; a file named so is looked for beside the one that names it.
            overrides: ``key.subkey=value``, the value in YAML: ``loss.ibot=0``, ``data.manifests=[a.csv, b.csv]``.

        Raises:
            ConfigError: if there is no such configuration, it is no YAML, a key is unknown, or a value is not allowed.
        """
        values = self._read(name_or_file, Path(), ())
        for override in overrides:
            key, value = _override(override)
            _merge(values, _nested(key, value))
        try:
            config = self._model.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_in_words(error.errors()[0], self._model)) from None
        _check_leaves(values, config.model_dump(), "")
        return config

    def _read(self, name_or_file: str, folder: Path, above: tuple[str, ...]) -> dict[str, Any]:
        """The merged tree of a configuration and of what it extends."""
        text, folder, identity = self._find(name_or_file, folder)
        if identity in above:
            raise ConfigError(f"the configuration {name_or_file} extends itself")
        values = _parse(text, f"the configuration {name_or_file}")
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError(f"the configuration {name_or_file} is not a table of keys and values")
        base = values.pop(_EXTENDS, None)
        if base is None:
            return values
        if not isinstance(base, str):
            raise ConfigError(f"the configuration {name_or_file} extends {base!r}, which is neither a name nor a file")
        merged = self._read(base, folder, (*above, identity))
        _merge(merged, values)
        return merged

    def _find(self, name_or_file: str, folder: Path) -> tuple[str, Path, str]:
        """Text, folder and identity of a configuration. A shipped name wins over a file that is called the same."""
        names = self.shipped()
        if name_or_file in names:
            source = resources.files(self._package) / _FOLDER / f"{name_or_file}.yaml"
            return source.read_text("utf-8"), Path(), name_or_file
        try:
            path = folder / Path(name_or_file).expanduser()
            return path.read_text("utf-8"), path.parent, str(path.resolve())
        except FileNotFoundError:
            close = difflib.get_close_matches(name_or_file, names, n=1)
            raise ConfigError(
                f"there is no configuration {name_or_file!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
                hint=f"a YAML file, or one of {', '.join(names)}",
            ) from None
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"the configuration {name_or_file!r} cannot be read ({type(error).__name__})") from None


def dump(config: BaseModel) -> str:
    """The whole configuration as YAML, defaults included; ``load`` reads it back as it was."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
    return text


def _parse(text: str, what: str) -> Any:
    try:
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), set())
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"{what} is not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except ValueError as error:  # a date that is none
        raise ConfigError(f"{what} is not YAML: {error}") from None


def _refuse_twice(node: yaml.Node | None, seen: set[int]) -> None:
    """Refuse a key that is said twice, of which YAML quietly keeps the last."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):  # an alias may lead back
        return
    seen.add(id(node))
    mapping = isinstance(node, yaml.MappingNode)
    keys = [key.value for key, _ in node.value] if mapping else []
    for place, key in enumerate(keys):
        if key in keys[:place]:
            raise ConfigError(f"the key {key!r} stands twice in line {node.start_mark.line + 1} and after")
    for child in node.value:
        _refuse_twice(child[1] if mapping else child, seen)


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not key=value", hint="for instance optimization.steps=1000")
    return key.strip(), _parse(value, f"the value of {key.strip()}")


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Table into table, in place; anything else, lists included, is replaced whole."""
    for key, value in other.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        else:
            into[key] = value


def _table(annotation: Any) -> type[BaseModel] | None:
    """The table of keys that a field holds, if it holds one (or one or nothing)."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, dotted: ``optimization`` and ``optimization.steps``."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if (table := _table(field.annotation)) is not None:
            yield from _keys(table, f"{prefix}{name}.")


def _did_you_mean(key: str, model: type[BaseModel]) -> str:
    """The known key that looks most like one, or whose last part is the same."""
    keys = sorted(_keys(model), key=lambda known: known.count("."))  # the setting of all before that of one in a list
    same = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    close = [*same, *difflib.get_close_matches(key, keys, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _in_words(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One line of one pydantic error: which key, what was given, what is allowed."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        key = ".".join(parts)
        return f"unknown key {key!r}{_did_you_mean(key, model)}"
    key = ".".join(part for part in parts if not part.isdigit())  # without the place in a list
    allowed = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":  # our own validators begin with the key, seen from their section
        return f"{key}.{allowed}" if key else allowed
    if error["type"] == "model_type":
        allowed = f"a table of keys such as {key}.{_section(key, model)[0]}"
    elif error["type"] == "tuple_type":
        allowed = "a list, such as [a, b]"
    elif error["type"] == "missing" and not parts[-1].isdigit():
        key, _, name = key.rpartition(".")
        if not key:
            return f"the key {name} is missing"
        allowed = f"its key {name} is missing"
    elif error["type"] in {"missing", "too_long"}:  # of a list of fixed length
        allowed = "a list of another length"
    return f"{key} = {_short(error['input'])} is not allowed: {allowed}"


def _section(key: str, model: type[BaseModel]) -> list[str]:
    field = model.model_fields.get(key)
    table = None if field is None else _table(field.annotation)
    return [] if table is None else list(table.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_leaves(given: Any, checked: Any, key: str) -> None:
    """Refuse values that pydantic accepts but nobody means: ``steps: yes`` as 1 step, an infinite learning rate."""
    if isinstance(given, Mapping) and isinstance(checked, Mapping):
        for name in given.keys() & checked.keys():  # a validator may leave an entry out
            _check_leaves(given[name], checked[name], f"{key}.{name}" if key else str(name))
    elif isinstance(given, list) and isinstance(checked, tuple):
        for value, result in zip(given, checked, strict=True):
            _check_leaves(value, result, key)
    elif isinstance(given, bool) and not isinstance(checked, bool):
        raise ConfigError(f"{key} = {given} is not allowed: a number is wanted")
    elif isinstance(checked, float) and not math.isfinite(checked):
        raise ConfigError(f"{key} = {given} is not allowed: a finite number is wanted")
