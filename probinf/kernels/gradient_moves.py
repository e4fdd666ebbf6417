"""Moves of continuous values through BlackJAX: Hamiltonian and Langevin proposals, slices, microcanonical dynamics.

Each move changes the sites of a target that hold continuous values, on unconstrained space, and holds everything else
fixed. It runs in coordinates u with x = x0 + scale * u, where x0 is the state it starts from: the scale is then the
square root of a diagonal inverse mass matrix for all of them (Neal 2011, section 4.1), and a state that is kept is kept
to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.flat import FlatLayout
from probinf.kernels.kernel import Info, Kernel, emit
from probinf.kernels.nuts import unit_metric
from probinf.kernels.trace_moves import continuous_values
from probinf.language.distributions import standard_promotion
from probinf.transformations.randomness import RandomKeys
from probinf.transformations.traces import Trace

Rate = jax.Array
#: (key, coordinates) to the new u, its log density, and the acceptance rate
Move = Callable[[jax.Array, "Coordinates"], tuple[jax.Array, jax.Array, Rate]]


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """A target seen from one of its states.

    Attributes:
        target: what the move keeps.
        state: where u is zero.
        layout: where each site lives in the vector; sites in alphabetical order.
        scale: (dim,), lengths in x of one unit of each coordinate.
    """

    target: Any
    state: Trace
    layout: FlatLayout
    scale: jax.Array

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.layout.dim

    @property
    def start(self) -> jax.Array:
        """(dim,), the state itself."""
        return jnp.zeros(self.dim, self.layout.dtype)

    def slots(self, u: jax.Array) -> dict[str, jax.Array]:
        """The point at u."""
        old = self.state.slots
        x = self.layout.ravel({n: old[n] for n in self.layout.shapes}) + self.scale * u
        new = {**old, **self.layout.unravel(x)}
        # Places that the target freezes are coordinates without effect: nothing depends on where they go.
        protect = getattr(self.target, "protect", None)
        return new if protect is None else protect(old, new)

    def logdensity(self, u: jax.Array) -> jax.Array:
        """Log density of the target at u, nats."""
        return self.target.replay(self.slots(u)).log_weight

    def gradient(self, u: jax.Array) -> jax.Array:
        """(dim,), its gradient.

        Raises:
            ModelError: the program has a loop that cannot be differentiated backwards.
        """
        try:
            return jax.grad(self.logdensity)(u)
        except ValueError as error:
            if "Reverse-mode differentiation" not in str(error):
                raise
            raise ModelError(
                "This move needs gradients, and reverse-mode differentiation does not go through a while loop. Use "
                "lax.scan or lax.fori_loop with fixed bounds, or a move without gradients such as pi.slice_sampling()."
            ) from None


def coordinates(target: Any, state: Trace, inverse_mass_matrix: Any = None) -> Coordinates:
    """The continuous values of a state as a vector.

    Args:
        target: any target of traces.
        state: a point of it.
        inverse_mass_matrix: its diagonal, a number or (dim,), about the variance of each coordinate; ones by default.

    Raises:
        ModelError: no site of the target holds a continuous value.
        ArgumentError: the diagonal has another length.
    """
    names = continuous_values(target)
    layout = FlatLayout({n: jax.ShapeDtypeStruct(jnp.shape(state.slots[n]), state.slots[n].dtype) for n in names})
    variance = np.ones(()) if inverse_mass_matrix is None else np.asarray(inverse_mass_matrix, float)
    if variance.shape not in ((), (layout.dim,)):
        raise ArgumentError(
            f"inverse_mass_matrix: expected a number or an array of shape ({layout.dim},), one variance for each "
            f"coordinate of {', '.join(names)} in this order, found shape {variance.shape}."
        )
    scale = jnp.asarray(np.broadcast_to(np.sqrt(variance), (layout.dim,)), layout.dtype)
    return Coordinates(target, state, layout, scale)


def _kernel(name: str, claim: Claim, inverse_mass_matrix: Any, move: Move) -> Kernel:
    variance = _diagonal(inverse_mass_matrix)

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        seen = coordinates(target, state, variance)
        key = jax.random.wrap_key_data(emit(RandomKeys(())))
        with standard_promotion():  # BlackJAX is written for the ordinary rules; the program is staged already
            u, log_density, rate = move(key, seen)
        rate = jnp.where(jnp.isfinite(rate), rate, jnp.zeros_like(rate)).astype(jnp.result_type(float))
        return Trace(seen.slots(u), log_density.astype(state.log_weight.dtype)), {"accepted": rate}

    return Kernel(name, step, claim)


def hmc(step_size: float, num_steps: int, *, inverse_mass_matrix: Any = None) -> Kernel:
    """Hamiltonian Monte Carlo: `num_steps` leapfrog steps from a normal momentum, accepted by the change of energy.

    The end of a trajectory with its momentum reversed leads back to the start, so the move of the position alone is in
    detailed balance (Duane et al. 1987; Neal 2011, section 3.2). Claim: reversible.

    Trajectories of one length may come back to where they began: mix two lengths, or use `nuts_kernel`.

    Args:
        step_size: of the leapfrog integrator, in units of the scale of each coordinate.
        num_steps: leapfrog steps of each trajectory.
        inverse_mass_matrix: its diagonal on unconstrained space, a number or one entry for each coordinate (sites in
            alphabetical order, each in C order); ones by default.

    Raises:
        ArgumentError: a setting that is not positive.
        ArgumentTypeError: a setting that is not a number.
    """
    size, count = _positive("step_size", step_size), positive_integer("num_steps", num_steps)

    def move(key: jax.Array, seen: Coordinates) -> tuple[jax.Array, jax.Array, Rate]:
        import blackjax

        kernel: Any = blackjax.hmc.build_kernel()
        new, info = kernel(key, _hmc_state(seen), seen.logdensity, size, unit_metric(), count)
        return new.position, new.logdensity, info.acceptance_rate

    return _kernel(f"hmc({size:g}, {count})", Claim.REVERSIBLE, inverse_mass_matrix, move)


def nuts_kernel(step_size: float, *, max_tree_depth: int = 10, inverse_mass_matrix: Any = None) -> Kernel:
    """The No-U-Turn sampler with a fixed step size, as one move among others; `pi.NUTS` also adapts.

    Multinomial weights along the trajectory and a preference for its later half (Hoffman & Gelman 2014; Betancourt
    2017, appendix A). Claim: invariant, and not reversible: the preference treats the two ends of a move differently,
    and only its average over all starting points of a trajectory is known to be right.

    Args:
        step_size: of the leapfrog integrator, in units of the scale of each coordinate.
        max_tree_depth: at most 2**max_tree_depth - 1 gradients a step.
        inverse_mass_matrix: as for `hmc`.

    Raises:
        ArgumentError: a setting that is not positive.
        ArgumentTypeError: a setting that is not a number.
    """
    size, depth = _positive("step_size", step_size), positive_integer("max_tree_depth", max_tree_depth)

    def move(key: jax.Array, seen: Coordinates) -> tuple[jax.Array, jax.Array, Rate]:
        import blackjax

        kernel: Any = blackjax.nuts.build_kernel()
        new, info = kernel(key, _hmc_state(seen), seen.logdensity, size, unit_metric(), depth)
        return new.position, new.logdensity, info.acceptance_rate

    return _kernel(f"nuts_kernel({size:g})", Claim.INVARIANT, inverse_mass_matrix, move)


def mala(step_size: float, *, inverse_mass_matrix: Any = None) -> Kernel:
    """The Metropolis-adjusted Langevin algorithm (Besag 1994; Roberts & Tweedie 1996). Claim: reversible.

    Proposes u + step_size * gradient + sqrt(2 step_size) * noise and accepts by Metropolis-Hastings.

    Args:
        step_size: half the variance of the noise, in units of the inverse mass matrix.
        inverse_mass_matrix: as for `hmc`.

    Raises:
        ArgumentError: a step size that is not positive.
        ArgumentTypeError: a step size that is not a number.
    """
    size = _positive("step_size", step_size)

    def move(key: jax.Array, seen: Coordinates) -> tuple[jax.Array, jax.Array, Rate]:
        import blackjax

        new_state: Any = blackjax.mcmc.mala.MALAState
        kernel: Any = blackjax.mala.build_kernel()
        state = new_state(seen.start, seen.state.log_weight, seen.gradient(seen.start))
        new, info = kernel(key, state, seen.logdensity, size)
        return new.position, new.logdensity, info.acceptance_rate

    return _kernel(f"mala({size:g})", Claim.REVERSIBLE, inverse_mass_matrix, move)


def slice_sampling(width: float = 1.0, *, max_expansions: int = 10, inverse_mass_matrix: Any = None) -> Kernel:
    """Slice sampling along a random line: stepping out and shrinkage (Neal 2003, figures 3 and 5; hit and run).

    Needs no gradient and no accept step, and finds its own scale within a factor of `max_expansions`. The direction
    does not depend on the state and the intervals found from either end of a move are equally likely, so the move is
    in detailed balance (Neal 2003, section 4.3). Claim: reversible.

    Args:
        width: of the first interval, in units of the scale of each coordinate.
        max_expansions: the interval grows to at most this many widths.
        inverse_mass_matrix: as for `hmc`; it shapes the law of the direction.

    Raises:
        ArgumentError: a setting that is not positive.
        ArgumentTypeError: a setting that is not a number.
    """
    size, most = _positive("width", width), positive_integer("max_expansions", max_expansions)

    def move(key: jax.Array, seen: Coordinates) -> tuple[jax.Array, jax.Array, Rate]:
        from blackjax.mcmc import slice as slices

        new_state: Any = slices.SliceState
        kernel: Any = slices.build_kernel(slices.stepping_out, most)
        state = new_state(seen.start, seen.state.log_weight)
        new, info = kernel(key, state, seen.logdensity, slices.direction_proposal(), size)
        return new.position, new.logdensity, jnp.asarray(info.is_accepted, new.logdensity.dtype)

    return _kernel(f"slice_sampling({size:g})", Claim.REVERSIBLE, inverse_mass_matrix, move)


def mclmc(step_size: float, num_steps: int, *, adjusted: bool = True, inverse_mass_matrix: Any = None) -> Kernel:
    """Microcanonical dynamics: a trajectory of constant speed that turns with the gradient, from a random direction.

    Adjusted (Robnik, Cohn-Gordon & Seljak 2025): no noise on the way, accepted by the change of energy. The integrator
    is its own inverse under a reversed direction, so the move of the position is in detailed balance. Claim:
    reversible.

    Unadjusted (Robnik, De Luca, Silverstein & Seljak 2023): Langevin noise on the way, of the strength that forgets the
    direction over one trajectory, and no accept step. Claim: approximate. The draws are those of a neighbouring
    target, with a bias of the order of step_size**2 that no number of draws removes.

    Args:
        step_size: of the integrator, a length in u. A standard normal of d dimensions wants about sqrt(d) / 2 and less.
        num_steps: steps of each trajectory.
        adjusted: accept or reject its end.
        inverse_mass_matrix: as for `hmc`.

    Raises:
        ArgumentError: a setting that is not positive.
        ArgumentTypeError: a setting that is not a number.
        ModelError: when run on fewer than two coordinates, where a direction of constant length cannot turn.
    """
    size, count = _positive("step_size", step_size), positive_integer("num_steps", num_steps)
    one = np.ones(())  # the scale is that of the coordinates

    def move(key: jax.Array, seen: Coordinates) -> tuple[jax.Array, jax.Array, Rate]:
        import blackjax

        if seen.dim < 2:
            raise ModelError(
                f"mclmc: expected at least two continuous coordinates, found {seen.dim} "
                f"({', '.join(seen.layout.shapes)}). Use hmc, mala or slice_sampling."
            )
        if adjusted:
            kernel: Any = blackjax.mcmc.adjusted_mclmc.build_kernel()
            new, info = kernel(key, _hmc_state(seen), seen.logdensity, size, (count,), one)
            return new.position, new.logdensity, info.acceptance_rate
        from blackjax.mcmc import integrators
        from blackjax.mcmc import mclmc as unadjusted
        from blackjax.util import generate_unit_vector

        kernel = unadjusted.build_kernel()
        key_direction, key_steps = jax.random.split(key)
        new_state: Any = integrators.IntegratorState
        start = new_state(
            seen.start,
            generate_unit_vector(key_direction, seen.start),
            seen.state.log_weight,
            seen.gradient(seen.start),
        )

        def advance(state: Any, key: jax.Array) -> tuple[Any, None]:
            return kernel(key, state, seen.logdensity, one, size * count, size)[0], None

        new, _ = jax.lax.scan(advance, start, jax.random.split(key_steps, count))
        return new.position, new.logdensity, jnp.ones_like(new.logdensity)

    claim = Claim.REVERSIBLE if adjusted else Claim.APPROXIMATE
    name = f"mclmc({size:g}, {count}{'' if adjusted else ', unadjusted'})"
    return _kernel(name, claim, inverse_mass_matrix, move)


def _hmc_state(seen: Coordinates) -> Any:
    """The start as BlackJAX wants it; its weight is kept, not computed again."""
    import blackjax

    new_state: Any = blackjax.mcmc.hmc.HMCState
    return new_state(seen.start, seen.state.log_weight, seen.gradient(seen.start))


# -- door checks -------------------------------------------------------------------------------------------------------


def _positive(argument: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ArgumentTypeError(f"{argument}: expected a positive number, found {value!r}.")
    if not (math.isfinite(value) and value > 0):
        raise ArgumentError(f"{argument}: expected a positive number, found {value}.")
    return float(value)


def _diagonal(value: Any) -> Any:
    if value is None:
        return None
    variance = np.asarray(value, float)
    if variance.ndim > 1:
        raise ArgumentError(
            f"inverse_mass_matrix: expected its diagonal, a number or one entry for each coordinate, found shape "
            f"{variance.shape}."
        )
    if not (np.isfinite(variance) & (variance > 0)).all():
        raise ArgumentError(f"inverse_mass_matrix: expected positive entries, found {variance}.")
    return variance
