"""Small generators with judges for the tests of `smc.steering`: every answer is known by enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import smc


class Chain(eqx.Module):
    """Letters 0..K-1 that follow a Markov chain, with a table of log potentials by step and letter.

    A state is (letter, length), (-1, 0) before the first letter.
    """

    first: jax.Array
    table: jax.Array
    log_g: jax.Array

    def propose(self, states, keys):
        letter, length = states
        law = jnp.where((length == 0)[:, None], self.first[None, :], self.table[letter])
        uniform = jax.vmap(jax.random.uniform)(keys)
        cut = jnp.cumsum(law, axis=1)[:, :-1]
        return jnp.sum(uniform[:, None] > cut, axis=1, dtype=jnp.int32), length + 1

    def score(self, states):
        letter, length = states
        return self.log_g[length - 1, letter]

    def greedy(self, states, keys):
        letter, length = states
        law = jnp.where((length == 0)[:, None], self.first[None, :], self.table[letter])
        return jnp.argmax(law, axis=1).astype(jnp.int32), length + 1

    def box(self):
        return smc.BlackBox((jnp.int32(-1), jnp.int32(0)), self.propose, self.score, greedy=self.greedy)

    def host_box(self):
        """The same chain on Python dictionaries."""

        def unpack(states):
            return jnp.array([s["letter"] for s in states], jnp.int32), jnp.array(
                [s["length"] for s in states], jnp.int32
            )

        def propose(states, keys):
            letter, length = self.propose(unpack(states), keys)
            return [{"letter": int(a), "length": int(b)} for a, b in zip(letter, length, strict=True)]

        return smc.BlackBox({"letter": -1, "length": 0}, propose, lambda states: self.score(unpack(states)))


STEPS = 4
WEIGHTS = smc.Potential("exp", "step")


def three_letters(seed=5):
    """The 81-sequence toy: Dirichlet(1) first law and transitions, log potentials N(0, 1.2^2)."""
    rng = np.random.default_rng(seed)
    first, table = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3)
    return Chain(jnp.asarray(first), jnp.asarray(table), jnp.asarray(rng.normal(0, 1.2, (STEPS, 3))))


def sequences(chain):
    """All sequences (81, 4), their prior probabilities and their products of potentials."""
    first, table, log_g = (np.asarray(a) for a in (chain.first, chain.table, chain.log_g))
    paths = np.array(list(itertools.product(range(3), repeat=STEPS)))
    prior = first[paths[:, 0]] * np.prod(table[paths[:, :-1], paths[:, 1:]], axis=1)
    return paths, prior, np.exp(log_g[np.arange(STEPS), paths].sum(axis=1))
