"""Whether a run has learned what it was shown, and what it has forgotten: the base model judges it."""
