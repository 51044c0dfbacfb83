"""Selective Prompt Tuning: the model, its losses, its training and its evaluation, in PyTorch alone."""

NUMERICS_VERSION = 5
"""Raised by a change that moves a trial's numbers, so that no result of the old arithmetic is reused."""
