"""Optuna: the studies, and the searchers that hand trials to Tune."""
