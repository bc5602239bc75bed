"""Measurements: the suite for pytest-benchmark, and mlpkit beside its peers."""
