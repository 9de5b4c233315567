"""Whether a run has learned what it was shown, and what it has forgotten: measured with the base model alone."""
