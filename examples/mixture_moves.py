"""Normal mixtures with an unknown number of components: the posterior density, and the moves of reversible jump.

The model is that of Richardson & Green (1997), with allocations summed out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln

import probinf as pi
from probinf.kernels.involutive import InvolutiveKernel, involutive
from probinf.kernels.kernel import Density, Kernel, cycle, repeat
from probinf.kernels.reversible_jump import reversible_jump

MOST = 30  # components
ROUNDS = 3  # of births, splits and moves in one step, then beta is drawn
MOVES_PER_STEP = 4 * ROUNDS + 1
BLOCK = 6  # components whose densities are computed together
SHAPE = 2.0  # alpha of the paper: precisions are Gamma(SHAPE, beta)
HYPER_SHAPE = 0.2  # g of the paper: beta is Gamma(HYPER_SHAPE, h)
MEAN_LOG_PRECISION, SD_LOG_PRECISION = 0.4228, 0.8031  # of a Gamma(2, 1) variable: digamma(2), sqrt(trigamma(2))

State = dict[str, Any]
"""k: number of components; g: (30,) unnormalised weights; mean, variance: (30,); beta. Beyond k: 0, 0 and 1.

Dirichlet(1) weights are g / sum(g) with independent Exponential(1) g: no constraint, so that a birth adds a coordinate.
"""
PARTS = {"g": 0.0, "mean": 0.0, "variance": 1.0}  # what is pinned beyond k
INDEX = np.arange(MOST)


class Scales(NamedTuple):
    """What the prior takes from the data: centre and width of their range."""

    centre: float
    width: float

    @staticmethod
    def of(y: np.ndarray) -> Scales:
        """Mid-range and range."""
        return Scales(float(y.max() + y.min()) / 2, float(np.ptp(y)))

    @property
    def hyper_rate(self) -> float:
        """h of the paper: the rate of beta's prior."""
        return 10 / self.width**2


def target(y: np.ndarray) -> Density:
    """The posterior density of weights, means, variances and beta, allocations summed out."""
    scales = Scales.of(y)

    def log_density(x: State) -> jax.Array:
        alive = jnp.asarray(INDEX) < x["k"]
        variance, beta = jnp.where(alive, x["variance"], 1.0), x["beta"]
        legal = (beta > 0) & jnp.all(jnp.where(alive, (variance > 0) & (x["g"] > 0), True))
        prior = (
            -x["g"]
            - 0.5 * ((x["mean"] - scales.centre) / scales.width) ** 2
            - jnp.log(scales.width)
            - 0.5 * jnp.log(2 * jnp.pi)
            + SHAPE * jnp.log(beta)
            - gammaln(SHAPE)
            - (SHAPE + 1) * jnp.log(variance)
            - beta / variance
        )
        hyper = (
            HYPER_SHAPE * jnp.log(scales.hyper_rate)
            - gammaln(HYPER_SHAPE)
            + (HYPER_SHAPE - 1) * jnp.log(beta)
            - scales.hyper_rate * beta
        )
        height = jnp.where(alive, x["g"] / jnp.sqrt(variance), 0.0)

        def block(i: jax.Array, density: jax.Array) -> jax.Array:
            own = (jax.lax.dynamic_slice(v, (i * BLOCK,), (BLOCK,)) for v in (height, x["mean"], 0.5 / variance))
            h, mean, half_precision = own
            return density + jnp.sum(h * jnp.exp(-((jnp.asarray(y)[:, None] - mean) ** 2) * half_precision), axis=1)

        # Only as many blocks of components as are in use: chains side by side run as many as the largest needs.
        density = jax.lax.fori_loop(0, (x["k"] + BLOCK - 1) // BLOCK, block, jnp.zeros(len(y)))
        likelihood = jnp.sum(jnp.log(density)) - len(y) * (
            jnp.log(jnp.sum(jnp.where(alive, x["g"], 0.0))) + 0.5 * jnp.log(2 * jnp.pi)
        )
        total = jnp.sum(jnp.where(alive, prior, 0.0)) + hyper + likelihood - jnp.log(float(MOST))
        return jnp.where(legal & ~jnp.isnan(total), total, -jnp.inf)

    return Density(log_density, "normal mixture")


def dimension(x: State) -> Any:
    """Coordinates that carry a density: three per component, and beta."""
    return 3 * x["k"] + 1


# -- births and splits put a component at a random place of the list, whose owner moves to its end ---------------------


def insert(x: State, place: jax.Array, component: dict[str, jax.Array]) -> State:
    """One component more, at `place`."""
    index = jnp.asarray(INDEX)

    def one(values: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(index == place, new, jnp.where(index == x["k"], values[place], values))

    return {**x, **{n: one(x[n], component[n]) for n in PARTS}, "k": x["k"] + 1}


def remove(x: State, place: jax.Array) -> State:
    """One component less; the last one takes its place."""
    index, last = jnp.asarray(INDEX), x["k"] - 1

    def one(values: jax.Array, pinned: float) -> jax.Array:
        return jnp.where(index == last, pinned, jnp.where(index == place, values[last], values))

    return {**x, **{n: one(x[n], pinned) for n, pinned in PARTS.items()}, "k": last}


def component(x: State, place: jax.Array) -> dict[str, jax.Array]:
    """The parameters of one component."""
    return {n: x[n][place] for n in PARTS}


def overwrite(x: State, place: jax.Array, values: dict[str, jax.Array]) -> State:
    """Other parameters for one component."""
    mine = jnp.asarray(INDEX) == place
    return {**x, **{n: jnp.where(mine, values[n], x[n]) for n in PARTS}}


def jump_probabilities(x: State) -> tuple[Any, Any]:
    """Up and down with 1/2 each, where there is room."""
    return jnp.where(x["k"] < MOST, 0.5, 0.0), jnp.where(x["k"] > 1, 0.5, 0.0)


def anywhere(n: Any) -> dist.Distribution:
    """Uniform on 0..n-1, which compiles in half the time of a DiscreteUniform."""
    return dist.CategoricalProbs((jnp.asarray(INDEX) < n) / jnp.maximum(n, 1))


def birth_and_death(scales: Scales) -> InvolutiveKernel:
    """A new component, drawn about as the prior draws it but of small weight; or the end of one."""

    def up(x: State) -> None:
        pi.sample("place", anywhere(x["k"] + 1))
        # Mostly small weights: components come and go while they own few observations.
        total = jnp.sum(jnp.where(jnp.asarray(INDEX) < x["k"], x["g"], 0.0))
        pi.sample("g", dist.LogNormal(jnp.log(total / 25), 1.8))
        pi.sample("mean", dist.Normal(scales.centre, 0.5 * scales.width))
        pi.sample("variance", dist.LogNormal(jnp.log(x["beta"]) - MEAN_LOG_PRECISION, SD_LOG_PRECISION))

    def forward(x: State, u: dict) -> tuple[State, dict]:
        return insert(x, u["place"], u), {"place": u["place"]}

    def inverse(x: State, v: dict) -> tuple[State, dict]:
        return remove(x, v["place"]), {**component(x, v["place"]), "place": v["place"]}

    return reversible_jump(
        forward,
        inverse,
        up=up,
        down=lambda x: pi.sample("place", anywhere(x["k"])),
        probabilities=jump_probabilities,
        log_jacobian=lambda *_: 0.0,
        dimension=dimension,
        name="birth and death",
    )


def split_and_merge() -> InvolutiveKernel:
    """Split a component so that weight, mean and variance are kept; merge neighbours (in order of their means)."""

    def up(x: State) -> None:
        pi.sample("first", anywhere(x["k"]))
        pi.sample("second", anywhere(x["k"] + 1))
        for name in ("u1", "u2", "u3"):
            pi.sample(name, dist.Uniform(0.0, 1.0))

    def down(x: State) -> None:
        # Any component but the one of the largest mean: it merges with the next.
        alive = jnp.asarray(INDEX) < x["k"]
        top = jnp.argmax(jnp.where(alive, x["mean"], -jnp.inf))
        free = (alive & (jnp.asarray(INDEX) != top)).astype(float)
        lower = pi.sample("lower", dist.CategoricalProbs(free / jnp.maximum(jnp.sum(free), 1.0)))
        # Drawn with probability one, so that a split whose halves are not neighbours has no reverse and is rejected.
        above = jnp.where(alive & (x["mean"] > x["mean"][lower]), x["mean"], jnp.inf)
        pi.sample("upper", dist.CategoricalProbs((jnp.asarray(INDEX) == jnp.argmin(above)).astype(float)))

    def forward(x: State, u: dict) -> tuple[State, dict]:
        one, place = component(x, u["first"]), u["second"]
        g1, g2 = one["g"] * u["u1"], one["g"] * (1 - u["u1"])
        sd, rest = jnp.sqrt(one["variance"]), one["variance"] * (1 - u["u2"] ** 2)
        low = {
            "g": g1,
            "mean": one["mean"] - u["u2"] * sd * jnp.sqrt(g2 / g1),
            "variance": u["u3"] * rest / u["u1"],
        }
        high = {
            "g": g2,
            "mean": one["mean"] + u["u2"] * sd * jnp.sqrt(g1 / g2),
            "variance": (1 - u["u3"]) * rest / (1 - u["u1"]),
        }
        new = insert(overwrite(x, u["first"], low), place, high)
        return new, {"lower": jnp.where(place == u["first"], x["k"], u["first"]), "upper": place}

    def inverse(x: State, v: dict) -> tuple[State, dict]:
        second = v["upper"]
        low, high = component(x, v["lower"]), component(x, second)
        g = low["g"] + high["g"]
        u1 = low["g"] / g
        mean = u1 * low["mean"] + (1 - u1) * high["mean"]
        within = u1 * low["variance"] + (1 - u1) * high["variance"]
        between = u1 * (1 - u1) * (high["mean"] - low["mean"]) ** 2
        variance = within + between
        merged = {"g": g, "mean": mean, "variance": variance}
        new = remove(overwrite(x, v["lower"], merged), second)
        first = jnp.where(v["lower"] == x["k"] - 1, second, v["lower"])
        return new, {
            "first": first,
            "second": second,
            "u1": u1,
            "u2": jnp.sqrt(between / variance),
            "u3": u1 * low["variance"] / within,
        }

    def log_jacobian(x: State, u: dict) -> jax.Array:
        """Equation (11) of the paper: g |mean1 - mean2| variance1 variance2 / (u2 (1 - u2^2) u3 (1 - u3) variance)."""
        one, u1, u2 = component(x, u["first"]), u["u1"], u["u2"]
        gap = u2 * jnp.sqrt(one["variance"] / (u1 * (1 - u1)))
        # variance1 variance2 = u3 (1 - u3) (1 - u2^2)^2 variance^2 / (u1 (1 - u1))
        return jnp.log(one["g"] * gap * (1 - u2**2) * one["variance"] / (u1 * (1 - u1) * u2))

    return reversible_jump(
        forward,
        inverse,
        up=up,
        down=down,
        probabilities=jump_probabilities,
        log_jacobian=log_jacobian,
        dimension=dimension,
        name="split and merge",
    )


def component_move(step: float, name: str) -> InvolutiveKernel:
    """Random walk of one component: mean in units of its standard deviation, logs of variance and weight."""

    def auxiliary(x: State) -> None:
        pi.sample("j", anywhere(x["k"]))
        pi.sample("z", dist.Normal(jnp.zeros(3), step * jnp.array([1.0, 1.0, 1.2])).to_event(1))

    def move(x: State, v: dict) -> tuple[State, dict]:
        j, (z1, z2, z3) = v["j"], v["z"]
        old = component(x, j)
        new = {
            "g": old["g"] * jnp.exp(z3),
            "mean": old["mean"] + jnp.sqrt(old["variance"]) * z1,
            "variance": old["variance"] * jnp.exp(z2),
        }
        # On the way back the step of the mean is in units of the new standard deviation.
        return overwrite(x, j, new), {"j": j, "z": jnp.stack([-z1 * jnp.exp(-z2 / 2), -z2, -z3])}

    # (mean, z1) to (mean + sd z1, -z1 sd / sd'): sd / sd'; two logs: variance'/variance, g'/g.
    return involutive(
        auxiliary,
        move,
        log_jacobian=lambda x, v: -v["z"][1] / 2 + v["z"][1] + v["z"][2],
        dimension=dimension,
        name=name,
    )


def beta_move(scales: Scales) -> InvolutiveKernel:
    """Gibbs: draw beta from its full conditional and swap; the ratio is one."""

    def auxiliary(x: State) -> None:
        alive = jnp.asarray(INDEX) < x["k"]
        rate = scales.hyper_rate + jnp.sum(jnp.where(alive, 1 / x["variance"], 0.0))
        pi.sample("beta", dist.Gamma(HYPER_SHAPE + SHAPE * x["k"], rate))

    def swap(x: State, v: dict) -> tuple[State, dict]:
        return {**x, "beta": v["beta"]}, {"beta": x["beta"]}

    return involutive(auxiliary, swap, log_jacobian=lambda *_: 0.0, dimension=dimension, name="beta")


def sampler(y: np.ndarray) -> Kernel:
    """One step of a chain."""
    scales = Scales.of(y)
    moves = cycle(
        birth_and_death(scales),
        component_move(0.5, "component"),
        split_and_merge(),
        component_move(1.5, "component, far"),
    )
    return cycle(repeat(moves, ROUNDS), beta_move(scales))
