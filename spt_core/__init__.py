"""Selective Prompt Tuning: the model, its losses, its training and its evaluation, in PyTorch alone."""

NUMERICS_VERSION = 5
"""Increased by a change that alters the numbers of a trial, so that older results are not reused."""
