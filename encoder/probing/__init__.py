"""Probes of frozen encoders: classification, segmentation, demographics."""
