"""Studies in and reports out of an archive that speaks DICOMweb."""
