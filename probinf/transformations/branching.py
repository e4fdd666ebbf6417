r"""SSP resampling: offspring counts that are the floor or the ceiling of N W, by a chain of pairwise exchanges.

Every particle has floor(N W_i) children and a fraction r_i. Particle k meets the one particle whose fraction is still
open, c = frac(r_0 + ... + r_{k-1}), and one of the two is settled (Srinivasan 2001; Gerber, Chopin & Whiteley 2019,
Algorithm 2):

    c + r_k < 1:   one gets no further child; it is the old one with probability r_k / (c + r_k),
    c + r_k >= 1:  one gets one more child; it is the old one with probability (1 - r_k) / (2 - c - r_k),

and the other stays open with the rest. The open fraction is a prefix sum modulo one whatever is drawn, so nothing has
to be scanned: exchanges are independent coins, and who is open is a running maximum. The fractions are integers of
fixed point, which wrap around at one: their prefix sums are exact. O(N), two to four times as long as systematic
resampling and as long as one scan over scalars. Offspring are negatively associated, hence consistency and a bound on
the variance in any order of the particles, which systematic resampling does not have.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from probinf.transformations.ancestors import Ancestors, ancestors_from_run_ends, rotate, weights_from_log
from probinf.transformations.running import added, in_turn, running_max, running_sum, total


def expected_parts(log_weights: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights, and the whole and the fractional part of the expected numbers of children."""
    weights = weights_from_log(log_weights)
    mass = total(weights)
    expected = num * weights / jnp.where(mass > 0, mass, 1)
    whole = jnp.floor(expected)
    return weights, whole, expected - whole


class Chain:
    """The exchanges of one weight vector: what does not depend on the uniform numbers.

    Attributes:
        carries: (N,) whether meeting particle k settles one with a further child.
        fraction: (N,) particle k's own fraction.
        open_before: (N,) the open fraction that it meets.
        scale: (N,) and
        old: (N,) the old one is the heavier of the two, settled with a child or still open, where u * scale < old.
    """

    def __init__(self, rest: jax.Array) -> None:
        integer, bits = (jnp.uint64, 64) if rest.dtype == jnp.float64 else (jnp.uint32, 32)
        one = 2.0**bits
        fraction = (rest * one).astype(integer)
        sums = running_sum(fraction)
        self.carries = sums < fraction  # the sum has passed a whole number
        self.fraction, self.open_before = (x.astype(rest.dtype) / one for x in (fraction, sums - fraction))
        room = jnp.where(sums == 0, 1, (-sums).astype(rest.dtype) / one)
        self.scale = jnp.where(self.carries, room, sums.astype(rest.dtype) / one)
        self.old = jnp.where(self.carries, (-fraction).astype(rest.dtype) / one, self.open_before)

    def exchanges(self, uniforms: jax.Array) -> jax.Array:
        """Whether each particle becomes the open one; a particle without fraction never does."""
        # The same coin gives the old one the child on both sides of a sum of one, where rounding decides the case.
        return (self.fraction > 0) & ((uniforms * self.scale < self.old) == self.carries)

    def children(self, exchanges: jax.Array, weights: jax.Array, whole: jax.Array, num: int) -> jax.Array:
        """Numbers of children; they add up to `num` up to rounding in the weights."""
        n = weights.shape[0]
        index = jnp.arange(n, dtype=jnp.int32)
        holder = running_max(jnp.where(exchanges, index, 0), n)
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), holder[:-1]])
        settled = jnp.where(exchanges, before, index)
        more = added(settled, self.carries.astype(jnp.int32), n)
        # A last open fraction of nearly one is one.
        counts = whole.astype(jnp.int32) + more
        left = jnp.maximum(num - jnp.sum(counts, dtype=jnp.int32), 0) * (weights[holder[-1]] > 0).astype(jnp.int32)
        return counts.at[holder[-1]].add(left)


def _descend(counts: jax.Array, weights: jax.Array, num: int) -> jax.Array:
    return ancestors_from_run_ends(jnp.clip(running_sum(counts), 0, num), weights, num)


@in_turn
def ssp_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Sorted ancestors of SSP resampling from one uniform number per particle."""
    weights, whole, rest = expected_parts(log_weights, num)
    chain = Chain(rest)
    return _descend(chain.children(chain.exchanges(uniforms), weights, whole, num), weights, num)


def ssp_given_first(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors turned by a random number of places, given that particle 0 comes first, from N + 2 uniform numbers.

    Particle 0 has k or k + 1 children, the more numerous case weighted by its number, as for systematic resampling.
    Given which, it is the open one until its first exchange, whose coins are those of the chain given its outcome: the
    probability that particle 0 gets a further child is the open fraction for as long as it is the open one.
    """
    weights, whole, rest = expected_parts(log_weights, num)
    chain = Chain(rest)
    more = uniforms[0] * (whole[0] + rest[0]) < rest[0] * (whole[0] + 1)
    coins = uniforms[2:]
    # Settled by a carry it has one child more, by any other exchange it has not.
    settled_more = more & chain.carries & (coins * chain.scale * chain.open_before < chain.old)
    settled_less = ~more & ~chain.carries & (coins * chain.scale * (1 - chain.open_before) < chain.fraction)
    index = jnp.arange(weights.shape[0], dtype=jnp.int32)
    first = (settled_more | settled_less) & (index > 0)
    size = index.shape[0]
    when = jnp.min(jnp.where(first, index, size))
    exchanges = jnp.where(index > when, chain.exchanges(coins), index == when)
    counts = chain.children(exchanges, weights, whole, num)
    copies = counts[0]
    shift = jnp.minimum(jnp.floor(uniforms[1] * copies.astype(uniforms.dtype)).astype(jnp.int32), copies - 1)
    return rotate(_descend(counts, weights, num), jnp.maximum(shift, 0)).at[0].set(0)


class SSP(Ancestors):
    """Floor or ceiling of the expected offspring, negatively associated (Gerber, Chopin & Whiteley 2019)."""

    def num_uniforms(self) -> tuple[int, ...]:
        return (self.log_weights.shape[-1],)

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return ssp_ancestors(uniforms, log_weights, self.num)

    def given_first(self, key: jax.Array, log_weights: jax.Array) -> jax.Array:
        uniforms = jax.random.uniform(key, (log_weights.shape[0] + 2,), log_weights.dtype)
        return ssp_given_first(uniforms, log_weights, self.num)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        expected = self.num * w
        near = np.round(expected)
        expected = np.where(np.abs(expected - near) < 64 * np.finfo(float).eps * self.num, near, expected)
        counts, rest = np.floor(expected).astype(int), expected - np.floor(expected)
        states = [(counts, 0, rest[0], 1.0)]  # numbers of children, who is open, with what fraction, probability
        for k in range(1, len(w)):
            after = []
            for children, who, c, p in states:
                carries = c + rest[k] >= 1
                room = 2 - c - rest[k] if carries else c + rest[k]
                share = (1 - rest[k] if carries else rest[k]) / room if room > 0 else 0.0
                left = c + rest[k] - carries
                for settled, still, q in ((who, k, share), (k, who, 1 - share)):
                    if q > 0:
                        more = children.copy()
                        more[settled] += carries
                        after.append((more, still, left, p * q))
            states = after
        for children, who, c, _ in states:  # the last open fraction is zero or one, up to rounding
            children[who] += round(float(c))
        return [list(np.repeat(np.arange(len(w)), n)) for n, *_ in states], [p for *_, p in states]
