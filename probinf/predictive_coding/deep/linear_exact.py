"""Exact inference in affine networks with Gaussian energies: one linear system for all examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from probinf.errors import ArgumentError
from probinf.predictive_coding.deep.clamping import Clamp, Free, energies, layer_energies
from probinf.predictive_coding.deep.energy import Gaussian, NoEnergy
from probinf.predictive_coding.deep.network import DeepNetwork
from probinf.predictive_coding.deep.relaxation import AbstractRelaxation, RelaxationInfo


class ExactLinear(AbstractRelaxation):
    r"""The minimum of a quadratic energy, which is the posterior mean of the free activities.

    Solves $H z = -\nabla F(0)$ with the Hessian of the free activities, by Cholesky: cubic in their number, once for
    the whole batch where no unit is observed in part.
    """

    def check(self, network: DeepNetwork) -> None:
        """Raise if the network is not affine with Gaussian energies.

        Raises:
            ArgumentError: a layer is not affine, or an energy not Gaussian; it is named.
        """
        for i, energy in enumerate((network.prior, *network.energies)):
            if not isinstance(energy, Gaussian | NoEnergy):
                name = "prior" if i == 0 else f"energies[{i - 1}]"
                raise ArgumentError(f"ExactLinear: expected Gaussian energies, found {name} {type(energy).__name__}.")
        rng = np.random.default_rng(0)
        for i, (layer, shape) in enumerate(zip(network.layers, network.shapes[:-1], strict=True)):
            a, b = (jnp.asarray(rng.normal(size=shape), network.dtype) for _ in range(2))
            images = [layer(z) for z in (a + b, jnp.zeros_like(a), a, b)]
            gap = float(jnp.max(jnp.abs(images[0] + images[1] - images[2] - images[3])))
            scale = 1.0 + max(float(jnp.max(jnp.abs(u))) for u in images)
            if not gap <= 1e3 * float(jnp.finfo(network.dtype).eps) * scale:
                raise ArgumentError(
                    f"ExactLinear: layers[{i}] is not affine: f(a + b) + f(0) differs from f(a) + f(b) by {gap:.3g}. "
                    "Use ToConvergence()."
                )

    def run(self, network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Free, RelaxationInfo]:
        before = energies(network, clamp, free)
        if not jax.tree.leaves(free):
            still = jnp.zeros_like(before)
            return free, RelaxationInfo(before[None], still.astype(int), still, jnp.isfinite(before))
        template = jax.tree.map(lambda z: z[0], free)
        flat, unravel = ravel_pytree(template)
        zero = jnp.zeros_like(flat)

        def energy(v: Array, c: Clamp) -> Array:
            return jnp.sum(layer_energies(network, c, unravel(v)))

        gradient = jax.vmap(jax.grad(energy), (None, 0))

        def curvature(c: Clamp) -> Array:
            """The Hessian; a unit that is held has no energy of its own here, and gets the identity."""
            found = jax.hessian(energy)(zero, c)
            if c.observed is None:
                return found
            held = jnp.concatenate([jnp.zeros(flat.size - c.observed.size, bool), c.observed.reshape(-1)])
            return found + jnp.diag(held.astype(found.dtype))

        def solution(c: Clamp, g: Array) -> Array:
            return -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(curvature(c)), g)

        slopes = gradient(zero, clamp)
        if clamp.observed is None:  # the Hessian of one example is that of all
            one = jax.tree.map(lambda leaf: leaf[0], clamp)
            solved = solution(one, slopes.T).T
        else:
            solved = jax.vmap(solution)(clamp, slopes)
        found = jax.vmap(unravel)(solved)
        left = jax.vmap(jax.grad(energy))(solved, clamp)
        norm = jnp.max(jnp.abs(left), axis=1)
        steps = jnp.ones(norm.shape, jnp.asarray(0).dtype)
        return found, RelaxationInfo(before[None], steps, norm, jnp.isfinite(norm))
