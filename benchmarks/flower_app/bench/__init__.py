"""Rounds with and without secure aggregation, timed."""
