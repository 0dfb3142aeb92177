"""Benchmarks: each claim of speed has its script here."""
