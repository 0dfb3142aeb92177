"""From YAML to a checked configuration and back: shipped names, files, ``extends`` and ``key=value`` overrides."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from encoder.errors import ConfigError
from encoder.pretraining.config import PretrainingConfig

_FOLDER = "configs"
_EXTENDS = "extends"


def shipped() -> list[str]:
    """The names of the configurations that come with the package."""
    folder = resources.files("encoder.pretraining") / _FOLDER
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(name_or_file: str, overrides: Sequence[str] = ()) -> PretrainingConfig:
    """Read, merge and check a configuration.

    Args:
        name_or_file: a shipped name (`shipped`) or a YAML file. Either may say ``extends: NAME-OR-FILE`` and then holds
            only what differs; a file named so is looked for beside the one that names it.
        overrides: ``key.subkey=value``, the value in YAML: ``loss.ibot=0``, ``data.manifests=[a.csv, b.csv]``.

    Raises:
        ConfigError: there is no such configuration, it is no YAML, a key is unknown, or a value is not allowed.
    """
    values = _read(name_or_file, Path(), ())
    for override in overrides:
        key, value = _override(override)
        _merge(values, _nested(key, value))
    try:
        config = PretrainingConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_in_words(error.errors()[0])) from None
    _check_leaves(values, config.model_dump(), "")
    return config


def dump(config: PretrainingConfig) -> str:
    """The whole configuration as YAML, defaults included; `load_config` reads it back as it was."""
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


def _read(name_or_file: str, beside: Path, above: tuple[str, ...]) -> dict[str, Any]:
    """The merged tree of a configuration and of what it extends."""
    text, folder, identity = _find(name_or_file, beside)
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
    merged = _read(base, folder, (*above, identity))
    _merge(merged, values)
    return merged


def _find(name_or_file: str, beside: Path) -> tuple[str, Path, str]:
    """Text, folder and identity of a configuration. A shipped name wins over a file that is called the same."""
    names = shipped()
    if name_or_file in names:
        source = resources.files("encoder.pretraining") / _FOLDER / f"{name_or_file}.yaml"
        return source.read_text("utf-8"), Path(), name_or_file
    try:
        path = beside / Path(name_or_file).expanduser()
        return path.read_text("utf-8"), path.parent, str(path.resolve())
    except FileNotFoundError:
        close = difflib.get_close_matches(name_or_file, names, n=1)
        raise ConfigError(
            f"there is no configuration {name_or_file!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            hint=f"a YAML file, or one of {', '.join(names)}",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the configuration {name_or_file!r} cannot be read ({type(error).__name__})") from None


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


def _keys(model: type[BaseModel] = PretrainingConfig, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, dotted: ``optimization`` and ``optimization.steps``."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _did_you_mean(key: str) -> str:
    """The known key that looks most like one, or whose last part is the same."""
    keys = list(_keys())
    same = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    close = [*same, *difflib.get_close_matches(key, keys, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _in_words(error: ErrorDetails) -> str:
    """One line of one pydantic error: which key, what was given, what is allowed."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        key = ".".join(parts)
        return f"unknown key {key!r}{_did_you_mean(key)}"
    key = ".".join(part for part in parts if not part.isdigit())  # without the place in a list
    allowed = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":  # our own validators begin with the key, seen from their section
        return f"{key}.{allowed}" if key else allowed
    if error["type"] == "model_type":
        allowed = f"a table of keys such as {key}.{_section(key)[0]}"
    elif error["type"] == "tuple_type":
        allowed = "a list, such as [a, b]"
    elif error["type"] in {"missing", "too_long"}:  # no key is required: of a list of fixed length
        allowed = "a list of another length"
    return f"{key} = {_short(error['input'])} is not allowed: {allowed}"


def _section(key: str) -> list[str]:
    field = PretrainingConfig.model_fields.get(key)
    annotation = None if field is None else field.annotation
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_leaves(given: Any, checked: Any, key: str) -> None:
    """What pydantic takes without a word and nobody means: ``steps: yes`` as 1 step, an endless learning rate."""
    if isinstance(given, Mapping) and isinstance(checked, Mapping):
        for name, value in given.items():
            _check_leaves(value, checked[name], f"{key}.{name}" if key else str(name))
    elif isinstance(given, list) and isinstance(checked, tuple):
        for value, result in zip(given, checked, strict=True):
            _check_leaves(value, result, key)
    elif isinstance(given, bool) and not isinstance(checked, bool):
        raise ConfigError(f"{key} = {given} is not allowed: a number is wanted")
    elif isinstance(checked, float) and not math.isfinite(checked):
        raise ConfigError(f"{key} = {given} is not allowed: a finite number is wanted")
