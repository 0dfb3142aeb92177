"""``adapter_config.json`` of PEFT: settings that are read, and their patterns of module names, which are bounded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from encoder.backbones.weight_files import read_json
from encoder.errors import ModelError

ADAPTER: Final = "adapter_config.json"
_READ = {
    "r", "lora_alpha", "target_modules", "exclude_modules", "bias", "fan_in_fan_out", "modules_to_save", "use_rslora",
    "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
}  # fmt: skip
_UNUSED = {
    "peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode",
    "lora_dropout", "init_lora_weights", "megatron_core", "qalora_group_size", "ensure_weight_tying", "loftq_config",
}  # fmt: skip
"""Settings of training, and those that PEFT writes without using them unless another is set."""
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ALL_LINEAR = "all-linear"
_LONGEST = 10_000
_PATIENCE_S = 20.0  # a process starts in a tenth of a second on an idle machine
_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
json.dump([[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns], sys.stdout)
"""


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read the settings of LoRA in ``adapter_config.json``; PEFT would import a module that others name.

    Raises:
        ModelError: if it is no LoRA adapter, or has a setting that changes the result and is not read.
    """
    found = read_json(folder / ADAPTER, "the adapter")
    if found.get("peft_type") != "LORA":
        raise ModelError("adapter_config.json is not a PEFT configuration of LoRA")
    odd = [key for key, value in found.items() if key not in _READ | _UNUSED and value]
    if odd:
        raise ModelError(f"adapter_config.json sets {odd[0][:80]}, which is not read")
    if found.get("init_lora_weights", True) not in (True, False, None, "gaussian", "orthogonal"):
        raise ModelError("adapter_config.json sets init_lora_weights to a way that changes the base model: not read")
    return {key: value for key, value in found.items() if key in _READ}


def with_module_names(settings: dict[str, Any], modules: Sequence[str], largest: int) -> dict[str, Any]:
    """Replace patterns of module names by the names that they match, since PEFT would match them without a limit.

    Args:
        settings: of :func:`read_adapter`.
        modules: names of the base model's modules.
        largest: longest side of the adapter's tensors; PEFT would allocate any rank before it looks at them.

    Raises:
        ModelError: if a setting has no usable form, or a pattern is not understood or takes too long.
    """
    found = dict(settings)
    if not _is_rank(settings.get("r", 1), largest):
        raise _unusable("r")
    for key in ("modules_to_save", "layers_pattern"):  # names, which PEFT puts into patterns of its own
        value = settings.get(key) or []
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in _listed(value)):
            raise _unusable(key)
    for key in ("target_modules", "exclude_modules"):
        value = settings.get(key)
        if not value or (isinstance(value, str) and value.lower() == _ALL_LINEAR):
            continue
        if isinstance(value, str):
            found[key] = _matching([value], modules, key)[0] or None
            if key == "target_modules" and found[key] is None:
                raise ModelError("the target_modules of adapter_config.json match no module of the base model")
        elif not all(isinstance(name, str) for name in _listed(value)):
            raise _unusable(key)
    for key in ("rank_pattern", "alpha_pattern"):
        value = settings.get(key) or {}
        if not isinstance(value, dict) or (
            key == "rank_pattern" and not all(_is_rank(r, largest) for r in value.values())
        ):
            raise _unusable(key)
        if all(_NAME.fullmatch(pattern) for pattern in value):  # PEFT's own form
            continue
        names = _matching([rf"(.*\.)?({pattern})" for pattern in value], modules, key)
        given: dict[str, Any] = {}
        for matched, number in zip(names, value.values(), strict=True):
            for name in matched:
                given.setdefault(re.escape(name), number)  # PEFT takes the first that matches
        found[key] = given
    return found


def _matching(patterns: Iterable[str], modules: Sequence[str], key: str) -> list[list[str]]:
    """Return the modules that each pattern matches as a whole, found by a process that can be ended."""
    patterns = list(patterns)
    if not patterns:
        return []
    if sum(map(len, patterns)) > _LONGEST:
        raise _unusable(key)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([patterns, list(modules)]),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"the patterns of {key} in adapter_config.json take too long to be matched") from None
    if done.returncode:
        raise _unusable(key)
    matched: list[list[str]] = json.loads(done.stdout)
    return matched


def _is_rank(value: Any, largest: int) -> bool:
    return isinstance(value, int) and 1 <= value <= largest


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unusable(key: str) -> ModelError:
    return ModelError(f"adapter_config.json has no usable {key}")
