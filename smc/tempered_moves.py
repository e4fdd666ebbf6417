"""Moves of tempered particles: Hamiltonian Monte Carlo or a random walk, in rounds that end when the particles mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.kernels.hmc import LogDensity, move_population, start_population, step_size_share
from smc.paired_threefry import paired

#: The moves of one temperature go on until no coordinate remembers more than this of where it started.
AUTOCORRELATION_LIMIT = 0.3
KINDS = ("hmc", "rwm")
_SHORTEST_STEP = 1e-5
_MOST_STALLS = 2  # rounds of little progress in a row before the moves of a temperature are given up
# Powers of the old correlation that the new one is compared with. Mixing squares the correlation when the moves are
# doubled; a fifth of that is little progress, a tenth none.
_LITTLE, _NONE = 1.2, 1.1


class Tuning(NamedTuple):
    """What the step size of one kind of moves aims at, in standard deviations of the particles."""

    acceptance: float
    longest: float
    start: Callable[[int], float]


TUNING = {
    # Near the optimum for trajectories of a few leapfrog steps (Beskos et al. 2013: 0.65 to 0.9); 2 is the stability
    # limit of a Gaussian.
    "hmc": Tuning(0.8, 1.5, lambda dim: 1.2 * dim**-0.25),
    "rwm": Tuning(0.234, 2.4, lambda dim: 2.38 * dim**-0.5),  # Roberts, Gelman & Gilks (1997)
}


class WalkingPopulation(NamedTuple):
    """Particles and their density, (N, d) and (N,)."""

    position: Array
    logdensity: Array


class Moved(NamedTuple):
    """What moves of R runs did.

    Attributes:
        position: (R, N, d), after all moves.
        halfway: (R, N, d), after half of them.
        log_step_size: (R,).
        acceptance: (R,), of the last round.
        num_moves: (R,).
        autocorrelation: (R,), largest over coordinates and the log density.
        slowest: (R,) index of the slowest coordinate; d for the log density.
    """

    position: Array
    halfway: Array
    log_step_size: Array
    acceptance: Array
    num_moves: Array
    autocorrelation: Array
    slowest: Array


def walk_population(
    key: Array, population: WalkingPopulation, logdensity: LogDensity, step_size: Array, root: Float[Array, "dim dim"]
) -> tuple[WalkingPopulation, Array]:
    """One random-walk Metropolis move of every particle, with covariance step_size² root rootᵀ.

    Returns:
        The population and each particle's acceptance probability, (N,). A proposal with density NaN is rejected.
    """
    key_propose, key_accept = jax.random.split(key)
    x = population.position
    proposal = x + step_size * (jax.random.normal(key_propose, x.shape, x.dtype) @ root.T)
    proposed = jax.vmap(logdensity)(proposal)
    log_ratio = proposed - population.logdensity
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    accept = -jax.random.exponential(key_accept, log_ratio.shape, log_ratio.dtype) < log_ratio
    new = WalkingPopulation(jnp.where(accept[:, None], proposal, x), jnp.where(accept, proposed, population.logdensity))
    return new, jnp.exp(jnp.minimum(log_ratio, 0))


def covariance_root(weights: Float[Array, " particles"], position: Float[Array, "particles dim"]) -> Array:
    """Lower Cholesky factor of the weighted covariance; of its diagonal where it has none."""
    centred = position - (weights @ position)[None]
    covariance = centred.T @ (weights[:, None] * centred)
    tiny = jnp.asarray(jnp.finfo(position.dtype).tiny ** 0.5, position.dtype)
    diagonal = jnp.maximum(jnp.diagonal(covariance), tiny)
    # A little more on the diagonal: the covariance of few distinct particles is singular.
    root = jnp.linalg.cholesky(covariance + jnp.diag(1e-4 * diagonal))
    return jnp.where(jnp.all(jnp.isfinite(root)), root, jnp.diag(jnp.sqrt(diagonal)))


def weighted_variance(weights: Float[Array, " particles"], position: Float[Array, "particles dim"]) -> Array:
    """Weighted variance of each coordinate, kept above zero."""
    variance = weights @ (position - (weights @ position)[None]) ** 2
    return jnp.maximum(variance, jnp.asarray(jnp.finfo(variance.dtype).tiny ** 0.5, variance.dtype))


def autocorrelations(
    before: Float[Array, "particles dim"], after: Float[Array, "particles dim"]
) -> Float[Array, " dim"]:
    """Correlation over the particles of each coordinate with itself before the moves; 1 where nothing varies."""
    x, y = before - jnp.mean(before, axis=0)[None], after - jnp.mean(after, axis=0)[None]
    scale = jnp.sqrt(jnp.sum(x * x, axis=0) * jnp.sum(y * y, axis=0))
    return jnp.where(scale > 0, jnp.abs(jnp.sum(x * y, axis=0)) / jnp.where(scale > 0, scale, 1), 1)


def autocorrelation_limit(num_particles: int) -> float:
    """The limit, no lower than what independent positions of so few particles show by chance (3.5 standard errors)."""
    return max(AUTOCORRELATION_LIMIT, 3.5 / num_particles**0.5)


class Moves:
    """One kind of moves for R runs of N particles side by side.

    Args:
        kind: "hmc" or "rwm".
        parts: function (operands, flat position) -> (log prior, log likelihood).
        num_leapfrog: leapfrog steps of a trajectory of "hmc".
    """

    def __init__(self, kind: str, parts: Callable[[Any, Array], tuple[Array, Array]], num_leapfrog: int) -> None:
        self.kind, self.parts, self.num_leapfrog = kind, parts, num_leapfrog
        self.tuning = TUNING[kind]

    def scale(self, weights: Array, position: Array) -> Array:
        """Metric of each run from its weighted particles: variances for "hmc", a covariance's root for "rwm"."""
        return jax.vmap(weighted_variance if self.kind == "hmc" else covariance_root)(weights, position)

    def _density(self, operands: Any, beta: Array) -> LogDensity:
        def one(x: Array) -> Array:
            prior, likelihood = self.parts(operands, x)
            return prior + beta * likelihood

        return one

    def start(self, operands: Any, position: Array, beta: Array) -> Any:
        """Look at the particles with the target of a temperature."""

        def one(x: Array, beta: Array) -> Any:
            density = self._density(operands, beta)
            if self.kind == "hmc":
                return start_population(x, density)
            return WalkingPopulation(x, jax.vmap(density)(x))

        return jax.vmap(one)(position, beta)

    def step(
        self, operands: Any, key: Array, number: Array, population: Any, beta: Array, log_step: Array, scale: Array
    ) -> tuple[Any, Array]:
        """Move all particles once; the new population and the acceptance rate of each run."""
        keys = jax.random.split(jax.random.fold_in(paired(key), number), population.position.shape[0])
        if self.kind == "hmc":
            size = jnp.exp(log_step) * step_size_share(number).astype(log_step.dtype)
            population, rates = jax.vmap(
                lambda k, p, b, s, v: move_population(k, p, self._density(operands, b), s, v, self.num_leapfrog)
            )(keys, population, beta, size, scale)
        else:
            population, rates = jax.vmap(lambda k, p, b, s, v: walk_population(k, p, self._density(operands, b), s, v))(
                keys, population, beta, jnp.exp(log_step), scale
            )
        return population, jnp.mean(rates, axis=1)

    def adapt(self, log_step: Array, rate: Array) -> Array:
        """The next step size. Between rounds only, so that each round is a kernel that leaves its target unchanged."""
        change = jnp.clip(2.0 * (rate - self.tuning.acceptance), -1.0, 0.3)
        low, high = jnp.log(_SHORTEST_STEP), jnp.log(self.tuning.longest)
        return jnp.clip(log_step + change, low, high).astype(log_step.dtype)

    def rounds(
        self,
        operands: Any,
        before: Array,
        beta: Array,
        scale: Array,
        log_step: Array,
        key: Array,
        num_moves: int,
        max_moves: int,
    ) -> Moved:
        """Rounds of moves, each as long as all before it, until every coordinate has forgotten where it started.

        They end early when a round brings no coordinate above the limit nearer to it, or two in a row hardly do: the
        particles are divided among regions between which the moves do not cross, and more of them are wasted.
        """
        limit = jnp.asarray(autocorrelation_limit(before.shape[1]), before.dtype)
        population = self.start(operands, before, beta)
        at_start = self.watched(population)

        def round_of_moves(carry: tuple) -> tuple:
            population, _, log_step, done, _, old, stalls = carry
            length = jnp.where(done == 0, num_moves, done)
            halfway = (done + length) // 2

            def one(i: Array, inner: tuple) -> tuple:
                population, half, total = inner
                half = jnp.where(done + i == halfway, population.position, half)
                population, rate = self.step(operands, key, done + i, population, beta, log_step, scale)
                return population, half, total + rate

            start = (population, population.position, jnp.zeros_like(log_step))
            population, half, total = jax.lax.fori_loop(0, length, one, start)
            rate = total / length.astype(total.dtype)
            rho = jax.vmap(autocorrelations)(at_start, self.watched(population))
            little, none = (jnp.all((rho <= limit) | (jnp.log(rho) > c * jnp.log(old))) for c in (_LITTLE, _NONE))
            stalls = jnp.where(done == 0, 0, jnp.where(none, _MOST_STALLS, jnp.where(little, stalls + 1, 0)))
            return population, half, self.adapt(log_step, rate), done + length, rate, rho, stalls

        def goes_on(carry: tuple) -> Array:
            _, _, _, done, _, rho, stalls = carry
            return jnp.any(rho > limit) & (done < max_moves) & (stalls < _MOST_STALLS)

        ones = jnp.ones((before.shape[0], before.shape[2] + 1), before.dtype)
        carry = (population, before, log_step, jnp.int32(0), jnp.zeros_like(log_step), ones, jnp.int32(0))
        population, half, log_step, done, rate, rho, _ = jax.lax.while_loop(goes_on, round_of_moves, carry)
        return Moved(
            population.position,
            half,
            log_step,
            rate,
            jnp.broadcast_to(done, rate.shape),
            jnp.max(rho, axis=1),
            jnp.argmax(rho, axis=1).astype(jnp.int32),
        )

    @staticmethod
    def watched(population: Any) -> Array:
        """Coordinates and log density, (R, N, d + 1): what has to forget where it started."""
        return jnp.concatenate([population.position, population.logdensity[:, :, None]], axis=2)
