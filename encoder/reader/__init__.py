"""Untrusted image files to radiographs: sandbox, DICOM, rasters, admission."""
