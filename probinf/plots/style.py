"""The one look of every figure, and the small helpers that all plots share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError, InferenceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that remain apart in greyscale and for colour-blind readers (Okabe & Ito, 2008).
ESTIMATE, TRUTH, SECOND, THIRD, MUTED = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
CYCLE = (ESTIMATE, SECOND, THIRD, "#E69F00", "#56B4E9", TRUTH, "#F0E442", MUTED)

_SETTINGS: dict[str, Any] = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw with probinf's look; the caller's settings come back afterwards.

    Raises:
        InferenceError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise InferenceError("Plots need Matplotlib: pip install 'probinf[plots]'.") from error
    settings: Any = {**_SETTINGS, "axes.prop_cycle": cycler(color=CYCLE)}
    with matplotlib.rc_context(settings):
        yield


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def named(name: str | None, unit: str | None) -> str:
    """An axis label: the name with its unit in brackets."""
    return f"{name or ''} [{unit}]".strip() if unit else name or ""


def as_floats(argument: str, value: Any, ndim: int, expected: str) -> np.ndarray:
    """A float array of `ndim` dimensions, or an error that names the argument."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ArgumentError(f"{argument}: expected shape {expected}, found {array.shape}.")
    return array


def normalised_weights(log_weights: Any, count: int) -> np.ndarray:
    """Weights that sum to one, shape (count,); equal where no log weights are given."""
    if log_weights is None:
        return np.full(count, 1.0 / count)
    log_weights = np.asarray(log_weights, np.float64).reshape(-1)
    if log_weights.size != count:
        raise ArgumentError(f"log_weights: expected one for each of {count} draws, found {log_weights.size}.")
    if np.isnan(log_weights).any() or not np.isfinite(np.max(log_weights)):
        raise ArgumentError("log_weights: expected finite values or -inf, at least one finite.")
    weights = np.exp(log_weights - np.max(log_weights))
    return weights / weights.sum()


def covariance_ellipse(mean: np.ndarray, cov: np.ndarray, mass: float, **options: Any) -> Any:
    """The ellipse that holds `mass` of a two-dimensional Gaussian, as a Matplotlib patch."""
    from matplotlib.patches import Ellipse

    values, vectors = np.linalg.eigh(0.5 * (cov + cov.T))
    radius = np.sqrt(-2.0 * np.log1p(-mass))  # chi-square with two degrees of freedom, in closed form
    width, height = 2.0 * radius * np.sqrt(np.maximum(values, 0.0))
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    return Ellipse(tuple(mean), width, height, angle=angle, **options)
