"""One range and one bearing under any mixture of four Gaussians: the published fusion update by itself."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.representations.angular import wrap
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Examples, Problem
from transformers_gmm.meta_priors import GaussianMixtures
from transformers_gmm.network import lower_triangular
from transformers_gmm.task import AbstractTask
from transformers_gmm.tasks import range_bearing as tracking
from transformers_gmm.tasks.static import Draws
from transformers_gmm.updates import factor

_PLACE, _SPEED = np.array([0, 2]), np.array([1, 3])
_HYPOTHESES, _PIECES = 2, 2  # echo or clutter; components for each
_SIDE = 0.35  # rad: 3.5 standard deviations of a bearing
_NARROW = 0.5  # of log(1 + range) on either side of an echo, whose standard deviation is 0.1 there


class FusionUpdate(AbstractTask):
    """One update of `RangeBearing`, its prior drawn from the paper's meta-prior; every latent is (p_x, v_x, p_y, v_y).

    The base integrates each component's posterior position, as an echo and as clutter, on a polar grid of its own and
    fits two Gaussians to it; given the position the velocity is Gaussian, exactly. The prior stands beside them with a
    thousandth of the weight: where a grid is too coarse, as for a long thin component, the truth is not lost. Training
    takes the expectation over the posterior by weighted points.

    Attributes:
        num_points: M, weighted posterior points for each problem.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.3.1 and appendix I.
    """

    name: str = eqx.field(static=True, default="fusion_update")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=4, num_components=20, context={"bearing": 3, "prior": 15, "range": 3}, token_features=12, width=64,
            heads=4, layers=3, feedforward=128,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=4_000, batch=2048, learning_rate=4e-4, seed=14)
    )
    meta_prior: GaussianMixtures = eqx.field(static=True, default=GaussianMixtures(4, 4))
    num_points: int = eqx.field(static=True, default=64)

    def draw(self, key: jax.Array, n: int) -> Draws:
        """`n` priors of four components, a state from each, and its range and bearing."""
        keys = jax.random.split(key, 3)
        prior = self.meta_prior.sample(keys[0], n)
        states = prior.sample(keys[1], 1)[:, 0]
        return Draws(prior, states, tracking.simulate_values(keys[2], states))

    def simulate(self, key: jax.Array, n: int) -> Examples:
        """The truth among draws of base and prior, weighted by posterior over their density."""
        key_draw, key_points = jax.random.split(key)
        draws = self.draw(key_draw, n)
        problem = self.problem(draws.prior, draws.data)
        proposal = _both(problem.base, draws.prior, 0.2)
        points = proposal.sample(key_points, self.num_points - 1)
        points = jnp.concatenate([draws.latents[:, None], points], axis=1)
        log_weights = self.log_joint(draws.prior, draws.data, points) - proposal.log_prob(points)
        return Examples(problem, points, jax.nn.log_softmax(log_weights, axis=-1))

    def log_joint(
        self, prior: Components, data: dict[str, Array], points: Float[Array, "batch points 4"]
    ) -> Float[Array, "batch points"]:
        """Log prior plus log likelihood, nats."""
        values = {name: jnp.broadcast_to(v[:, None], (*points.shape[:2], 1)) for name, v in data.items()}
        present = {name: jnp.ones(points.shape[:2], bool) for name in values}
        return prior.log_prob(points) + tracking.log_density(values, present, points)

    def problem(self, prior: Components, data: dict[str, Array]) -> Problem:
        """What the network sees of priors (n, 4, ...) and values (n, 1) of both sensors."""
        base = _both(_updated(prior, data["range"][..., 0], data["bearing"][..., 0]), prior, 0.001)
        kind, lead = base.means.dtype, base.log_weights.shape
        r = tracking.distance(base.means)
        misfits = [
            jnp.arcsinh((data["range"] - r) / (0.1 * (r + 1))),
            jnp.arcsinh(wrap(data["bearing"] - tracking.direction(base.means)) / tracking.BEARING_SD),
        ]
        pieces = np.indices((prior.num_components, _HYPOTHESES, _PIECES)).reshape(3, -1)[1:].T
        which = np.concatenate([pieces, np.full((prior.num_components, 2), -1)])
        which = jnp.broadcast_to(jnp.asarray(which, kind), (*lead, 2))
        seen = [_absolute(base)[..., 1:], jnp.stack(misfits, axis=-1), which]
        prior_tokens = jnp.concatenate([_absolute(prior), _correlations(prior)], axis=-1)
        context = {"prior": prior_tokens} | {
            name: tracking.value_token(data[name][..., 0], name)[..., None, :] for name in ("range", "bearing")
        }
        mask = {name: jnp.ones(tokens.shape[:-1], bool) for name, tokens in context.items()}
        mask["prior"] = prior.log_weights > -20.0
        return Problem(base, base.mean, jnp.sqrt(base.variance), jnp.concatenate(seen, axis=-1), context, mask)


def _updated(prior: Components, z: Array, bearing: Array) -> Components:
    """Two Gaussians for each component and hypothesis, (n, K * 2 * 2, ...), in this order."""
    covariances = prior.covariances
    place, speed = prior.means[..., _PLACE], prior.means[..., _SPEED]
    root = _place_root(prior.scale_tril)  # (n, K, 2, 2)
    cross = covariances[..., _SPEED, :][..., _PLACE]
    u, d, log_mass = _polar_points(place, root, z, bearing)
    log_evidence = jax.nn.logsumexp(log_mass, axis=-1)  # (n, K, H)
    mass = jnp.exp(log_mass - log_evidence[..., None])
    r, angle = jnp.expm1(u), bearing[:, None, None, None] + d
    points = jnp.stack([r * jnp.sin(angle), r * jnp.cos(angle)], axis=-1)
    share, mean, spread = _two_gaussians(points, mass, u)  # (n, K, H, P, ...)
    inverse = _inverse_root(root)
    half = cross @ jnp.swapaxes(inverse, -1, -2)
    slope, left = half @ inverse, covariances[..., _SPEED, :][..., _SPEED] - half @ jnp.swapaxes(half, -1, -2)
    slope, left = slope[..., None, None, :, :], left[..., None, None, :, :]
    gap = mean - place[..., None, None, :]
    mean_speed = speed[..., None, None, :] + jnp.einsum("...ij,...j->...i", slope, gap)
    down = slope @ spread
    both = jnp.concatenate(
        [
            jnp.concatenate([spread, jnp.swapaxes(down, -1, -2)], axis=-1),
            jnp.concatenate([down, left + down @ jnp.swapaxes(slope, -1, -2)], axis=-1),
        ],
        axis=-2,
    )
    order = np.array([0, 2, 1, 3])  # (p_x, p_y, v_x, v_y) to (p_x, v_x, p_y, v_y)
    means = jnp.concatenate([mean, mean_speed], axis=-1)[..., order]
    both = both[..., order, :][..., order]
    log_weights = prior.log_weights[..., None, None] + log_evidence[..., None] + jnp.log(share)
    n = z.shape[0]
    return Components(
        jax.nn.log_softmax(log_weights.reshape(n, -1), axis=-1),
        means.reshape(n, -1, 4),
        factor(both.reshape(n, -1, 4, 4)),
    )


def _polar_points(place: Array, root: Array, z: Array, bearing: Array) -> tuple[Array, Array, Array]:
    """Points of each component's posterior as echo and as clutter: log(1 + range), angle off the bearing, log mass.

    All of shape (n, K, 2, M). A first grid over all that can be finds where the mass is, a second one covers it.
    """
    cov = root @ jnp.swapaxes(root, -1, -2)
    half_trace = (cov[..., 0, 0] + cov[..., 1, 1]) / 2
    half_gap = jnp.sqrt((cov[..., 0, 0] - cov[..., 1, 1]) ** 2 / 4 + cov[..., 0, 1] ** 2)
    wide = jnp.sqrt(half_trace + half_gap)  # longest half axis, (n, K)
    away = jnp.sqrt(jnp.sum(place**2, axis=-1))
    low, high = jnp.log1p(jnp.maximum(away - 4.5 * wide, 0)), jnp.log1p(away + 4.5 * wide)
    middle = jnp.log1p(z)[:, None]
    echo_low = jnp.minimum(jnp.maximum(low, middle - _NARROW), high - 0.02)
    echo_high = jnp.maximum(jnp.minimum(high, middle + _NARROW), echo_low + 0.02)
    low, high = jnp.stack([echo_low, low], axis=-1), jnp.stack([echo_high, high], axis=-1)
    zero = jnp.zeros_like(low)
    # A component between two points of the first grid is blurred until it is seen.
    step = (high - low) / 24
    blur = 0.5 * ((step * (1 + away)[..., None]) ** 2 + (0.1 * away[..., None]) ** 2)
    eye = jnp.eye(2, dtype=cov.dtype)[None, None, None]
    blurred = factor(cov[:, :, None] + blur[..., None, None] * eye)
    u, d, log_mass = _on_grid(place, blurred, z, bearing, (low, high), (zero - _SIDE, zero + _SIDE), (24, 8))
    mass = jax.nn.softmax(log_mass, axis=-1)
    ends = []
    for x, (least, most) in ((u, (jnp.zeros_like(low), jnp.full_like(low, jnp.inf))), (d, (zero - 0.5, zero + 0.5))):
        mean = jnp.sum(mass * x, axis=-1)
        sd = jnp.sqrt(jnp.sum(mass * (x - mean[..., None]) ** 2, axis=-1) + 1e-6)
        ends.append((jnp.maximum(mean - 3.6 * sd, least), jnp.minimum(mean + 3.6 * sd, most)))
    return _on_grid(place, jnp.broadcast_to(root[:, :, None], blurred.shape), z, bearing, ends[0], ends[1], (20, 10))


def _on_grid(
    place: Array,
    root: Array,
    z: Array,
    bearing: Array,
    ranges: tuple[Array, Array],
    angles: tuple[Array, Array],
    sizes: tuple[int, int],
) -> tuple[Array, Array, Array]:
    """Cell middles of an even grid and the log mass of each cell, (n, K, 2, M)."""
    kind, axes = root.dtype, []
    for (low, high), size in zip((ranges, angles), sizes, strict=True):
        middles = jnp.asarray((np.arange(size) + 0.5) / size, kind)
        axes.append(low[..., None] + (high - low)[..., None] * middles[None, None, None])
    lead, count = axes[0].shape[:-1], sizes[0] * sizes[1]
    u = jnp.broadcast_to(axes[0][..., :, None], (*lead, *sizes)).reshape(*lead, count)
    d = jnp.broadcast_to(axes[1][..., None, :], (*lead, *sizes)).reshape(*lead, count)
    r, angle = jnp.expm1(u), bearing[:, None, None, None] + d
    x = r * jnp.sin(angle) - place[..., 0, None, None]
    y = r * jnp.cos(angle) - place[..., 1, None, None]
    value, sd = z[:, None, None], 0.1 * (r + 1)
    echo = -0.5 * ((value - r[:, :, 0]) / sd[:, :, 0]) ** 2 - jnp.log(sd[:, :, 0] * math.sqrt(2 * math.pi))
    clutter = jnp.broadcast_to(tracking.log_clutter(value), echo.shape)
    seen = jnp.stack([echo + math.log(tracking.ECHO), clutter], axis=2)
    seen = seen - 0.5 * (d / tracking.BEARING_SD) ** 2 - math.log(tracking.BEARING_SD * math.sqrt(2 * math.pi))
    area = [jnp.log((high - low) / size)[..., None] for (low, high), size in zip((ranges, angles), sizes, strict=True)]
    jacobian = jnp.log(r + 1e-12) + u  # dx dy = r (1 + r) du dtheta
    return u, d, _log_normal(x, y, root) + seen + jacobian + area[0] + area[1]


def _two_gaussians(points: Array, mass: Array, u: Array, rounds: int = 4) -> tuple[Array, Array, Array]:
    """Shares (..., 2), means (..., 2, 2) and covariances of two Gaussians fitted to weighted points (..., M, 2).

    Expectation maximisation, from a soft cut at the mean of log(1 + range) on.
    """
    middle = jnp.sum(mass * u, axis=-1, keepdims=True)
    sd = jnp.sqrt(jnp.sum(mass * (u - middle) ** 2, axis=-1, keepdims=True) + 1e-8)
    near = jax.nn.sigmoid(-2 * (u - middle) / sd)
    shares = jnp.stack([near, 1 - near], axis=-2)  # (..., 2, M)
    centre = jnp.sum(mass[..., None] * points, axis=-2)
    gaps = points - centre[..., None, :]
    whole = jnp.einsum("...m,...mi,...mj->...ij", mass, gaps, gaps)
    eye = jnp.eye(2, dtype=mass.dtype).reshape((1,) * (whole.ndim - 2) + (2, 2))
    # Neither falls between two points.
    floor = 0.01 * whole + (4e-6 * jnp.trace(whole, axis1=-2, axis2=-1) + 1e-12)[..., None, None] * eye

    def moments(shares: Array) -> tuple[Array, Array, Array, Array]:
        part = mass[..., None, :] * shares
        total = jnp.sum(part, axis=-1) + 1e-12
        inner = part / total[..., None]
        means = jnp.einsum("...pm,...mi->...pi", inner, gaps)
        offs = gaps[..., None, :, :] - means[..., None, :]
        return total, means, offs, jnp.einsum("...pm,...pmi,...pmj->...pij", inner, offs, offs) + floor[..., None, :, :]

    for _ in range(rounds):
        total, _, offs, covs = moments(shares)
        fit = _log_normal(offs[..., 0], offs[..., 1], factor(covs)) + jnp.log(total)[..., None]
        shares = jax.nn.softmax(fit, axis=-2)
    total, means, _, covs = moments(shares)
    return total, means + centre[..., None, :], covs


def _log_normal(x: Array, y: Array, root: Array) -> Array:
    """Log density of N(0, L L') at points whose coordinates are (..., M), nats; L is (..., 2, 2)."""
    a, b, c = (root[..., i, j][..., None] for i, j in ((0, 0), (1, 0), (1, 1)))
    first = x / a
    return -0.5 * (first**2 + ((y - b * first) / c) ** 2) - jnp.log(a * c) - math.log(2 * math.pi)


def _place_root(scale_tril: Array) -> Array:
    """Cholesky factor of the covariance of (p_x, p_y), (..., 2, 2), without a difference of near equals."""
    last = jnp.sqrt(scale_tril[..., 2, 1] ** 2 + scale_tril[..., 2, 2] ** 2)
    return lower_triangular(jnp.stack([scale_tril[..., 0, 0], last], axis=-1), scale_tril[..., 2, 0, None])


def _inverse_root(root: Array) -> Array:
    a, b, c = root[..., 0, 0], root[..., 1, 0], root[..., 1, 1]
    return lower_triangular(jnp.stack([1 / a, 1 / c], axis=-1), (-b / (a * c))[..., None])


def _both(one: Components, two: Components, share: float) -> Components:
    return Components(
        jnp.concatenate([one.log_weights + math.log1p(-share), two.log_weights + math.log(share)], axis=-1),
        jnp.concatenate([one.means, two.means], axis=-2),
        jnp.concatenate([one.scale_tril, two.scale_tril], axis=-3),
    )


def _absolute(belief: Components) -> Array:
    """Log weight, means and log marginal widths, (..., K, 9)."""
    weight = jnp.maximum(belief.log_weights, -12.0)[..., None] / 4
    own = jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1))
    return jnp.concatenate([weight, belief.means / 2, jnp.log(own)], axis=-1)


def _correlations(belief: Components) -> Array:
    covariances = belief.covariances
    own = jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1))
    row, column = np.tril_indices(belief.dim, -1)
    return (covariances / own[..., :, None] / own[..., None, :])[..., row, column]
