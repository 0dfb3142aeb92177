"""Chest radiographs: reading, preprocessing and image features."""
