"""Exact answers for linear-Gaussian models, in NumPy and written for one state."""

import numpy as np


def local_level_log_evidence(y, drift, noise, *, coefficient=1.0, mean=0.0, variance=0.0):
    """Log evidence of y_t = x_t + N(0, noise^2), x_t = coefficient x_{t-1} + N(0, drift^2), x_0 ~ N(mean, variance)."""
    total = 0.0
    for value in np.asarray(y, np.float64):
        mean, variance = coefficient * mean, coefficient**2 * variance + drift**2
        spread = variance + noise**2
        total += -0.5 * (np.log(2 * np.pi * spread) + (value - mean) ** 2 / spread)
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), variance * (1 - gain)
    return total
