"""Scores for generated reports: texts in, numbers out."""
