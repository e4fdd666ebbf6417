"""The kinds of nodes a network is made of: frozen data, numbers as fields."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import equinox as eqx

from probinf.predictive_coding.families import Family
from probinf.predictive_coding.rules import AbstractUpdate


class Node(eqx.Module):
    """What all nodes share: a name, and numbers that may be arrays with one trailing batch axis.

    Attributes:
        name: unique in the network.
        NUMBERS: names of the fields that are numbers; `"node.field"` addresses one.
        CHILDREN: kinds of nodes that this node may be a value parent of.
        VOLATILE: kinds of nodes that this node may be a volatility parent of.
        COMPONENTS: kinds of nodes that may read one number of this input.
    """

    NUMBERS: ClassVar[tuple[str, ...]] = ()
    CHILDREN: ClassVar[tuple[str, ...]] = ()
    VOLATILE: ClassVar[tuple[str, ...]] = ()
    COMPONENTS: ClassVar[tuple[str, ...]] = ()
    KIND: ClassVar[str] = "node"

    name: str = eqx.field(static=True)


class ContinuousState(Node):
    """A hidden continuous quantity with a Gaussian belief.

    Generative model of one step of length t, with value parents b and volatility parents c: x is Normal with mean
    autoconnection * x_before + t (drift + sum_b alpha_b g_b(x_b)) and variance
    t exp(tonic_volatility + sum_c kappa_c x_c).

    Attributes:
        mean, precision: the belief before the first step.
        tonic_volatility: omega, log of the variance gained in a step of length 1.
        drift: rho, per unit of time.
        autoconnection: lambda, between 0 and 1; below 1 the state reverts to its drift and its value parents.
        update: how evidence from below is combined; None takes the network's rule.
    """

    KIND: ClassVar[str] = "continuous state"
    NUMBERS: ClassVar[tuple[str, ...]] = ("mean", "precision", "tonic_volatility", "drift", "autoconnection")
    CHILDREN: ClassVar[tuple[str, ...]] = ("continuous state", "continuous input", "binary input")
    VOLATILE: ClassVar[tuple[str, ...]] = ("continuous state", "continuous input")

    mean: Any = 0.0
    precision: Any = 1.0
    tonic_volatility: Any = -4.0
    drift: Any = 0.0
    autoconnection: Any = 1.0
    update: AbstractUpdate | None = None


class ConstantNode(Node):
    """A known number, a value parent of states and inputs."""

    KIND: ClassVar[str] = "constant"
    NUMBERS: ClassVar[tuple[str, ...]] = ("mean",)
    CHILDREN: ClassVar[tuple[str, ...]] = ("continuous state", "continuous input", "binary input")

    mean: Any = 1.0


class ContinuousInput(Node):
    """An observed continuous number: Normal(sum_b alpha_b g_b(x_b), noise variance).

    Attributes:
        precision: of the noise.
        noise: how volatility parents c enter: `"additive"`, variance 1/precision + exp(sum_c kappa_c x_c), or
            `"multiplicative"`, variance exp(sum_c kappa_c x_c)/precision.
        missing: `"nan"` if NaN marks steps without an observation; otherwise NaN is an error.
    """

    KIND: ClassVar[str] = "continuous input"
    NUMBERS: ClassVar[tuple[str, ...]] = ("precision",)

    precision: Any = 1.0
    noise: str = eqx.field(static=True, default="additive")
    missing: str | None = eqx.field(static=True, default=None)


class BinaryInput(Node):
    """An observed 0 or 1: Bernoulli with logit sum_b alpha_b g_b(x_b)."""

    KIND: ClassVar[str] = "binary input"

    missing: str | None = eqx.field(static=True, default=None)


class CategoricalInput(Node):
    """An observed category 0, ..., K - 1, read by K binary inputs (its components), one for each category."""

    KIND: ClassVar[str] = "categorical input"
    COMPONENTS: ClassVar[tuple[str, ...]] = ("binary input",)

    num_categories: int = eqx.field(static=True, default=2)
    missing: str | None = eqx.field(static=True, default=None)


class ExponentialFamilyInput(Node):
    """An observation from an exponential family, whose expected sufficient statistics are learnt.

    xi <- xi + (t(u) - xi) / (1 + nu): `pseudo_count` nu is the weight of the past in observations. With components,
    continuous inputs that each read one statistic, nu is the mean ratio of their learning (see `components.py`).

    Attributes:
        family: gives t(u), the meaning of xi and the predictive density.
        pseudo_count: nu.
        statistics: xi before the first step, shape (d,) or (d, batch); None takes the family's.
    """

    KIND: ClassVar[str] = "exponential-family input"
    COMPONENTS: ClassVar[tuple[str, ...]] = ("continuous input",)
    NUMBERS: ClassVar[tuple[str, ...]] = ("pseudo_count", "statistics")

    family: Family = eqx.field(static=True)
    pseudo_count: Any = 3.0
    statistics: Any = None
    missing: str | None = eqx.field(static=True, default=None)


class DirichletProcessInput(Node):
    """A real observation from one of a growing number of Gaussian clusters (a pool of fixed size).

    Attributes:
        concentration: of the Dirichlet process.
        base_mean, base_count, base_shape, base_rate: normal-inverse-gamma prior of a cluster's mean and variance.
        num_clusters: size of the pool.
    """

    KIND: ClassVar[str] = "Dirichlet-process input"
    NUMBERS: ClassVar[tuple[str, ...]] = ("concentration", "base_mean", "base_count", "base_shape", "base_rate")

    concentration: Any = 1.0
    base_mean: Any = 0.0
    base_count: Any = 0.1
    base_shape: Any = 2.0
    base_rate: Any = 1.0
    num_clusters: int = eqx.field(static=True, default=10)
    missing: str | None = eqx.field(static=True, default=None)


def field_names(kind: type[Node]) -> list[str]:
    """What a node of that kind is made with."""
    return [field.name for field in dataclasses.fields(kind)]


INPUTS = (ContinuousInput, BinaryInput, CategoricalInput, ExponentialFamilyInput, DirichletProcessInput)
LEAVES = (ContinuousInput, BinaryInput)  # those that value parents predict
