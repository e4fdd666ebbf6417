"""Benchmarks of the mixture networks."""
