"""Markov kernels that leave a target invariant."""
