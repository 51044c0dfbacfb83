"""Runs a plan on Ray."""
