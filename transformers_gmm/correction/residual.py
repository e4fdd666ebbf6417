r"""What a mixture leaves of a belief, as points with signed weights.

After an event the belief is $q + \sum_i e_i\, \delta_{x_i}$, q a mixture and $e_i = (p - q)(x_i) / (n\, r(x_i))$ at n
points of a proposal r. The motion smooths the points, so that the next prediction is the moved mixture plus a sum of
Gaussians of either sign: unbiased, with the noise of the difference alone. Where q is right, the weights vanish.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from probinf.errors import ModelError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from smc.small_normal import cholesky
from transformers_gmm.components import Components
from transformers_gmm.correction.proposals import gaussian_motion
from transformers_gmm.updates import factor

_LEAST = 0.5  # of the mixture's density, below which noise does not take the sum of both
_CROWDED = 0.25  # cells for each point up to which the sum is less noise than help
_LARGEST = 30.0  # nats; an exponent that 32 bits hold


class Residual(eqx.Module):
    """N Gaussians with weights of either sign.

    Attributes:
        means: (N, d).
        covs: (N, d, d); zero until something moves.
        excess: (N,), the weights.
        is_smooth: whether the Gaussians overlap enough for their sum to be of use.
    """

    means: Float[Array, "points dim"]
    covs: Float[Array, "points dim dim"]
    excess: Float[Array, " points"]
    is_smooth: Bool[Array, ""]

    @classmethod
    def of_points(cls, x: Float[Array, "points dim"], excess: Float[Array, " points"]) -> Residual:
        """Points that nothing has smoothed yet."""
        n, dim = x.shape
        return cls(x, jnp.zeros((n, dim, dim), x.dtype), excess, jnp.zeros((), bool))

    def moved(self, system: System, dt: Array, control: Array | None, belief: GaussianMixture) -> Residual:
        """After a motion, linearised at each point; of no use where motions are not Gaussian.

        Args:
            system: of the motion.
            dt: seconds.
            control: of the motion.
            belief: the moved mixture. With the volume of its ellipsoid over a Gaussian's as the number of cells, sums
                of points are of use up to a quarter of a cell each.
        """

        def motion(x: Array) -> tuple[Array, Array]:
            mean, root = gaussian_motion(system.move_distribution(x, dt, control), system.name)
            return mean.astype(x.dtype), root.astype(x.dtype)

        def one(x: Array, cov: Array) -> tuple[Array, Array]:
            slope, (mean, root) = jax.jacfwd(lambda x: motion(x)[0])(x), motion(x)
            return mean, slope @ cov @ slope.T + root @ root.T

        try:
            means, covs = jax.vmap(one)(self.means, self.covs)
        except ModelError:
            return self
        own = _log_volume(jnp.mean(covs, axis=0))
        cells = jnp.exp(jnp.minimum(_log_volume(belief.cov) - own, _LARGEST))
        is_smooth = jnp.isfinite(own) & (cells < _CROWDED * len(self.excess))
        return Residual(system.wrap_angles(means), covs, self.excess, is_smooth)

    def gaussians(self, belief: GaussianMixture) -> GaussianMixture:
        """A mixture of all, by the size of their weights; the belief itself where they are of no use."""
        n, k = len(self.excess), belief.num_components
        which = jnp.arange(n) % k
        log_size = jnp.log(jnp.abs(self.excess) + 1e-6 / n)
        whole = Components(
            jax.nn.log_softmax(jnp.where(self.is_smooth, log_size, belief.log_weights[which])),
            jnp.where(self.is_smooth, self.means, belief.means[which]),
            jnp.where(self.is_smooth, factor(self.covs), belief.scale_tril[which]),
        )
        return whole.as_mixture()

    def added(self, x: Float[Array, "n dim"], log_mixture: Float[Array, " n"]) -> Float[Array, " n"]:
        """Log density of mixture and residual together, not normalised; at least half of the mixture's.

        Args:
            x: points.
            log_mixture: log density of the moved mixture there, nats.
        """
        factors = jnp.where(self.is_smooth, factor(self.covs), jnp.eye(x.shape[1], dtype=x.dtype)[None])
        one = Components(jnp.zeros((len(self.excess), 1), x.dtype), self.means[:, None], factors[:, None])
        each = one.log_prob(jnp.broadcast_to(x[None], (len(self.excess), *x.shape)))  # (N, n)
        ratio = self.excess @ jnp.exp(jnp.minimum(each - log_mixture[None], _LARGEST))
        return log_mixture + jnp.log(jnp.maximum(1 + jnp.where(self.is_smooth, ratio, 0), _LEAST))


def _log_volume(cov: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Half the log determinant; -inf or NaN where there is none."""
    return jnp.sum(jnp.log(jnp.diagonal(cholesky(cov))))
