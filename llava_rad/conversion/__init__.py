"""Published report models in this project's checkpoint directory."""
