"""Parts of a program's measure as targets of their own: the first scores only, or all of them at a temperature."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from probinf.language.program import Program
from probinf.transformations.traces import Place, Trace, Traced


@dataclasses.dataclass(frozen=True)
class Prefix:
    """A traced program that stops at a suspension: scores beyond the first `stop` do not count.

    Attributes:
        whole: the program.
        stop: how many scores count.
        frozen: places that come before this many scores are not moved; None to move all.
    """

    whole: Traced
    stop: Any
    frozen: Any = None

    @property
    def table(self) -> Mapping[str, Place]:
        """The places of the whole program; those that are reached later are free."""
        return self.whole.table

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        """A point with the weight of the scores that count."""
        return self.whole.replay(slots, self.stop if stop is None else jnp.minimum(stop, self.stop))

    def protect(self, old: Any, new: Any) -> Any:
        """A proposal with the frozen places as they were."""
        if self.frozen is None:
            return new
        # What a frozen place sees comes before it, so it is frozen too, and no move changes which places they are.
        ages, kept = self.whole.ages_of(old), dict(new)
        for name, place in self.table.items():
            late = ages[name] >= self.frozen
            late = late.reshape(late.shape + (1,) * (old[name].ndim - len(place.loops)))
            kept[name] = jnp.where(late, new[name], old[name])
        return kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


@dataclasses.dataclass(frozen=True)
class Tempered:
    """A traced program whose scores count with an exponent."""

    whole: Traced
    exponent: Any

    @property
    def table(self) -> Mapping[str, Place]:
        """The places of the whole program."""
        return self.whole.table

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        """A point with its tempered weight."""
        log_prior, log_score = self.whole.prior_and_score(slots, stop)
        # 0 * -inf: at exponent 0 only the prior counts.
        tempered = jnp.where(self.exponent == 0, jnp.zeros_like(log_score), self.exponent * log_score)
        return Trace(dict(slots), log_prior + tempered)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class Assigned:
    """A program seen through the values of its latent sites, constrained: the target of conditional SMC.

    The weight is the log density of the whole assignment with respect to the sites' own base measures.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.table: Mapping[str, Place] = {}

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        """An assignment of every latent site, with its log density."""
        assert stop is None
        return Trace(dict(slots), self.program.log_density(slots).astype(jnp.result_type(float)))

    def values_of(self, slots: Any) -> dict[str, Any]:
        """The assignment itself."""
        return dict(slots)
