"""What encoders are worth, as results folders: tables, plots and numbers of the probes of ``encoder.probing``."""
