"""DeepSpeed: its configuration, its start without a GPU, and models that must stay whole on each process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.errors import ConfigError, LlavaRadError
from encoder.json_files import parse_json, read_json
from encoder.runs.distributed import choose_deepspeed_device
from llava_rad.training.config import DEEPSPEED, TrainingConfig

if TYPE_CHECKING:
    from transformers import TrainingArguments

_NONE = "none"


def read_deepspeed(name: str) -> dict[str, Any] | None:
    """The DeepSpeed configuration of ``engine.deepspeed``, or None for ``none``.

    Raises:
        ConfigError: if there is no such configuration, or it is no JSON object.
    """
    if name == _NONE:
        return None
    try:
        if name in DEEPSPEED:
            text = (resources.files("llava_rad.training") / "deepspeed" / f"{name}.json").read_text("utf-8")
            found = parse_json(text)
        else:
            found = read_json(Path(name).expanduser())
    except (OSError, ValueError, RuntimeError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"engine.deepspeed = {name!r} is neither a DeepSpeed JSON file nor one of none, {', '.join(DEEPSPEED)}"
        )
    return found


def stage(config: TrainingConfig) -> int:
    """The ZeRO stage, 0 without DeepSpeed."""
    found = read_deepspeed(config.engine.deepspeed) or {}
    return int(found.get("zero_optimization", {}).get("stage", 0))


def check_compile(config: TrainingConfig) -> None:
    """Refuse compiled layers whose weights are elsewhere.

    Raises:
        ConfigError: if layers are to be compiled with ZeRO-3.
    """
    if config.engine.compile and stage(config) == 3:
        raise ConfigError("engine.compile does not work with ZeRO-3", hint="use engine.deepspeed=zero2 or none")


def offloads(config: TrainingConfig) -> tuple[bool, bool]:
    """Return True for the optimiser state, and for the weights, if they are kept in main memory."""
    zero = (read_deepspeed(config.engine.deepspeed) or {}).get("zero_optimization", {})
    state, weights = (zero.get(key, {}).get("device", _NONE) != _NONE for key in ("offload_optimizer", "offload_param"))
    return state, weights


def checkpoint_bytes(config: TrainingConfig, trained: int, frozen: int = 0) -> int:
    """Bytes of a checkpoint during training.

    Args:
        config: the run.
        trained: number of trained parameters.
        frozen: number of frozen ones of the language model, which DeepSpeed writes too.
    """
    if config.engine.deepspeed == _NONE:
        return 12 * trained  # weights and two moments in float32
    small = 2 if config.engine.precision == "bf16" else 4
    # the optimiser's float32 copy of the weights and two moments; below ZeRO-3 also the weights that are computed with
    return (12 if stage(config) == 3 else 12 + small) * trained + small * frozen


def prepare(config: TrainingConfig) -> dict[str, Any] | None:
    """Prepare the environment for DeepSpeed's import, and return its configuration.

    Raises:
        ConfigError: if layers are to be compiled with ZeRO-3.
        LlavaRadError: if DeepSpeed is wanted, and not installed.
    """
    settings = read_deepspeed(config.engine.deepspeed)
    check_compile(config)
    if settings is None:
        return None
    choose_deepspeed_device()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise LlavaRadError(
            "engine.deepspeed needs the package deepspeed, which is not installed",
            hint='pip install "llava-rad[train]", or engine.deepspeed=none',
        ) from None
    return settings


def join_processes() -> None:
    """Connect the processes before any model is loaded: without a GPU, transformers would load one first and fail."""
    import deepspeed

    if not torch.cuda.is_available():
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        if "RANK" not in os.environ:
            os.environ |= alone
        deepspeed.init_distributed(dist_backend="gloo")


@contextmanager
def whole_weights(arguments: TrainingArguments) -> Iterator[None]:
    """Models that are loaded within are whole on the process that loads them, ZeRO-3 or not."""
    if not arguments.deepspeed:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(arguments.hf_deepspeed_config)
