"""Shared by pre-training, training and probing: configuration, checkpoints, log, curves, progress, processes."""
