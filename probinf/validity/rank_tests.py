"""Statistical checks of kernels on continuous programs, exact in their error rate.

Parameters and data are drawn together, so that the parameters are one exact draw from the posterior. A chain that keeps
the posterior then keeps the joint law. Reversible kernels are tested by the rank of a statistic at a random position of
the chain (Besag & Clifford 1989; Gandy & Scott 2020), all of them by a two-sample test between the starts of one half
of the replicates and the ends of the other half (Geweke 2004). Both are exact whatever the kernel's mixing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats

from probinf.claims import Claim
from probinf.errors import ModelError
from probinf.kernels.kernel import Kernel
from probinf.kernels.running import take_step, with_key
from probinf.language import statements as pi
from probinf.language.program import Program, model
from probinf.transformations.targets import Assigned
from probinf.transformations.traces import Trace, Traced
from probinf.validity.report import Check, statistical_check

_REPLICATES = 4000
_LENGTH = 16


@model
def normal_mean(y: Any) -> None:
    """A mean and two observations."""
    mu = pi.sample("mu", dist.Normal(0.0, 1.0))
    pi.observe("y", dist.Normal(jnp.stack([mu, mu]), 0.7).to_event(1), y)


@model
def mean_and_scale(y: Any) -> None:
    """Mean and scale unknown: the weight depends on both."""
    mu = pi.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pi.sample("sigma", dist.LogNormal(0.0, 0.5))
    pi.observe("y", dist.Normal(mu, sigma).expand([3]).to_event(1), y)


@model
def two_models(y: Any) -> None:
    """A random branch: one mean or two."""
    many = pi.sample("many", dist.BernoulliProbs(0.4))
    loc = jax.lax.cond(
        many == 1,
        lambda: pi.sample("means", dist.Normal(0.0, 1.0).expand([2]).to_event(1)),
        lambda: jnp.broadcast_to(pi.sample("mean", dist.Normal(1.0, 0.5)), (2,)),
    )
    pi.observe("y", dist.Normal(loc, 0.6).to_event(1), y)


@model
def walk(ys: Any) -> None:
    """A short state-space model with an unknown step size."""
    scale = pi.sample("scale", dist.LogNormal(-0.5, 0.4))

    def step(x: Any, y: Any) -> Any:
        x = pi.sample("x", dist.Normal(x, scale))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, jnp.zeros(()), ys)


def _cases() -> list[tuple[Program, tuple[str, ...]]]:
    return [
        (normal_mean(jnp.zeros(2)), ("mu",)),
        (mean_and_scale(jnp.zeros(3)), ("mu", "sigma")),
        (two_models(jnp.zeros(2)), ()),
        (walk(jnp.zeros(4)), ("scale", "x")),
    ]


def check_ranks(kernel: Kernel, seed: int, name: str) -> Iterator[Check]:
    """Rank and two-sample tests of a kernel on the continuous programs that it can move."""
    for program, names in _cases():
        for values in ((), names) if names else ((),):
            if kernel.space == "assignments" and values != names:
                continue
            try:
                target = Assigned(program) if kernel.space == "assignments" else Traced(program, values=values)
                found = _chains(kernel, target, program, values, jax.random.key(seed))
            except ModelError:
                continue
            label = program.name + (" (values)" if values else "")
            yield from _tests(kernel, found, name, label, np.random.default_rng(seed))


def _chains(kernel: Kernel, target: Any, program: Program, values: tuple[str, ...], key: jax.Array) -> np.ndarray:
    """Statistics along stationary chains: (replicates, 2 * length - 1), the exact draw in the middle."""
    (site,) = [s.name for s in program.staged.sites if s.kind == "observe"]

    def at(data: Any) -> Any:
        operands = jax.tree.map(lambda _: data, program.operands)
        if isinstance(target, Assigned):
            return Assigned(program.with_operands(operands))
        return target.at(operands)

    def one(key: jax.Array) -> jax.Array:
        k_draw, k_data, k_forward, k_back = jax.random.split(key, 4)
        if isinstance(target, Assigned):
            drawn = program.simulate(k_draw)
            slots = {n: v for n, v in drawn.items() if n != site}
            data = drawn[site]
        else:
            slots = with_key(target.draw, k_draw)
            given = {n: v for n, v in target.values_of(slots).items() if n in {s.name for s in program.staged.latent()}}
            data = _replicate(program, given, site, k_data)
        here = at(data)
        start = here.replay(slots)

        def statistic(trace: Trace) -> jax.Array:
            # The joint log density is the most sensitive single choice; the values break its ties.
            found = here.values_of(trace.slots)
            return trace.log_weight + sum(_shape(v) for v in found.values())

        def run(key: jax.Array) -> jax.Array:
            def step(state: Trace, k: jax.Array) -> tuple[Trace, jax.Array]:
                state, _ = take_step(kernel, here, state, k)
                return state, statistic(state)

            return jax.lax.scan(step, start, jax.random.split(key, _LENGTH - 1))[1]

        back, forward = run(k_back), run(k_forward)
        return jnp.concatenate([back[::-1], statistic(start)[None], forward])

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, _REPLICATES)))


def _shape(values: Any) -> jax.Array:
    # Sites that are not reached have NaN for a value.
    return jnp.sum(jnp.nan_to_num(jnp.sin(jnp.asarray(values, jnp.result_type(float)))))


def _replicate(program: Program, given: dict[str, Any], site: str, key: jax.Array) -> jax.Array:
    from probinf.language.handlers import Forward

    handler = Forward(predict=True)
    operands = jax.tree.map(jnp.asarray, program.operands)
    return program.staged.run(operands, handler, handler.start(key), given)[2][site]


def _tests(kernel: Kernel, found: np.ndarray, name: str, program: str, rng: np.random.Generator) -> Iterator[Check]:
    middle = _LENGTH - 1
    # A state that has not moved is weighed again by other compiled code: a last bit must not break the tie.
    found = np.round(found, 9)

    def check(claim: str, p: float) -> Check:
        return statistical_check(name, claim, program, p, len(found))

    half = len(found) // 2
    ends: Any = scipy.stats.ks_2samp(found[:half, middle], found[half:, -1], method="asymp")
    yield check("invariant", float(ends.pvalue))
    if kernel.claim.implies(Claim.REVERSIBLE):
        # A window of fixed length around the exact draw, which stands at a uniform position of it.
        position = rng.integers(0, _LENGTH, len(found))
        columns = middle - position[:, None] + np.arange(_LENGTH)[None]
        window = np.take_along_axis(found, columns, axis=1)
        own = found[:, middle][:, None]
        noise = rng.uniform(size=window.shape)  # ties are broken at random
        mine = np.take_along_axis(noise, position[:, None], axis=1)
        rank = ((window < own) | ((window == own) & (noise < mine))).sum(axis=1)
        counts = np.bincount(rank, minlength=_LENGTH)
        yield check("reversible", float(scipy.stats.chisquare(counts).pvalue))
