"""Networks that come up again and again. Top levels revert slowly to their start, which keeps long series stable."""

from __future__ import annotations

from typing import Any

import numpy as np

from probinf.errors import ArgumentError
from probinf.predictive_coding.network import Network

#: Autoconnection of the highest level: at 1 its mean drifts without bound over thousands of steps.
TOP_AUTOCONNECTION = 0.99


def rescorla_wagner(learning_rate: Any = 0.1, start: float = 0.5, **settings: Any) -> Network:
    """Value <- value + learning_rate (u - value) for binary outcomes: a Bernoulli family with a fixed pseudo-count.

    The value is the memory `statistics` of the input `"u"`. Rescorla & Wagner (1972).
    """
    if not 0.0 < float(np.min(learning_rate)) <= float(np.max(learning_rate)) < 1.0:
        raise ArgumentError(f"learning_rate: expected numbers strictly between 0 and 1, found {learning_rate!r}.")
    return Network("Rescorla-Wagner", **settings).exponential_family_input(
        "u", "bernoulli", pseudo_count=1.0 / np.asarray(learning_rate, np.float64) - 1.0, statistics=np.array([start])
    )


def binary_hgf(levels: int = 3, *, missing: str | None = None, **settings: Any) -> Network:
    """The binary HGF: input `"u"`, its log odds `"x2"`, and with three levels their log volatility `"x3"`.

    Mathys et al. (2011), Front. Hum. Neurosci. 5:39.
    """
    _check_levels(levels)
    network = Network(f"binary HGF, {levels} levels", **settings).binary_input("u", missing=missing)
    network = network.continuous_state("x2", tonic_volatility=-3.0).value("x2", "u")
    return network if levels == 2 else _with_volatility(network, "x3", "x2", tonic_volatility=-6.0)


def continuous_hgf(
    levels: int = 2,
    *,
    start: float = 0.0,
    noise: float = 1.0,
    tonic_volatility: float = -4.0,
    missing: str | None = None,
    **settings: Any,
) -> Network:
    """The continuous HGF: input `"u"`, its level `"x1"`, its log volatility `"x2"`, and with three levels `"x3"`.

    Args:
        levels: 2 or 3.
        start: mean of the level before the first step, in units of the data.
        noise: variance of the input's noise, in squared units of the data.
        tonic_volatility: log of the variance that the level gains in a step.
        missing: `"nan"` if NaN marks missing values.
        settings: of the `Network`.
    """
    _check_levels(levels)
    network = Network(f"continuous HGF, {levels} levels", **settings)
    network = network.continuous_input("u", precision=1.0 / noise, missing=missing)
    network = network.continuous_state("x1", mean=start, precision=1.0 / noise, tonic_volatility=tonic_volatility)
    network = network.value("x1", "u")
    if levels == 2:
        return _with_volatility(network, "x2", "x1")
    network = network.continuous_state("x2", autoconnection=TOP_AUTOCONNECTION).volatility("x2", "x1")
    return _with_volatility(network, "x3", "x2")


def categorical_hgf(num_categories: int, **settings: Any) -> Network:
    """K categories: a binary branch `"x[k]"` for each, all under one volatility parent `"volatility"`."""
    network = Network(f"categorical HGF, {num_categories} categories", **settings)
    network = network.categorical_input("u", num_categories)
    for k in range(num_categories):
        network = network.continuous_state(f"x[{k}]", mean=-float(np.log(num_categories - 1)))
        network = network.value(f"x[{k}]", f"u[{k}]")
    return _with_volatility(network, "volatility", *(f"x[{k}]" for k in range(num_categories)))


def two_armed_bandit(**settings: Any) -> Network:
    """Rewards `"left"` and `"right"`, of which each step shows the chosen arm's (the other is NaN).

    Each arm has its log odds, `"x_left"` and `"x_right"`; both have one volatility parent, `"volatility"`.
    """
    network = Network("two-armed bandit", **settings)
    for arm in ("left", "right"):
        network = network.binary_input(arm, missing="nan")
        network = network.continuous_state(f"x_{arm}", tonic_volatility=-3.0).value(f"x_{arm}", arm)
    return _with_volatility(network, "volatility", "x_left", "x_right", tonic_volatility=-6.0)


def social_learning(**settings: Any) -> Network:
    """Two sources about one decision: the outcomes `"cue"` and the adviser's correctness `"advice"`.

    Each has its log odds and its own volatility parent. Diaconescu et al. (2014), PLOS Comput. Biol. 10:e1003810.
    """
    network = Network("social learning", **settings)
    for source in ("cue", "advice"):
        network = network.binary_input(source, missing="nan")
        network = network.continuous_state(f"x_{source}", tonic_volatility=-3.0).value(f"x_{source}", source)
        network = _with_volatility(network, f"volatility_{source}", f"x_{source}", tonic_volatility=-6.0)
    return network


def _with_volatility(network: Network, name: str, *children: str, **fields: Any) -> Network:
    network = network.continuous_state(name, autoconnection=TOP_AUTOCONNECTION, **fields)
    for child in children:
        network = network.volatility(name, child)
    return network


def _check_levels(levels: int) -> None:
    if levels not in (2, 3):
        raise ArgumentError(f"levels: expected 2 or 3, found {levels!r}.")
