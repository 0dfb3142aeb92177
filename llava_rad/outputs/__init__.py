"""What leaves the project: one report in its forms (JSON, text), and files that are never left half written."""
