"""Transition densities of all pairs (particle, successor): what exact smoothing spends its time on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from probinf.language.distributions import flatten, log_density, standard_promotion
from smc.small_normal import SMALL, solve_lower
from smc.state_space_model import StateSpaceModel

_CENTRED = (dist.Normal, dist.MultivariateNormal, dist.StudentT, dist.Laplace, dist.Logistic, dist.Cauchy)


class TransitionDensities(NamedTuple):
    """Log densities of the transition from N given particles, prepared for many evaluations.

    Everything that depends on the particle alone (means, Cholesky factors, log normalisers) is computed once, and
    parameters that are the same for all particles stay single numbers. Gaussian transitions of few dimensions are
    written out entry by entry, so that a pair costs a few multiplications and no call to LAPACK. A model that overrides
    `log_transition` has its own method called for every pair.

    Attributes:
        leaves: parameters, with a leading axis N where they differ between particles.
        axes: 0 for those, None for the others.
        density: log density from one particle's parameters and a successor, nats.
        num: N.
    """

    leaves: list[Array]
    axes: list[int | None]
    density: Callable[[list[Array], Array], Array]
    num: int

    @classmethod
    def of(cls, model: StateSpaceModel, t: Any, before: Array) -> TransitionDensities:
        """Prepare p(x_t | x_{t-1} = each of `before`), (N, *state)."""
        num = before.shape[0]
        if type(model).log_transition is not StateSpaceModel.log_transition:
            return cls([before], [0], lambda leaves, z: model.log_transition(t, leaves[0], z), num)
        density: list[Callable[[list, Array], Array]] = []

        def parameters(x: Array) -> list[Array]:
            with standard_promotion():
                law = model.transition(t, x)
            leaves, found = _gaussian(law) or _any(law)
            density[:] = [found]
            return leaves

        count = len(jax.eval_shape(parameters, before[0]))
        axes = [0 if _varies(lambda x, k=k: parameters(x)[k], before) else None for k in range(count)]
        if not count:  # a law without parameters
            return cls([], [], density[0], num)
        return cls(jax.vmap(parameters, out_axes=axes)(before), axes, density[0], num)

    def all_pairs(self, after: Array) -> Float[Array, "after num"]:
        """Log p(x_t = successor c | x_{t-1} = particle n) for successors (C, *state), nats."""
        if 0 not in self.axes:  # the transition forgets its past: every particle has the same density
            one = jax.vmap(lambda z: self.density(self.leaves, z))(after)
            return jnp.broadcast_to(one[:, None], (after.shape[0], self.num))
        over_particles = jax.vmap(self.density, in_axes=(self.axes, None))
        return jax.vmap(lambda z: over_particles(self.leaves, z))(after)

    def matched(self, index: Int[Array, " paths"], after: Array) -> Float[Array, " paths"]:
        """Log p(x_t = successor m | x_{t-1} = particle index[m]) for each path m, nats."""
        chosen = [x if axis is None else x[index] for x, axis in zip(self.leaves, self.axes, strict=True)]
        return jax.vmap(self.density, in_axes=(self.axes, 0))(chosen, after)


def log_peaks(model: StateSpaceModel, t: Any, before: Array) -> Float[Array, " num"] | None:
    """Log of the largest value of each particle's transition density, for laws that peak at their centre; or None."""
    if type(model).log_transition is not StateSpaceModel.log_transition:
        return None
    known: list[bool] = []

    def peak(x: Array) -> Array:
        with standard_promotion():
            law = base = model.transition(t, x)
            while isinstance(base, dist.Independent):
                base = base.base_dist
            known[:] = [isinstance(base, _CENTRED)]
            if not known[0]:
                return jnp.zeros(())
            gaussian = _gaussian(law)
            if gaussian is not None:
                return gaussian[0][0]  # the log normaliser; no factor is inverted for it
            loc = getattr(base, "loc")  # noqa: B009
            return log_density(law, jnp.broadcast_to(loc, law.event_shape))

    peaks = jax.vmap(peak)(before)
    return peaks if known[0] else None


def _varies(function: Callable[[Array], Array], before: Array) -> bool:
    """Whether a value depends on the particle: `vmap` refuses to return a mapped value as unmapped."""
    try:
        jax.eval_shape(jax.vmap(function, out_axes=None), before)
    except ValueError:
        return True
    return False


def _any(law: dist.Distribution) -> tuple[list[Array], Callable[[list, Array], Array]]:
    leaves, structure = flatten(law)
    return leaves, lambda ls, z: log_density(jax.tree.unflatten(structure, ls), z)


def _gaussian(law: dist.Distribution) -> tuple[list[Array], Callable[[list, Array], Array]] | None:
    r"""A Gaussian by its location, the entries of the inverse Cholesky factor, and the log normaliser.

    $\log N(z; m, LL') = c - \tfrac12 \|L^{-1} (z - m)\|^2$, with the difference taken first: locations that are large
    against the spread keep their digits in float32.
    """
    base = law
    while isinstance(base, dist.Independent):
        base = base.base_dist
    size = math.prod(law.event_shape)
    if type(base) is dist.Normal and 1 <= size <= SMALL:
        dtype = _common_type(base.loc, base.scale)
        loc = jnp.broadcast_to(jnp.asarray(base.loc, dtype), law.event_shape).reshape(-1)
        scale = jnp.broadcast_to(jnp.asarray(base.scale, dtype), law.event_shape).reshape(-1)
        roots = [[(i, 1.0 / scale[i])] for i in range(size)]
        log_scale = [jnp.log(scale[i]) for i in range(size)]
    elif isinstance(base, dist.MultivariateNormal) and base is law and size <= SMALL:
        dtype = _common_type(base.loc, base.scale_tril)
        loc = jnp.broadcast_to(jnp.asarray(base.loc, dtype), (size,))
        factor = jnp.asarray(base.scale_tril, dtype)
        inverse = solve_lower(factor, jnp.eye(size, dtype=factor.dtype))
        roots = [[(j, inverse[i, j]) for j in range(i + 1)] for i in range(size)]
        log_scale = [jnp.log(factor[i, i]) for i in range(size)]
    else:
        return None
    where = [[j for j, _ in row] for row in roots]
    constant = -sum(log_scale[1:], log_scale[0]) - 0.5 * size * math.log(2.0 * math.pi)
    leaves = [constant, *[loc[i] for i in range(size)], *[entry for row in roots for _, entry in row]]

    def density(leaves: list, z: Array) -> Array:
        constant, locs, entries = leaves[0], leaves[1 : 1 + size], iter(leaves[1 + size :])
        flat = jnp.reshape(z, (-1,)).astype(dtype)
        gaps = [flat[i] - locs[i] for i in range(size)]
        total = None
        for row in where:
            white = None
            for j in row:
                term = next(entries) * gaps[j]
                white = term if white is None else white + term
            assert white is not None
            total = white * white if total is None else total + white * white
        assert total is not None
        return constant - 0.5 * total

    return leaves, density


def _common_type(*parameters: Any) -> Any:
    """Python numbers take on the type of the arrays beside them."""
    with standard_promotion():
        return jnp.result_type(*parameters)
