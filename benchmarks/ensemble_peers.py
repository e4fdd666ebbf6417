"""The peers of `benchmarks.ensembles`: each returns a function from a seed to draws (chains, draws, dim).

Every run holds what its package compiles once and may reuse; a first call compiles it. nutpie and Stan work in double
precision, the others in single.
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks import ensemble_stan
from benchmarks.ensemble_posteriors import Case

Run = Callable[[int], np.ndarray]

CHAINS, WARMUP, DRAWS = 4, 1000, 1000


def numpyro_nuts(case: Case) -> Run:
    """NumPyro's NUTS kernel, four chains side by side, compiled once."""
    from numpyro.infer.hmc import hmc

    init_kernel, sample_kernel = hmc(potential_fn=lambda x: -case.logdensity(x), algo="NUTS")

    def one(key: Any) -> Any:
        key_start, key_chain = jax.random.split(key)
        start = jax.random.uniform(key_start, (case.dim,), minval=-2.0, maxval=2.0)
        state = init_kernel(start, WARMUP, step_size=1.0, rng_key=key_chain, target_accept_prob=0.8)
        state = jax.lax.fori_loop(0, WARMUP, lambda _, s: sample_kernel(s), state)

        def step(state: Any, _: None) -> Any:
            state = sample_kernel(state)
            return state, state.z

        return jax.lax.scan(step, state, None, length=DRAWS)[1]

    chains = jax.jit(jax.vmap(one))
    return lambda seed: np.asarray(chains(jax.random.split(jax.random.key(seed), CHAINS)))


def blackjax_nuts(case: Case) -> Run:
    """BlackJAX's NUTS after its window adaptation, four chains side by side, compiled once."""
    import blackjax

    def one(key: Any) -> Any:
        key_start, key_warmup, key_chain = jax.random.split(key, 3)
        start = jax.random.uniform(key_start, (case.dim,), minval=-2.0, maxval=2.0)
        adaptation: Any = blackjax.window_adaptation(blackjax.nuts, case.logdensity)
        adapted, _ = adaptation.run(key_warmup, start, WARMUP)
        kernel = blackjax.nuts(case.logdensity, **adapted.parameters)

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, adapted.state, jax.random.split(key_chain, DRAWS))[1]

    chains = jax.jit(jax.vmap(one))
    return lambda seed: np.asarray(chains(jax.random.split(jax.random.key(seed), CHAINS)))


def nutpie_nuts(case: Case) -> Run:
    """nutpie's NUTS on numba code that PyMC writes, chains in threads."""
    import nutpie
    import pymc  # noqa: F401  the model needs it

    @functools.cache
    def compiled() -> Any:
        return nutpie.compile_pymc_model(case.pymc(), backend="numba")

    def run(seed: int) -> np.ndarray:
        settings: dict[str, Any] = {"chains": CHAINS, "tune": WARMUP, "draws": DRAWS, "seed": seed}
        found = nutpie.sample(compiled(), **settings, save_warmup=False, progress_bar=False).posterior
        return np.concatenate([np.asarray(found[site]).reshape(CHAINS, DRAWS, -1) for site in case.sites], axis=2)

    return run


def stan_nuts(case: Case) -> Run:
    """Stan's NUTS through PyStan, chains in processes; passing the draws on is part of its seconds, as it is of use."""
    import psutil  # noqa: F401  counts the seconds of its processes

    importlib.metadata.version("pystan")  # a missing package is noticed here, not in another process
    program, data = case.stan

    def run(seed: int) -> np.ndarray:
        settings = (case.sites, seed, CHAINS, WARMUP, DRAWS)
        return _stan_process().submit(ensemble_stan.draws, program, data, *settings).result()

    return run


@functools.cache
def _stan_process() -> ProcessPoolExecutor:
    """A process for PyStan: its own ones are forks of where it runs, which threads of JAX might not survive.

    Its cache, from which it answers a repeated model and seed, is new and goes with this process.
    """
    cache = tempfile.mkdtemp(prefix="stan")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), ensemble_stan.start, (cache,))


PEERS = {"numpyro": numpyro_nuts, "blackjax": blackjax_nuts, "nutpie": nutpie_nuts, "stan": stan_nuts}
