"""The log density of a program's latent sites on unconstrained space: what gradient methods see."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from probinf.language.distributions import abstract_key
from probinf.language.handlers import ScoreUnconstrained, SiteScores, Unconstrain
from probinf.language.sites import only_sometimes
from probinf.language.staging import Staged


@dataclasses.dataclass(frozen=True)
class Unconstrained:
    """Log density, bijections and start values of one program.

    Attributes:
        name: the model's name.
        staged: the program.
        operands: arrays (arguments and data), to be passed as traced arguments.
        non_centred: Gaussian sites whose unconstrained value is the standardised one.
    """

    name: str
    staged: Staged
    operands: Any
    non_centred: frozenset[str] = frozenset()

    @property
    def signature(self) -> Hashable:
        """The same signature means the same compiled code."""
        return self.staged, self.non_centred

    @property
    def discrete_sites(self) -> tuple[str, ...]:
        """Latent sites with integer values."""
        return tuple(s.name for s in self.staged.latent() if s.discrete)

    @property
    def conditional_sites(self) -> tuple[str, ...]:
        """Latent sites that are reached under some values of others only."""
        return tuple(s.name for s in only_sometimes(self.staged.sites))

    @property
    def conditional_labels(self) -> tuple[str, ...]:
        """The same for messages: name, place, and the branch (1 is the true one of a cond) that reaches the site."""
        return tuple(
            f"{s.label} in branch {', '.join(str(b) for _, b in s.branches)}" for s in only_sometimes(self.staged.sites)
        )

    @property
    def dims(self) -> dict[str, tuple[str | None, ...]]:
        """Names of the axes of every latent and deterministic value, from the left; None where unnamed."""
        return {s.name: s.dims for s in self.staged.sites if s.kind in ("sample", "deterministic")}

    @property
    def coords(self) -> dict[str, Any]:
        """Coordinates by dimension name (positions along plates)."""
        return {
            d: list(range(n)) for s in self.staged.sites for d, n in zip(s.dims, s.shape, strict=True) if d is not None
        }

    @functools.cached_property
    def position_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every latent value on unconstrained space."""
        return jax.eval_shape(self.prior_position, self.operands, abstract_key())

    def logdensity(self, operands: Any, position: dict[str, Any]) -> jax.Array:
        """Scalar log density at an unconstrained position, log Jacobians included, in nats."""
        handler = ScoreUnconstrained(self.non_centred)
        return self.staged.run(operands, handler, handler.start(), position)[1]

    def constrain(self, operands: Any, position: dict[str, Any]) -> dict[str, jax.Array]:
        """Latent and deterministic values at an unconstrained position."""
        handler = ScoreUnconstrained(self.non_centred)
        return self.staged.run(operands, handler, handler.start(), position)[2]

    def site_logdensities(self, operands: Any, position: dict[str, Any]) -> dict[str, jax.Array]:
        """Log density of each site at a position: where a start fails."""
        handler = SiteScores(self.non_centred)
        records = self.staged.run(operands, handler, handler.start(), position)[2]
        return {name: jnp.sum(value) for name, value in records.items()}

    def prior_position(self, operands: Any, key: jax.Array) -> dict[str, jax.Array]:
        """A draw from the prior, on unconstrained space."""
        handler = Unconstrain(self.non_centred)
        return self.staged.run(operands, handler, handler.start(key), {})[2]

    def unconstrain(self, operands: Any, values: dict[str, Any]) -> dict[str, jax.Array]:
        """The unconstrained position of an assignment of every latent site."""
        handler = Unconstrain(self.non_centred)
        return self.staged.run(operands, handler, handler.start(jax.random.key(0)), values)[2]
