"""Tests of this folder share decoding processes."""

from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "shared_readers"]
