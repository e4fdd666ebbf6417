r"""Fisher information of a network over the examples of a task, and quadratic penalties made of it.

With $f$ the outputs and $R_i = \sum_c r_{ic} r_{ic}^T$ the Fisher information of example i's outputs, that of the
parameters is $F = \sum_i J_i^T R_i J_i$, which for softmax and Gaussian outputs is the Gauss-Newton matrix too.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from continual.moments import padded_batches
from continual.strategies.architecture import (
    AbstractNetwork,
    Cotangents,
    Dense,
    Layers,
    Outputs,
    Parameters,
    Tap,
    joined,
    sum_of_variances,
    unit_directions,
)

Root = Callable[[Outputs], Cotangents]  # outputs to the r_ic, directions first
_BATCH = 500  # examples in a compiled piece


def softmax_root(logits: Outputs) -> Cotangents:
    r"""$\sqrt{p_c}(e_c - p)$: the classes' own distribution, not the labels found, has the last word."""
    p = jax.nn.softmax(logits, axis=1)
    errors = jnp.eye(logits.shape[1], dtype=logits.dtype)[:, None] - p[None]
    return jnp.sqrt(p.T)[:, :, None] * errors


class AbstractCurvature(eqx.Module):
    """A positive definite matrix over parameters, in a form that can be kept."""

    @abc.abstractmethod
    def with_examples(
        self, network: AbstractNetwork, parameters: Parameters, x: Array, cotangents: Cotangents, count: Array
    ) -> Any:
        """The matrix with the Fisher information of a batch added; rows from `count` on are zero, and so are theirs."""

    @abc.abstractmethod
    def quadratic(self, difference: Parameters) -> Array:
        r"""$d^T \Lambda d$."""

    @abc.abstractmethod
    def inverse(self) -> AbstractCovariance:
        r"""$\Lambda^{-1}$."""


class AbstractCovariance(eqx.Module):
    """The inverse of a curvature."""

    @abc.abstractmethod
    def output_variance(self, network: AbstractNetwork, parameters: Parameters, x: Array) -> Outputs:
        r"""Diagonal of $J \Lambda^{-1} J^T$ for each row."""


def with_task(
    curvature: AbstractCurvature,
    network: AbstractNetwork,
    parameters: Parameters,
    x: Float[np.ndarray, "n width"],
    root: Root = softmax_root,
) -> Any:
    """A curvature with the Fisher information of all examples of a task added, in batches."""
    for (rows,), count in padded_batches((x,), _BATCH):
        curvature = _added(curvature, network, parameters, jnp.asarray(rows), jnp.asarray(count), root)
    return curvature


@eqx.filter_jit
def _added(curvature: Any, network: AbstractNetwork, parameters: Parameters, x: Array, count: Array, root: Root) -> Any:
    valid = (jnp.arange(len(x)) < count).astype(x.dtype)
    cotangents = root(network(parameters, x)) * valid[None, :, None]
    return curvature.with_examples(network, parameters, x * valid[:, None], cotangents, count)


class Diagonal(AbstractCurvature):
    """The diagonal alone; any network.

    Attributes:
        values: shaped as the parameters.
    """

    values: Parameters

    @classmethod
    def prior(cls, parameters: Parameters, precision: float) -> Diagonal:
        """The same precision for every parameter."""
        return cls(jax.tree.map(lambda p: jnp.full_like(p, precision), parameters))

    def with_examples(
        self, network: AbstractNetwork, parameters: Parameters, x: Array, cotangents: Cotangents, count: Array
    ) -> Diagonal:
        squares = network.squared_gradients(parameters, x, cotangents)
        return Diagonal(jax.tree.map(jnp.add, self.values, squares))

    def quadratic(self, difference: Parameters) -> Array:
        terms = jax.tree.map(lambda f, d: jnp.sum(f * d**2), self.values, difference)
        return sum(jax.tree.leaves(terms))  # pyright: ignore[reportReturnType]

    def inverse(self) -> DiagonalCovariance:
        return DiagonalCovariance(jax.tree.map(lambda f: 1 / f, self.values))


class DiagonalCovariance(AbstractCovariance):
    """Independent parameters; `variances` are shaped as they are."""

    variances: Parameters

    def output_variance(self, network: AbstractNetwork, parameters: Parameters, x: Array) -> Outputs:
        return network.output_variance(parameters, self.variances, x)


class Kronecker(AbstractCurvature):
    r"""For each dense layer $\frac 1 N A \otimes G + \tau I$, with moments A of its inputs and G of its gradients.

    Both moments are sums over all N examples of all tasks, so the size stays as it is. For one example of a single
    layer the product is the exact Fisher information; else inputs and gradients are taken to be independent, and so are
    layers.

    Attributes:
        inputs: A of each layer, the bias last.
        gradients: G of each layer.
        count: N.
        prior: tau.

    References:
        Martens & Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature, Eq. 1-3;
        Ritter, Botev & Barber (2018), Online structured Laplace approximations for overcoming catastrophic forgetting.
    """

    inputs: list[Array]
    gradients: list[Array]
    count: Array
    prior: Array

    @classmethod
    def empty(cls, layers: Layers, precision: float) -> Kronecker:
        """The prior alone."""
        dtype = layers[0][0].dtype
        return cls(
            [jnp.zeros((len(w) + 1, len(w) + 1), dtype) for w, _ in layers],
            [jnp.zeros((len(b), len(b)), dtype) for _, b in layers],
            jnp.zeros((), dtype),
            jnp.asarray(precision, dtype),
        )

    def with_examples(
        self, network: AbstractNetwork, parameters: Parameters, x: Array, cotangents: Cotangents, count: Array
    ) -> Kronecker:
        valid = (jnp.arange(len(x)) < count).astype(x.dtype)[:, None]  # the bias of padding must not count
        taps = _dense(network).taps(parameters, x, cotangents)
        inputs = [a + (t.inputs * valid).T @ t.inputs for a, t in zip(self.inputs, taps, strict=True)]
        gradients = [
            g + jnp.einsum("cni,cnj->ij", t.gradients, t.gradients) for g, t in zip(self.gradients, taps, strict=True)
        ]
        return Kronecker(inputs, gradients, self.count + count.astype(x.dtype), self.prior)

    def quadratic(self, difference: Layers) -> Array:
        total = jnp.zeros_like(self.prior)
        for a, g, layer in zip(self.inputs, self.gradients, difference, strict=True):
            d = joined(layer)
            total += jnp.sum(d * (a @ d @ g)) / jnp.maximum(self.count, 1) + self.prior * jnp.sum(d**2)
        return total

    def inverse(self) -> KroneckerCovariance:
        vectors, variances = [], []
        for a, g in zip(self.inputs, self.gradients, strict=True):
            (in_values, in_vectors), (out_values, out_vectors) = (np.linalg.eigh(np.asarray(m, float)) for m in (a, g))
            products = np.maximum(in_values, 0)[:, None] * np.maximum(out_values, 0)[None]
            precision = products / max(float(self.count), 1.0) + float(self.prior)
            vectors.append((jnp.asarray(in_vectors, a.dtype), jnp.asarray(out_vectors, a.dtype)))
            variances.append(jnp.asarray(1 / precision, a.dtype))
        return KroneckerCovariance(vectors, variances)


class KroneckerCovariance(AbstractCovariance):
    """Independent coordinates of each layer, once inputs and outputs are turned.

    Attributes:
        vectors: of each layer, orthonormal, for its inputs (bias last) and its outputs.
        variances: of each layer, (inputs + 1, outputs).
    """

    vectors: list[tuple[Array, Array]]
    variances: list[Array]

    def output_variance(self, network: AbstractNetwork, parameters: Parameters, x: Array) -> Outputs:
        taps = _dense(network).taps(parameters, x, unit_directions(len(x), parameters[-1][1]))
        turned = [Tap(t.inputs @ a, t.gradients @ g) for t, (a, g) in zip(taps, self.vectors, strict=True)]
        return sum_of_variances(turned, self.variances)


class Penalty(eqx.Module):
    r"""$\frac s 2 (\theta - \mu)^T \Lambda (\theta - \mu)$ as a function of the parameters."""

    curvature: AbstractCurvature
    centre: Parameters
    scale: Array

    def __call__(self, parameters: Parameters) -> Array:
        return 0.5 * self.scale * self.curvature.quadratic(jax.tree.map(jnp.subtract, parameters, self.centre))


def penalty_of(curvature: AbstractCurvature, centre: Parameters, scale: float) -> Penalty:
    """A penalty whose scale has the parameters' type."""
    return Penalty(curvature, centre, jnp.asarray(scale, jax.tree.leaves(centre)[0].dtype))


def _dense(network: AbstractNetwork) -> Dense:
    assert isinstance(network, Dense)  # the learner has checked
    return network
