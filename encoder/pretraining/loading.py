"""The configurations of pre-training: those in ``configs/``, files, and changes to them."""

from __future__ import annotations

from encoder.pretraining.config import PretrainingConfig
from encoder.runs.config import Configurations, dump

__all__ = ["dump", "load_config", "shipped"]

_CONFIGURATIONS = Configurations(PretrainingConfig, "encoder.pretraining")
load_config, shipped = _CONFIGURATIONS.load, _CONFIGURATIONS.shipped
