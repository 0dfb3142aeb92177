"""Conversion of published report models to checkpoint directories."""
