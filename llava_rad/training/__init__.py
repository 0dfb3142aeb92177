"""Training the report generator: projector and language model on image-report pairs, the encoder frozen."""
