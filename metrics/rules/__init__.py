"""A labeler of phrases for the fourteen CheXpert observations."""
