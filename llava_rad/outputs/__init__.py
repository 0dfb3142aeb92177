"""Output of reports: schema, text, JSON, DICOM structured reports, FHIR bundles, and the files that hold them."""
