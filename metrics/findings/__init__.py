"""Comparison of the findings of two reports, with every error named."""
