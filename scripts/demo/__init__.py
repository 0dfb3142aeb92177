"""Building blocks of `scripts/train_demo.py`, which makes the embedded demonstration checkpoint."""
