"""A Gaussian mixture in the plane: the regions that hold most of it, and its components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import ESTIMATE, SECOND, TRUTH, as_floats, axes_or_new, covariance_ellipse, named, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = 160  # points along an axis


def plot_mixture(
    mixture: Any,
    *,
    masses: Sequence[float] = (0.5, 0.9),
    dims: tuple[int, int] = (0, 1),
    components: bool = True,
    truth: Any = None,
    names: tuple[str, str] = ("x", "y"),
    unit: str | None = None,
    label: str | None = None,
    color: str = ESTIMATE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the smallest regions that hold given shares of a mixture, and an ellipse of one sd for each component.

    Args:
        mixture: a `GaussianMixture`, or what has `weights` (K,), `means` (K, d) and `covariances` (K, d, d).
        masses: probabilities inside the regions (highest density regions), each between 0 and 1.
        dims: which two coordinates; the others are integrated out.
        components: draw the ellipses, the wider their line the heavier the component.
        truth: shape (2,), the true point.
        names: names of the two coordinates.
        unit: their unit.
        label: legend entry.
        color: colour of the regions.
        ax: axes to draw on.
    """
    weights = as_floats("mixture.weights", mixture.weights, 1, "(K,)")
    means = as_floats("mixture.means", mixture.means, 2, "(K, d)")
    covs = as_floats("mixture.covariances", mixture.covariances, 3, "(K, d, d)")
    index = np.asarray(dims)
    if index.shape != (2,) or np.any(index < 0) or np.any(index >= means.shape[1]) or index[0] == index[1]:
        raise ArgumentError(f"dims: expected two different numbers below {means.shape[1]}, found {dims}.")
    if not masses or not all(0.0 < mass < 1.0 for mass in masses):
        raise ArgumentError(f"masses: expected numbers strictly between 0 and 1, found {tuple(masses)}.")
    kept = weights > 0.0
    weights, means = weights[kept], means[kept][:, index]
    covs = covs[kept][:, index][:, :, index]
    grid, density = _density(weights, means, covs, max(masses))
    levels = highest_density_levels(density, masses)
    with style():
        ax = axes_or_new(ax)
        order = np.argsort(levels)
        filled = [*levels[order], max(float(density.max()), levels.max()) * (1 + 1e-9)]
        shades = [(*_rgb(color), alpha) for alpha in np.linspace(0.2, 0.5, len(levels))]
        ax.contourf(*grid, density, levels=filled, colors=shades)
        ax.contour(*grid, density, levels=levels[order], colors=[color], linewidths=1.0)
        shares = ", ".join(f"{mass:.0%}" for mass in sorted(masses))
        ax.plot([], [], color=color, label=f"{label or 'mixture'}: {shares}")
        if components:
            for n, (weight, mean, cov) in enumerate(zip(weights, means, covs, strict=True)):
                text = "components, one sd" if n == 0 else None
                width = 0.6 + 2.0 * weight / weights.max()
                options: dict[str, Any] = {"facecolor": "none", "edgecolor": SECOND, "linestyle": "--"}
                ax.add_patch(covariance_ellipse(mean, cov, 1.0 - np.exp(-0.5), linewidth=width, label=text, **options))
        if truth is not None:
            point = as_floats("truth", truth, 1, "(2,)")
            ax.plot(point[0], point[1], "*", color=TRUTH, markersize=12, linewidth=0, label="truth")
        ax.legend(fontsize="small")
        ax.set(xlabel=named(names[0], unit), ylabel=named(names[1], unit))
    return ax


def highest_density_levels(density: np.ndarray, masses: Sequence[float]) -> np.ndarray:
    """Densities above which the given shares of a density on a regular grid lie, shape (len(masses),)."""
    values = np.sort(density.reshape(-1))[::-1]
    share = np.cumsum(values) / values.sum()
    return values[np.searchsorted(share, np.asarray(masses)).clip(max=values.size - 1)]


def _density(
    weights: np.ndarray, means: np.ndarray, covs: np.ndarray, mass: float
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The mixture's density on a grid that holds more than `mass` of every component."""
    reach = np.sqrt(-2.0 * np.log1p(-mass)) + 1.0
    sds = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))
    low, high = (means - reach * sds).min(axis=0), (means + reach * sds).max(axis=0)
    x, y = np.meshgrid(*(np.linspace(a, b, _GRID) for a, b in zip(low, high, strict=True)))
    away = np.stack([x, y], axis=-1)[None] - means[:, None, None]
    squares = np.einsum("kxyi,kij,kxyj->kxy", away, np.linalg.inv(covs), away)
    scales = weights / (2.0 * np.pi * np.sqrt(np.linalg.det(covs)))
    return (x, y), np.einsum("k,kxy->xy", scales, np.exp(-0.5 * squares))


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)
