"""The configurations of pre-training: those in ``configs/``, files, and changes to them."""

from __future__ import annotations

from encoder.configurations import Configurations, dump
from encoder.pretraining.config import PretrainingConfig

__all__ = ["dump", "load_config", "shipped"]

_CONFIGURATIONS = Configurations(PretrainingConfig, "encoder.pretraining")
load_config, shipped = _CONFIGURATIONS.load, _CONFIGURATIONS.shipped
