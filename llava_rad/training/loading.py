"""The configurations of report-generator training: those in ``configs/``, files, and changes to them."""

from __future__ import annotations

from encoder.runs.config import Configurations, dump
from llava_rad.training.config import TrainingConfig

__all__ = ["dump", "load_config", "shipped"]

_CONFIGURATIONS = Configurations(TrainingConfig, "llava_rad.training")
load_config, shipped = _CONFIGURATIONS.load, _CONFIGURATIONS.shipped
