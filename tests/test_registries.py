"""A dummy of each registered kind, added in one place, appears in the command line, ``doctor`` and the reference."""

from __future__ import annotations
