"""A question as a value: cells, sweeps, searches, scales, metrics."""
