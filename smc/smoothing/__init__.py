"""Particle smoothing: the law of all states given all observations."""
