"""Fixed features: maps that are fitted once to unlabelled inputs of the first task, or to nothing at all."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.checks import positive
from probinf.arguments import positive_integer
from probinf.errors import DataError, InferenceError
from probinf.random import as_key

_SAMPLE = 10_000  # examples that a fit looks at


class AbstractFeatures(eqx.Module):
    """A map from inputs to vectors. `fit` returns the map ready for use; calling it does the work in batches."""

    batch: ClassVar[int] = 1000  # inputs in a compiled piece

    @abc.abstractmethod
    def fit(self, key: Any, inputs: Any) -> AbstractFeatures:
        """The map with its constants, from unlabelled inputs of shape (examples, ...)."""

    @abc.abstractmethod
    def of_batch(self, inputs: Array) -> Array:
        """Features (batch, features) of a batch of inputs; runs inside compiled code."""

    def __call__(self, inputs: Any) -> Float[np.ndarray, "examples features"]:
        """Features of any number of inputs, one compiled program for all batches.

        Raises:
            DataError: the inputs have another shape than those the map was fitted to.
        """
        inputs = np.asarray(inputs)
        pieces = []
        for i in range(0, len(inputs), self.batch):
            piece = inputs[i : i + self.batch]
            filled = np.concatenate([piece, np.zeros((self.batch - len(piece), *piece.shape[1:]), piece.dtype)])
            pieces.append(np.asarray(_of_batch(self, filled))[: len(piece)])
        return np.concatenate(pieces)


@eqx.filter_jit
def _of_batch(features: AbstractFeatures, inputs: Array | np.ndarray) -> Array:
    return features.of_batch(_scaled(inputs))


def _scaled(inputs: Any) -> Array:
    """Bytes to [0, 1], floats as they are, in the floats that JAX is set to."""
    if inputs.dtype == np.uint8:
        return jnp.asarray(inputs, jnp.float32) / jnp.float32(255)
    return jnp.asarray(inputs, jnp.result_type(float) if inputs.dtype == np.float64 else jnp.float32)


def _sample(key: Array, inputs: Any, size: int = _SAMPLE) -> np.ndarray:
    inputs = np.asarray(inputs)
    chosen = np.asarray(jax.random.permutation(key, len(inputs)))[:size]
    return np.asarray(_scaled(inputs[np.sort(chosen)]))


class Pixels(AbstractFeatures):
    """The inputs as they are, flattened, bytes over 255, with a constant 1 appended. Data-independent."""

    def fit(self, key: Any, inputs: Any) -> Pixels:
        return self

    def of_batch(self, inputs: Array) -> Array:
        return _with_one(inputs.reshape(len(inputs), -1))


class RandomFourier(AbstractFeatures):
    r"""$\sqrt 2\cos(Wx + b)$ with Gaussian W: features of the kernel $\exp(-\gamma\lVert x - x'\rVert^2)$.

    Data-independent: only the width of the inputs is taken from the first task.

    Args:
        num_features: number of cosines; a constant 1 is appended.
        gamma: inverse squared width of the kernel, for inputs in [0, 1].

    References:
        Rahimi & Recht (2007), Random features for large-scale kernel machines.
    """

    num_features: int = eqx.field(static=True, default=2000)
    gamma: float = eqx.field(static=True, default=0.01)
    weights: Array | None = None
    phases: Array | None = None

    def __check_init__(self) -> None:
        positive_integer("num_features", self.num_features)
        positive("gamma", self.gamma)

    def fit(self, key: Any, inputs: Any) -> RandomFourier:
        key_weights, key_phases = jax.random.split(as_key(key, argument="key"))
        first = _scaled(np.asarray(inputs)[:1])
        scale = jnp.asarray(np.sqrt(2 * self.gamma), first.dtype)
        weights = scale * jax.random.normal(key_weights, (first.size, self.num_features), first.dtype)
        phases = jax.random.uniform(key_phases, (self.num_features,), first.dtype, maxval=2 * np.pi)
        return RandomFourier(self.num_features, self.gamma, weights, phases)

    def of_batch(self, inputs: Array) -> Array:
        if self.weights is None or self.phases is None:
            raise _unfitted("RandomFourier")
        flat = inputs.reshape(len(inputs), -1)
        _require_width(flat.shape[1], self.weights.shape[0])
        return _with_one(jnp.sqrt(jnp.asarray(2, flat.dtype)) * jnp.cos(flat @ self.weights + self.phases[None]))


class Whitening(AbstractFeatures):
    """Principal components of the first task's inputs (unlabelled), each scaled to unit variance, and a constant 1.

    Args:
        num_features: components kept, at most the width of the inputs.
        floor: added to the variances, as a share of the largest.
    """

    num_features: int = eqx.field(static=True, default=100)
    floor: float = eqx.field(static=True, default=1e-3)
    mean: Array | None = None
    components: Array | None = None

    def __check_init__(self) -> None:
        positive_integer("num_features", self.num_features)

    def fit(self, key: Any, inputs: Any) -> Whitening:
        sample = _sample(as_key(key, argument="key"), inputs)
        flat = sample.reshape(len(sample), -1)
        if flat.shape[1] < self.num_features:
            raise DataError(f"num_features: {self.num_features} components of inputs with {flat.shape[1]} numbers.")
        values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False, dtype=np.float64))
        values, vectors = values[::-1][: self.num_features], vectors[:, ::-1][:, : self.num_features]
        components = vectors / np.sqrt(values + self.floor * values[0])
        mean = flat.mean(axis=0, dtype=np.float64)
        return Whitening(
            self.num_features,
            self.floor,
            jnp.asarray(mean, sample.dtype),
            jnp.asarray(components, sample.dtype),
        )

    def of_batch(self, inputs: Array) -> Array:
        if self.mean is None or self.components is None:
            raise _unfitted("Whitening")
        flat = inputs.reshape(len(inputs), -1)
        _require_width(flat.shape[1], len(self.mean))
        return _with_one((flat - self.mean[None]) @ self.components)


class RandomPatches(AbstractFeatures):
    r"""One layer of convolution with random patches of the first task's images (unlabelled) as filters.

    Each patch p is normalised, $(p - \bar p)/\sqrt{\mathrm{var}(p) + 0.01}$, and whitened; the filters are
    `num_filters` whitened patches of unit norm. Responses r become $\max(r - h, 0)$ and $\max(-r - h, 0)$, averaged
    over a grid of `grid` by `grid` cells, divided by their root mean square over the first task; a constant 1 is
    appended.

    Args:
        num_filters: K; there are 2 K grid² + 1 features.
        grid: cells along a side.
        size: side of a patch, pixels.
        threshold: h.
        regulariser: added to the eigenvalues of the patches' covariance before whitening.

    Raises:
        DataError: the inputs are no images (examples, height, width[, channels]), or smaller than a patch.

    References:
        Coates & Ng (2011), The importance of encoding versus training with sparse coding and vector quantization.
    """

    num_filters: int = eqx.field(static=True, default=64)
    grid: int = eqx.field(static=True, default=3)
    size: int = eqx.field(static=True, default=6)
    threshold: float = eqx.field(static=True, default=0.25)
    regulariser: float = eqx.field(static=True, default=0.1)
    batch: ClassVar[int] = 20  # the patches of a batch fit the cache
    filters: Array | None = None
    offsets: Array | None = None
    scale: Array | None = None

    def __check_init__(self) -> None:
        positive_integer("num_filters", self.num_filters)
        positive_integer("grid", self.grid)
        positive_integer("size", self.size)

    def fit(self, key: Any, inputs: Any) -> RandomPatches:
        key_images, key_places, key_choice = jax.random.split(as_key(key, argument="key"), 3)
        images = _as_images(_sample(key_images, inputs), self.size)
        patches = _patches(key_places, images, self.size, max(20_000, 20 * self.num_filters)).astype(np.float64)
        patches = patches - patches.mean(axis=1, keepdims=True)
        patches /= np.sqrt(patches.var(axis=1, keepdims=True) + 0.01)
        centre = patches.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
        whiten = (vectors / np.sqrt(np.maximum(values, 0) + self.regulariser)) @ vectors.T
        whitened = (patches - centre) @ whiten
        lengths = np.linalg.norm(whitened, axis=1)
        useful = np.flatnonzero(lengths > 0.3 * np.median(lengths))  # not the empty corners of an image
        if len(useful) < self.num_filters:
            raise DataError(f"num_filters: {self.num_filters} filters, but only {len(useful)} patches with contrast.")
        chosen = useful[np.asarray(jax.random.permutation(key_choice, len(useful)))[: self.num_filters]]
        matrix = whiten @ (whitened[chosen] / lengths[chosen, None]).T  # (patch, filter)
        offsets = centre @ matrix
        matrix = matrix - matrix.mean(axis=0)  # takes the patch's own mean away
        kernel = matrix.reshape(self.size, self.size, images.shape[3], self.num_filters)
        fitted = RandomPatches(
            self.num_filters,
            self.grid,
            self.size,
            self.threshold,
            self.regulariser,
            jnp.asarray(kernel, images.dtype),
            jnp.asarray(offsets, images.dtype),
            jnp.ones(2 * self.num_filters * self.grid**2, images.dtype),
        )
        found = fitted(images[:1000])[:, :-1]
        rms = np.sqrt(np.mean(found**2, axis=0, dtype=np.float64) + 1e-12)
        floored = np.maximum(rms, 0.1 * np.median(rms))
        return eqx.tree_at(lambda f: f.scale, fitted, jnp.asarray(floored, images.dtype))

    def of_batch(self, inputs: Array) -> Array:
        if self.filters is None or self.offsets is None or self.scale is None:
            raise _unfitted("RandomPatches")
        images = inputs[..., None] if inputs.ndim == 3 else inputs
        _require_width(images.shape[-1], self.filters.shape[2])
        patches = _all_patches(images, self.size)  # (n, h, w, patch)
        mean = jnp.mean(patches, axis=3, keepdims=True)
        variance = jnp.mean((patches - mean) ** 2, axis=3, keepdims=True)
        matrix = self.filters.reshape(-1, self.num_filters)
        responses = (patches @ matrix) / jnp.sqrt(variance + 0.01) - self.offsets[None, None, None]
        pooled = [_cell_means(jnp.maximum(sign * responses - self.threshold, 0), self.grid) for sign in (1, -1)]
        return _with_one(jnp.concatenate(pooled, axis=1) / self.scale[None])


def _all_patches(images: Array, size: int) -> Array:
    """Every patch of every image, flattened: (n, height - size + 1, width - size + 1, size * size * channels)."""
    height, width = images.shape[1] - size + 1, images.shape[2] - size + 1
    shifted = [images[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=3)


def _cell_means(maps: Array, grid: int) -> Array:
    """Means over the cells of a grid, flattened: (n, grid * grid * channels)."""
    rows, columns = ([k * n // grid for k in range(grid + 1)] for n in maps.shape[1:3])
    means = [
        jnp.mean(maps[:, rows[a] : rows[a + 1], columns[b] : columns[b + 1]], axis=(1, 2))
        for a in range(grid)
        for b in range(grid)
    ]
    return jnp.concatenate(means, axis=1)


def _as_images(inputs: np.ndarray, size: int) -> np.ndarray:
    images = inputs[..., None] if inputs.ndim == 3 else inputs
    if images.ndim != 4 or min(images.shape[1:3]) < size:
        raise DataError(
            f"inputs: expected images (examples, height, width[, channels]) of at least {size} x {size} pixels, "
            f"found shape {inputs.shape}."
        )
    return images


def _patches(key: Array, images: np.ndarray, size: int, number: int) -> np.ndarray:
    """Random patches, flattened: (number, size * size * channels)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    highest = jnp.asarray(windows.shape[:3])
    which, row, column = np.asarray(jax.random.randint(key, (number, 3), 0, highest[None])).T
    return np.moveaxis(windows[which, row, column], 1, 3).reshape(number, -1)


def _with_one(features: Array) -> Array:
    return jnp.concatenate([features, jnp.ones((len(features), 1), features.dtype)], axis=1)


def _require_width(found: int, expected: int) -> None:
    if found != expected:
        raise DataError(f"inputs: width {found}, but the features were fitted to width {expected}.")


def _unfitted(name: str) -> InferenceError:
    return InferenceError(f"{name}: call fit(key, inputs) first; it returns the map that can be used.")
