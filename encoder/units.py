"""Numbers with their units, in words for messages."""

from __future__ import annotations


def gigabytes(number: float) -> str:
    """Format a number of bytes: "1.5 GB", "30 MB"."""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"
