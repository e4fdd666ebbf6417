"""Pictures of deep networks: energies over training or inference, and images beside what a network makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.plots.style import axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_energies(energies: Any, *, window: int = 1, name: str = "batch", ax: Axes | None = None) -> Axes:
    """Draw energies over steps on a log scale.

    Args:
        energies: (steps,) of a training (`Trained.energies`), (steps, n) of an inference (`info.energies`), or a
            mapping of labels to (steps,).
        window: mean over so many steps.
        name: what a step is.
        ax: where to draw.

    Raises:
        ArgumentError: another shape, or fewer steps than the window.
    """
    if isinstance(energies, Mapping):
        curves = {label: np.asarray(curve, float) for label, curve in energies.items()}
    else:
        array = np.asarray(energies, float)
        if array.ndim not in (1, 2):
            raise ArgumentError(f"energies: expected shape (steps,) or (steps, n), found {array.shape}.")
        columns = array[:, None] if array.ndim == 1 else array
        curves = {f"_{i}": column for i, column in enumerate(columns.T)}  # no legend for names with an underscore
    with style():
        ax = axes_or_new(ax)
        for label, curve in curves.items():
            if curve.ndim != 1 or len(curve) < window:
                raise ArgumentError(f"energies: expected at least window = {window} steps, found shape {curve.shape}.")
            mean = np.convolve(curve, np.full(window, 1.0 / window), mode="valid")
            ax.plot(np.arange(window, len(curve) + 1), mean, label=label)
        if all(np.min(curve) > 0.0 for curve in curves.values()):
            ax.set_yscale("log")
        ax.set(xlabel=name, ylabel="energy [nats]")
        if isinstance(energies, Mapping):
            ax.legend()
    return ax


def plot_images(rows: Mapping[str, Any], *, limits: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """Draw rows of images, say patterns, their observed parts and what was recalled, one below the other.

    Args:
        rows: label to images (n, height, width); NaN pixels are drawn grey. All rows have the same n.
        limits: values of black and white.

    Raises:
        ArgumentError: no rows, another shape, or rows of different lengths.
    """
    import matplotlib

    images = {label: np.asarray(value, float) for label, value in rows.items()}
    if not images or any(value.ndim != 3 or not len(value) for value in images.values()):
        found = {label: value.shape for label, value in images.items()}
        raise ArgumentError(f"rows: expected images of shape (n, height, width), found {found}.")
    lengths = {label: len(value) for label, value in images.items()}
    if len(set(lengths.values())) > 1:
        raise ArgumentError(f"rows: expected as many images in each, found {lengths}.")
    with style():
        import matplotlib.pyplot as plt

        count = next(iter(lengths.values()))
        figure, axes = plt.subplots(len(images), count, figsize=(0.8 * count + 1.0, 0.85 * len(images)), squeeze=False)
        colors = matplotlib.colormaps["gray"].with_extremes(bad="#8fa3b5")
        for line, (label, value) in zip(axes, images.items(), strict=True):
            for ax, image in zip(line, value, strict=True):
                ax.imshow(image, cmap=colors, vmin=limits[0], vmax=limits[1])
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
