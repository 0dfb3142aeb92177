"""Comparison with other packages on drawn cases, a module for each subject: ``python -m scripts.differential``."""
