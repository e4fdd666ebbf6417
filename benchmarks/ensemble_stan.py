"""Draws by PyStan, in a process of its own (see `benchmarks.ensemble_peers`)."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.util
import os
from typing import Any

import numpy as np

_built: dict[str, Any] = {}


def start(cache: str) -> None:
    """Let PyStan keep what it compiles and draws in this folder, in silence, and end its processes with this one."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    os.environ["XDG_CACHE_HOME"] = cache  # read when it is imported
    multiprocessing.util.Finalize(None, _stop, exitpriority=1)  # before multiprocessing waits for them


def _stop() -> None:
    for process in multiprocessing.active_children():
        process.kill()


def draws(
    program: str,
    data: dict[str, Any],
    sites: tuple[str, ...],
    seed: int,
    num_chains: int,
    num_warmup: int,
    num_draws: int,
) -> np.ndarray:
    """Draws of Stan's default sampler, of shape (chains, draws, dim).

    The first call of a program compiles it; the data of that call stay.
    """
    import stan

    if program not in _built:
        _built[program] = stan.build(program, data=data, random_seed=seed)
    posterior = dataclasses.replace(_built[program], random_seed=seed)
    fit = posterior.sample(num_chains=num_chains, num_warmup=num_warmup, num_samples=num_draws)
    # A site of PyStan has shape (..., first draws of all chains, second draws of all chains, ...).
    columns = [np.asarray(fit[site]).reshape(-1, num_draws, num_chains) for site in sites]
    return np.concatenate(columns).T
