"""Results folders with tables, plots and numbers of the probes of ``encoder.probing``."""
