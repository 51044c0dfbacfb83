"""A sweep expanded to its trials, with an estimate of what they cost."""
