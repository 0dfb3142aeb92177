"""Findings reports from chest radiographs."""
