"""The report model: encoder, projector, language model, prompt and checkpoint format."""
