"""Exact filters by grid, in 64 bits: log densities of the truth that networks are scored against."""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from transformers_gmm.recurrent import Series
from transformers_gmm.tasks import ranges


def growth(series: Series) -> np.ndarray:
    """log p(x* | data) of every step, (T, n): 1,601 points on [-60, 60].

    The density at the truth is likelihood times predictive density over the normaliser; nothing is interpolated.
    """
    grid = np.linspace(-60, 60, 1601)
    width = grid[1] - grid[0]
    log_weights, means, sds = (
        np.asarray(part, float)
        for part in (series.prior.log_weights, series.prior.means[..., 0], series.prior.scale_tril[..., 0, 0])
    )
    density = np.einsum("nk,nkg->ng", np.exp(log_weights), _normal(grid[None, None], means[..., None], sds[..., None]))
    density /= density.sum(1, keepdims=True) * width
    states = np.asarray(series.states[..., 0], float)
    values = np.asarray(series.steps.values["square"][..., 0], float)
    present = np.asarray(series.steps.present["square"])
    found = np.zeros(states.shape)
    for k in range(len(states)):
        images = grid / 2 + 25 * grid / (1 + grid**2) + 8 * np.cos(1.2 * (k + 1))
        here, x, z = present[k], states[k], values[k]
        predicted_at_x = _normal(x[:, None], images[None], np.sqrt(10)) * width
        prior_at_x = np.einsum("ng,ng->n", density, predicted_at_x)
        likelihood_at_x = np.where(here, _normal(z, x**2 / 20, 1.0), 1.0)
        predicted = density @ (_normal(grid[None], images[:, None], np.sqrt(10)) * width)
        likelihood = np.where(here[:, None], _normal(z[:, None], grid[None] ** 2 / 20, 1.0), 1.0)
        posterior = predicted * likelihood
        total = posterior.sum(1) * width
        found[k] = np.log(prior_at_x * likelihood_at_x / total)
        density = posterior / total[:, None]
    return found


def beacons(series: Series, size: int = 256) -> np.ndarray:
    """log p(x* | data) of every step, (T, n): a periodic grid over [-32, 32]^2, prediction by Fourier transform."""
    axis = -32 + 64 * np.arange(size) / size
    cell = (64 / size) ** 2
    x, y = np.meshgrid(axis, axis, indexing="ij")
    frequency = 2 * np.pi * np.fft.fftfreq(size, d=64 / size)
    step = np.exp(-0.125 * (frequency[:, None] ** 2 + frequency[None] ** 2))
    distances = [np.hypot(x - place[0], y - place[1]) for place in ranges.BEACONS.astype(float)]
    prior = {name: np.asarray(getattr(series.prior, name), float) for name in ("log_weights", "means", "scale_tril")}
    states = np.asarray(series.states, float)
    found = np.zeros(states.shape[:2])

    def filtered(i: int) -> None:
        density = np.zeros_like(x)
        for k in np.flatnonzero(np.isfinite(prior["log_weights"][i])):
            mean, sd = prior["means"][i, k], np.diagonal(prior["scale_tril"][i, k])
            density += np.exp(prior["log_weights"][i, k]) * _normal(x, mean[0], sd[0]) * _normal(y, mean[1], sd[1])
        density /= density.sum() * cell
        for t, state in enumerate(states[:, i]):
            at_state = (density * _normal(x, state[0], 0.5) * _normal(y, state[1], 0.5)).sum() * cell
            predicted = np.maximum(np.fft.ifft2(np.fft.fft2(density) * step).real, 0)
            log_likelihood, here = np.zeros_like(x), 0.0
            for name, place, distance in zip(ranges.NAMES, ranges.BEACONS.astype(float), distances, strict=True):
                if series.steps.present[name][t, i]:
                    value = float(series.steps.values[name][t, i, 0])
                    log_likelihood += range_log_density(value, distance)
                    here += range_log_density(value, np.hypot(*(state - place)))
            density = predicted * np.exp(log_likelihood)
            total = density.sum() * cell
            found[t, i] = np.log(at_state) + here - np.log(total)
            density /= total

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # transforms and sums release the lock
        list(pool.map(filtered, range(states.shape[1])))
    return found


def range_log_density(value: float, distance: Any) -> Any:
    """Of a range given the true distance, in 64 bits."""
    sd, rate = ranges.NOISE_SD, 1 / ranges.EXCESS
    z = (value - distance - rate * sd**2) / sd
    late = np.log(rate) + rate * (distance - value) + 0.5 * (rate * sd) ** 2 + log_ndtr(z)
    normal = -0.5 * ((value - distance) / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi))
    return np.logaddexp(np.log(1 - ranges.LATE) + normal, np.log(ranges.LATE) + late)


def _normal(x: Any, mean: Any, sd: Any) -> Any:
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (np.sqrt(2 * np.pi) * sd)
