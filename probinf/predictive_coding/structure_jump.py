"""Structures and numbers of a network by reversible jump: optional parts are born with numbers from the prior."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.kernels.involutive import involutive
from probinf.kernels.kernel import Density, Kernel, cycle, mix
from probinf.kernels.reversible_jump import reversible_jump
from probinf.kernels.running import run_chains
from probinf.language.distributions import standard_promotion
from probinf.language.statements import sample
from probinf.predictive_coding.coordinates import Coordinates, check_priors
from probinf.predictive_coding.supernetwork import Supernetwork
from probinf.random import as_key
from probinf.transformations.traces import Trace


@dataclasses.dataclass(frozen=True)
class StructureDraws:
    """Draws of structures and of the numbers that they have.

    Attributes:
        present: optional part to flags, (chains, draws).
        values: address to values, (chains, draws); NaN where its part is absent.
        acceptance: share of accepted steps, jumps and walks together.
    """

    present: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    acceptance: float

    def inclusion(self) -> dict[str, tuple[float, float]]:
        """Probability of each part and its standard error, from the spread between the chains."""
        shares = {part: flags.mean(axis=1) for part, flags in self.present.items()}
        return {p: (float(s.mean()), float(s.std(ddof=1) / np.sqrt(len(s)))) for p, s in shares.items()}


def jump_structures(
    pool: Supernetwork,
    data: Any,
    priors: Mapping[str, dist.Distribution],
    *,
    inclusion: float = 0.5,
    num_draws: int = 1000,
    num_warmup: int = 200,
    num_chains: int = 16,
    step_size: float = 0.5,
    seed: int | jax.Array = 0,
) -> StructureDraws:
    """Markov chains over structures and their numbers (Green 1995). Claim: invariant.

    One step is a jump of one optional part, taken at random, and a random walk of the numbers that are there. A part is
    born with its numbers drawn from their priors and dies with them, so that a jump is accepted by the ratio of the
    likelihoods and of the prior odds. Numbers of absent parts have no density. Chains run side by side.

    Args:
        pool: the network with its optional parts.
        data: one series, as in `Network.filter`.
        priors: address to distribution of one continuous number; those of an optional part are only there with it.
        inclusion: prior probability of each part.
        num_draws: kept steps of each chain.
        num_warmup: steps before these.
        num_chains: chains; the first half starts without, the second with all optional parts.
        step_size: of the walk, in standard deviations of the priors (on the unconstrained scale).
        seed: an integer or a key.

    Raises:
        ArgumentError: an impossible setting, a number that belongs to two optional parts, or parts within parts.
    """
    check_priors(priors)
    pool.network.places(tuple(priors))
    if not 0.0 < inclusion < 1.0:
        raise ArgumentError(f"inclusion: expected a probability strictly between 0 and 1, found {inclusion!r}.")
    for part in pool.optional:
        nested = [p for p in pool.optional if p != part and p in pool.addresses(part)]
        if nested:
            raise ArgumentError(f"optional: {nested[0]!r} cannot be there without {part!r}; jump over one of them.")
    owners = [[k for k, part in enumerate(pool.optional) if a in pool.addresses(part)] for a in priors]
    shared = [a for a, owner in zip(priors, owners, strict=True) if len(owner) > 1]
    if shared:
        raise ArgumentError(f"priors[{shared[0]!r}]: it belongs to more than one optional part.")
    counts = (positive_integer("num_draws", num_draws), positive_integer("num_warmup", num_warmup))
    if positive_integer("num_chains", num_chains) < 2:
        raise ArgumentError(f"num_chains: expected at least 2, found {num_chains}.")
    given = pool.network.prepare(data)
    if any(value.ndim != 1 for value in given.values):
        raise ArgumentError("data: expected one series.")

    belongs = np.array([owner[0] if owner else -1 for owner in owners])
    coordinates = Coordinates(dict(priors), given.dtype)
    key_start, key_scale, key_run = jax.random.split(as_key(seed), 3)
    scale = step_size * jnp.std(coordinates.sample(key_scale, (1000,)), axis=0)
    target = _target(pool, given, coordinates, belongs, inclusion)
    jumps = [_jump(coordinates, belongs, k) for k in range(len(pool.optional))]
    kernel = cycle(jumps[0] if len(jumps) == 1 else mix(*jumps), _walk(belongs, scale))

    present = jnp.broadcast_to((jnp.arange(num_chains) >= num_chains // 2)[:, None], (num_chains, len(pool.optional)))
    z = coordinates.sample(key_start, (num_chains,))
    positions = {"present": present.astype(jnp.int32), "z": jnp.where(_live(belongs, present), z, 0.0)}

    @jax.jit
    def run(key: jax.Array, positions: Any) -> Any:
        starts = Trace(positions, jax.vmap(target.log_density)(positions))
        return run_chains(kernel, target, starts, key, sum(counts))[1:]

    kept, acceptance = run(key_run, positions)
    kept = jax.tree.map(lambda x: np.swapaxes(np.asarray(x)[counts[1] :], 0, 1), kept)
    values = {a: np.asarray(v) for a, v in coordinates.values(jnp.asarray(kept["z"])).items()}
    flags = {part: kept["present"][..., k] == 1 for k, part in enumerate(pool.optional)}
    there = [np.ones_like(flags[pool.optional[0]]) if k < 0 else flags[pool.optional[k]] for k in belongs]
    return StructureDraws(
        flags,
        {a: np.where(t, v, np.nan) for (a, v), t in zip(values.items(), there, strict=True)},
        float(np.mean(np.asarray(acceptance))),
    )


def _live(belongs: np.ndarray, present: jax.Array) -> jax.Array:
    """Which coordinates are there, (..., P), where the parts (..., K) are."""
    columns = [jnp.ones_like(present[..., 0], bool) if k < 0 else present[..., k].astype(bool) for k in belongs]
    return jnp.stack(columns, axis=-1)


def _target(pool: Supernetwork, data: Any, coordinates: Coordinates, belongs: np.ndarray, inclusion: float) -> Density:
    odds = float(np.log(inclusion) - np.log1p(-inclusion))

    def log_density(position: Any) -> jax.Array:
        present = position["present"]
        network = pool.network.replace(coordinates.values(position["z"]))
        network = network.replace(pool.strengths(present != 0, network))
        prior = jnp.where(_live(belongs, present), coordinates.log_priors(position["z"]), 0.0)
        total = network.log_likelihood(data) + jnp.sum(prior) + odds * jnp.sum(present).astype(data.dtype)
        return jnp.where(jnp.isnan(total), -jnp.inf, total)

    return Density(log_density, "structures")


def _jump(coordinates: Coordinates, belongs: np.ndarray, k: int) -> Kernel:
    """Birth of part k with numbers from their priors, and its death."""
    own = [p for p in range(len(belongs)) if belongs[p] == k]
    names = list(coordinates.priors)

    def up(position: Any) -> None:
        for p in own:
            sample(f"u{p}", coordinates.priors[names[p]])

    def forward(position: Any, drawn: dict) -> tuple[Any, dict]:
        z, place = position["z"], jnp.arange(len(belongs))
        with standard_promotion():
            for p in own:
                z = jnp.where(place == p, jnp.asarray(coordinates.bijections()[p].inv(drawn[f"u{p}"]), z.dtype), z)
        return {"present": _switched(position["present"], k, 1), "z": z}, {}

    def inverse(position: Any, drawn: dict) -> tuple[Any, dict]:
        z, place = position["z"], jnp.arange(len(belongs))
        with standard_promotion():
            values = {f"u{p}": coordinates.bijections()[p](z[p]) for p in own}
        for p in own:
            z = jnp.where(place == p, jnp.zeros_like(z), z)
        return {"present": _switched(position["present"], k, 0), "z": z}, values

    def log_jacobian(position: Any, drawn: dict) -> jax.Array:
        total = jnp.zeros((), coordinates.dtype)
        with standard_promotion():
            for p in own:
                bijection, u = coordinates.bijections()[p], drawn[f"u{p}"]
                total = total - jnp.asarray(bijection.log_abs_det_jacobian(bijection.inv(u), u), total.dtype)
        return total

    def probabilities(position: Any) -> tuple[Any, Any]:
        there = position["present"][k].astype(coordinates.dtype)
        return 1.0 - there, there

    return reversible_jump(
        forward,
        inverse,
        up=up,
        probabilities=probabilities,
        log_jacobian=log_jacobian,
        name=f"birth and death {k}",
    )


def _switched(present: jax.Array, k: int, to: int) -> jax.Array:
    return jnp.where(jnp.arange(present.shape[0]) == k, jnp.asarray(to, present.dtype), present)


def _walk(belongs: np.ndarray, scale: jax.Array) -> Kernel:
    """A random walk of the numbers that are there; the noise changes sign, which makes it its own reverse."""

    def auxiliary(position: Any) -> None:
        zeros = jnp.zeros_like(position["z"])
        sample("noise", dist.Normal(zeros, jnp.ones_like(zeros)).to_event(1))

    def involution(position: Any, drawn: dict) -> tuple[Any, dict]:
        live = _live(belongs, position["present"])
        z = position["z"] + jnp.where(live, scale * drawn["noise"], 0.0)
        return {**position, "z": z}, {"noise": -drawn["noise"]}

    return involutive(auxiliary, involution, log_jacobian=functools.partial(_zero, scale.dtype), name="walk")


def _zero(dtype: Any, position: Any, drawn: dict) -> jax.Array:
    return jnp.zeros((), dtype)
