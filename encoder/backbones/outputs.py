"""Which output of an image encoder its patch features are. Checkpoints say it in words."""

from __future__ import annotations

from typing import Literal

FeatureKind = Literal[
    "patches after the final LayerNorm, without CLS",
    "patches of the last layer, before any final LayerNorm, without CLS",
    "patches of the last layer but one, before any final LayerNorm, without CLS",
    "grid of the image encoder, before the joint projection",
]

AFTER_NORM: FeatureKind = "patches after the final LayerNorm, without CLS"
LAST_LAYER: FeatureKind = "patches of the last layer, before any final LayerNorm, without CLS"
PENULTIMATE: FeatureKind = "patches of the last layer but one, before any final LayerNorm, without CLS"
GRID: FeatureKind = "grid of the image encoder, before the joint projection"

STORED_KEY = "patch_features"
"""Key of a stored encoder's ``config.json``: which output its patches are, where that is not its family's own."""
