"""The peers of `benchmarks.ensembles`: each returns a function from a seed to draws (chains, draws, dim).

Every run holds what its package compiles once and may reuse; a first call compiles it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Density = Callable[[Any], Any]
Run = Callable[[int], np.ndarray]

CHAINS, WARMUP, DRAWS = 4, 1000, 1000


def numpyro_nuts(logdensity: Density, dim: int) -> Run:
    """NumPyro's NUTS kernel, four chains side by side, compiled once."""
    from numpyro.infer.hmc import hmc

    init_kernel, sample_kernel = hmc(potential_fn=lambda x: -logdensity(x), algo="NUTS")

    def one(key: Any) -> Any:
        key_start, key_chain = jax.random.split(key)
        start = jax.random.uniform(key_start, (dim,), minval=-2.0, maxval=2.0)
        state = init_kernel(start, WARMUP, step_size=1.0, rng_key=key_chain, target_accept_prob=0.8)
        state = jax.lax.fori_loop(0, WARMUP, lambda _, s: sample_kernel(s), state)

        def step(state: Any, _: None) -> Any:
            state = sample_kernel(state)
            return state, state.z

        return jax.lax.scan(step, state, None, length=DRAWS)[1]

    chains = jax.jit(jax.vmap(one))
    return lambda seed: np.asarray(chains(jax.random.split(jax.random.key(seed), CHAINS)))


def blackjax_nuts(logdensity: Density, dim: int) -> Run:
    """BlackJAX's NUTS after its window adaptation, four chains side by side, compiled once."""
    import blackjax

    def one(key: Any) -> Any:
        key_start, key_warmup, key_chain = jax.random.split(key, 3)
        start = jax.random.uniform(key_start, (dim,), minval=-2.0, maxval=2.0)
        adaptation: Any = blackjax.window_adaptation(blackjax.nuts, logdensity)
        adapted, _ = adaptation.run(key_warmup, start, WARMUP)
        kernel = blackjax.nuts(logdensity, **adapted.parameters)

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, adapted.state, jax.random.split(key_chain, DRAWS))[1]

    chains = jax.jit(jax.vmap(one))
    return lambda seed: np.asarray(chains(jax.random.split(jax.random.key(seed), CHAINS)))


PEERS = {"numpyro": numpyro_nuts, "blackjax": blackjax_nuts}

#: Peers that belong here and are not measured yet, with the reason. A ratio to one of them is a row that misses.
NOT_MEASURED = {
    "nutpie": "not measured: it needs densities compiled by numba; through a Python callback it is hundreds of times "
    "slower than its users see",
    "stan": "not measured: PyStan is not installed, and its models are not written",
}
