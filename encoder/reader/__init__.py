"""Reading of untrusted DICOM and picture files as frontal chest radiographs, in a sandboxed process."""
