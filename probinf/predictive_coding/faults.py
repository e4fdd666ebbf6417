"""Steps that broke down: flagged by compiled code, explained and acted on by the host."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, InferenceError
from probinf.predictive_coding.door import Data
from probinf.representations.concrete import is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.learning import Learnt
    from probinf.predictive_coding.plan import Plan
    from probinf.predictive_coding.prediction import Prediction
    from probinf.predictive_coding.run import NetworkRun

CHOICES = ("nan", "stop", "raise")


class Flag(NamedTuple):
    """Which node broke down first in a step.

    Attributes:
        code: 0 for none; 1 + 2 i if the posterior of node i is no distribution, 2 + 2 i if its predicted volatility
            vanished or is NaN.
        value: the posterior precision that was found, or the share of the predicted variance that the step added.
    """

    code: Any
    value: Any


def flag_of(plan: Plan, predictions: dict[int, Prediction], learnt: dict[int, Learnt], dt: Any) -> Flag:
    """The flag of one step."""
    code: Any = jnp.zeros((), jnp.int32)
    value: Any = 0.0
    for i in plan.states:
        gained = predictions[i].effective > 0.0
        checks = [(2 + 2 * i, gained if dt is None else gained | (dt == 0.0), predictions[i].effective)]
        if learnt[i].sound is not True:
            checks.append((1 + 2 * i, learnt[i].sound, learnt[i].attempt))
        for number, is_sound, found in checks:
            is_first = (code == 0) & ~is_sound
            code, value = jnp.where(is_first, jnp.int32(number), code), jnp.where(is_first, found, value)
    return Flag(code, value)


class Fault(NamedTuple):
    """A step that broke down.

    Attributes:
        step: its index in the series.
        entry: its index in the batch, or None without one.
        node: name of the first node that broke down, or None where an input has no density.
        value: see `Flag`; NaN without a node.
        is_posterior: whether it is the node's posterior that is no distribution, or its predicted volatility.
    """

    step: int
    entry: int | None
    node: str | None
    value: float
    is_posterior: bool

    def explain(self) -> str:
        """The fault in words."""
        where = f"step {self.step}" + ("" if self.entry is None else f" of batch entry {self.entry}")
        if self.node is None:
            return f"{where}: what was observed has no density under its prediction"
        if self.is_posterior:
            return f"{where}, node {self.node!r}: posterior precision {self.value:.4g}, or a mean that is not finite"
        return f"{where}, node {self.node!r}: its predicted volatility vanished or overflowed ({self.value:.4g})"


def first_fault(run: NetworkRun) -> Fault | None:
    """The first step that broke down, in any batch entry; None if all are sound, or while being traced."""
    if not is_concrete(run.log_densities):
        return None
    bad = ~np.isfinite(np.asarray(run.log_densities)).reshape(len(run), -1)
    if not bad.any():
        return None
    t = int(np.argmax(bad.any(axis=1)))
    entry = int(np.argmax(bad[t]))
    code = int(np.asarray(run.flags.code).reshape(bad.shape)[t, entry])
    value = float(np.asarray(run.flags.value).reshape(bad.shape)[t, entry])
    node = None if code == 0 else run.network.nodes[(code - 1) // 2].name
    return Fault(t, entry if run.log_densities.ndim > 1 else None, node, value if node else np.nan, code % 2 == 1)


def without_what_followed(run: NetworkRun) -> NetworkRun:
    """The run with NaN for everything from a broken step on, in the batch entry that broke down."""
    if is_concrete(run.log_densities) and first_fault(run) is None:
        return run
    is_lost = jnp.cumsum(~jnp.isfinite(run.log_densities), axis=0) > 0
    is_lost_at_end = is_lost[-1]

    def masked(x: Any) -> Any:
        return _masked(x, is_lost)

    beliefs = {name: jax.tree.map(masked, belief) for name, belief in run.beliefs.items()}
    after = jax.tree.map(lambda x: _masked(x, is_lost_at_end), (run.carry, run.memories))
    composites = jax.tree.map(masked, run.composites)
    return dataclasses.replace(run, beliefs=beliefs, composites=composites, carry=after[0], memories=after[1])


def _masked(x: Any, is_lost: Any) -> Any:
    """NaN where lost; the mask's axes are the first (time) and the last (batch) of the array."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    time, batch = is_lost.shape[:1], is_lost.shape[1:]
    shaped = is_lost.reshape(time + (1,) * (jnp.ndim(x) - is_lost.ndim) + batch)
    return jnp.where(shaped, jnp.full((), jnp.nan, x.dtype), x)


def acted_on(run: NetworkRun, on_fault: str, before: Any) -> NetworkRun:
    """The run as `on_fault` wants it.

    Args:
        run: as compiled code left it.
        on_fault: one of `CHOICES`.
        before: data to the run on them: for the steps before a fault.

    Raises:
        InferenceError: a step broke down and `on_fault` is `"raise"`, or it was the first step and `on_fault` is
            `"stop"`; the run before it is on `.partial`.
    """
    fault = first_fault(run)
    if on_fault == "nan" or fault is None:
        return without_what_followed(run)
    partial = None if fault.step == 0 else before(_rows(run.data, fault.step))
    if on_fault == "stop" and partial is not None:
        return partial
    error = InferenceError(
        f"{run.network.name!r} broke down at {fault.explain()}. Likely causes: a prior volatility far above that of "
        "the data, strong coupling, the classical update rule; Enhanced() and Unbounded() break down less often."
    )
    error.partial = partial
    raise error


def checked(on_fault: str) -> str:
    """The choice.

    Raises:
        ArgumentError: there is no such choice.
    """
    if on_fault not in CHOICES:
        raise ArgumentError(f"on_fault: expected one of {CHOICES}, found {on_fault!r}.")
    return on_fault


def _rows(data: Data, count: int) -> Data:
    return jax.tree.map(lambda x: x[:count], data)
