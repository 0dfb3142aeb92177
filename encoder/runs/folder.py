"""The folder of a run: is the run in it this one?

::

    RUN/
      config.yaml        the resolved configuration
      initialisation.txt what the first weights were
      cache/             decoded images, unless data.cache says where
      checkpoints/       see ``checkpoints``
      metrics.jsonl      one line for each logged step; tensorboard/ beside it where TensorBoard is installed
      curves.png         the same as curves, where Matplotlib is installed
      export/            the teacher, in the form of microsoft/rad-dino
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel

from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.loading import dump, load_config
from encoder.runs.checkpoints import Checkpoints, replace_file
from encoder.runs.metrics_log import METRICS

CURVES = "curves.png"
EXPORT = "export"
_MAY_CHANGE: dict[str, Collection[str] | None] = {
    "engine": None,
    "data": {"workers", "cache"},
    "optimization": {"accumulation"},
}
"""What a resumed run may set anew: nothing of it changes what is learned beyond rounding."""


def prepare(folder: Path, config: PretrainingConfig, checkpoints: Checkpoints, *, restart: bool) -> None:
    """Make the folder, or look whether the run in it has the same configuration, and write the configuration down.

    Args:
        folder: the run folder.
        config: the run.
        checkpoints: the folder's.
        restart: throw away what an earlier run has left, but for the cache.

    Raises:
        ConfigError: the folder holds a run of another configuration.
        LlavaRadError: the folder cannot be written.
    """
    known = folder / "config.yaml"
    try:
        if restart:
            for name in ("checkpoints", EXPORT, "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (METRICS, CURVES):
                (folder / name).unlink(missing_ok=True)
        elif known.is_file() and checkpoints.latest() is not None:
            refuse_another(load_config(str(known)), config, _MAY_CHANGE)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(known, dump(config).encode())
    except OSError as error:
        raise LlavaRadError(f"the run folder cannot be written: {error.strerror or type(error).__name__}") from error


def refuse_another(before: BaseModel, now: BaseModel, may_change: Mapping[str, Collection[str] | None]) -> None:
    """Refuse to go on with a run whose configuration was another.

    Args:
        before: the configuration in the run folder.
        now: the one asked for.
        may_change: section -> keys that may differ; None for all of the section.

    Raises:
        ConfigError: they differ elsewhere.
    """
    old, new = before.model_dump(), now.model_dump()
    for section, value in new.items():
        free = may_change.get(section, ())
        if free is None or old[section] == value:
            continue
        if isinstance(value, dict) and isinstance(old[section], dict):
            changed = [f"{section}.{key}" for key in value if key not in free and old[section][key] != value[key]]
        else:
            changed = [section]
        if changed:
            raise ConfigError(
                f"the run folder holds a run with another {changed[0]}",
                hint="give another run folder, the same configuration, or --restart to begin anew",
            )
