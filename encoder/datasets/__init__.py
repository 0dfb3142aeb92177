"""Data sets: manifests, tables, masks, the pixel cache, and a module for each public layout."""
