"""From images to findings: sources, engine, decoding, report writer."""
