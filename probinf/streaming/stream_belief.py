"""The belief of a filter at a time: a pytree one can store, copy, stack and hand on as a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.random import as_key
from probinf.representations.belief import AbstractBelief
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture import GaussianMixture, check_component_count
from probinf.streaming.compiled import Channel, Evidence
from probinf.streaming.method import AbstractFilterMethod


class HistoryEntry(eqx.Module):
    """An event and the belief before it, kept so that a late event can be slipped in."""

    time_before: Any
    state_before: Any
    evidence_before: Evidence
    time: Any
    channel: Channel | None = eqx.field(static=True)
    event: tuple


class StreamBelief(AbstractBelief):
    """The distribution of the state at `time` given all events so far.

    Attributes:
        state: the method's own arrays; whatever randomness is still to come rides in them.
        method: gives the arrays their meaning.
        evidence: log evidence as a compensated sum.
        time: seconds, a NumPy float64. Keep it out of jitted code of your own where 64-bit floats are off: it would be
            rounded to 32 bits. The compiled steps of the library see only time differences.
        history: events inside the filter's lag window, with the states before them.
        claim: `exact`, `unbiased`, `consistent` or `approximate`.
    """

    state: Any
    method: AbstractFilterMethod
    evidence: Evidence
    time: Any
    history: tuple = ()
    claim: str = eqx.field(static=True, default="approximate")

    @classmethod
    def assemble(
        cls,
        state: Any,
        method: AbstractFilterMethod,
        evidence: Evidence,
        time: Any,
        history: tuple = (),
        claim: str = "approximate",
    ) -> StreamBelief:
        """The same as the constructor without Equinox's checks, which cost as much as a small Kalman update."""
        belief = object.__new__(cls)
        fields = vars(belief)
        fields.update(state=state, method=method, evidence=evidence, time=time, history=history, claim=claim)
        return belief

    @property
    def mean(self) -> jax.Array:
        return self.method.mean(self.state)

    @property
    def cov(self) -> jax.Array:
        return self.method.cov(self.state)

    @property
    def log_evidence(self) -> jax.Array:
        return self.evidence.value

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        return self.method.sample(self.state, as_key(key, argument="key"), n)

    def log_prob(self, x: Any) -> jax.Array:
        return self.method.log_prob(self.state, jnp.asarray(x))

    def as_mixture(self, k: int) -> GaussianMixture:
        check_component_count(k)
        return self.method.as_mixture(self.state, k)

    def __repr__(self) -> str:
        kind = type(self.method).__name__
        if np.ndim(self.time) or not is_concrete(self.state):
            return f"StreamBelief({kind}, batch of {np.size(self.time)})"
        sd = np.sqrt(np.diagonal(np.asarray(self.cov)))
        entries = ", ".join(f"{m:.4g}±{s:.2g}" for m, s in zip(np.asarray(self.mean), sd, strict=True))
        return (
            f"StreamBelief({kind}, t={float(self.time):g} s, state=[{entries}], "
            f"log_evidence={float(self.log_evidence):.6g}, {self.claim})"
        )


def stack_beliefs(beliefs: Sequence[StreamBelief]) -> StreamBelief:
    """B beliefs of one filter as one belief: states, evidences and times get a leading axis of length B."""
    if len({jax.tree.structure(b) for b in beliefs}) != 1 or beliefs[0].history:
        raise ArgumentError("stack_beliefs: expected beliefs of one filter, without history; their structures differ.")
    first = beliefs[0]
    state, evidence = jax.tree.map(lambda *leaves: jnp.stack(leaves), *((b.state, b.evidence) for b in beliefs))
    # Times stay float64 on the host.
    time = np.stack([np.asarray(b.time) for b in beliefs])
    return StreamBelief.assemble(state, first.method, evidence, time, (), first.claim)


def unstack_beliefs(batch: StreamBelief) -> list[StreamBelief]:
    """The inverse of `stack_beliefs`."""

    def one(i: int) -> StreamBelief:
        state, evidence = jax.tree.map(lambda leaf: leaf[i], (batch.state, batch.evidence))
        return StreamBelief.assemble(state, batch.method, evidence, batch.time[i], (), batch.claim)

    return [one(i) for i in range(np.size(batch.time))]
