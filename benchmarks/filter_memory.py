"""Memory of the particle filter: what the compiled program asks for, and what a process of its own takes.

A state copy is N particles and their log weights, 4 (d + 1) bytes a particle in float32. The process (Linux only)

    python -m benchmarks.filter_memory N d GENERATOR

compiles, then runs, and prints by how many bytes its memory peaked over what it held before the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import smc
from benchmarks.record import Row
from probinf.fast_random import fast_key

GENERATORS = {"standard generator": jax.random.key, "fast generator": fast_key}
_SHORT = 20


class Autoregression(smc.StateSpaceModel):
    """x_t = 0.9 x + N(0, I), y_t = x_t + N(0, I), in `dim` dimensions."""

    persistence: Any
    dim: int

    def initial(self):
        return dist.Normal(jnp.zeros(self.dim), 1.0).to_event(1)

    def transition(self, t, x):
        return dist.Normal(self.persistence * x, 1.0).to_event(1)

    def observation(self, t, x):
        return dist.Normal(x, 1.0).to_event(1)


def compiled(num: int, dim: int, length: int, key: jax.Array, *, history: bool = False) -> tuple[Any, tuple]:
    """The filter, compiled, and its arguments."""

    def run(persistence: jax.Array, ys: jax.Array, key: jax.Array) -> smc.FilterRun:
        model = Autoregression(persistence, dim)
        return smc.particle_filter(model, ys, key, num_particles=num, moments=False, history=history)

    args = (jnp.float32(0.9), jnp.zeros((length, dim), jnp.float32), key)
    return jax.jit(run).lower(*args).compile(), args


def asked(num: int, dim: int, length: int, generator: str, *, history: bool = False) -> tuple[int, int]:
    """Bytes of work space and of results that the compiled filter asks for."""
    program, _ = compiled(num, dim, length, GENERATORS[generator](0), history=history)
    told = program.memory_analysis()
    return told.temp_size_in_bytes, told.output_size_in_bytes


def noise(num: int, dim: int, generator: str) -> int:
    """Bytes that drawing the noise of one step asks for, work space and result."""
    draw = jax.jit(lambda key: jax.random.normal(key, (num, dim), jnp.float32))
    told = draw.lower(GENERATORS[generator](0)).compile().memory_analysis()
    return told.temp_size_in_bytes + told.output_size_in_bytes


def peak(num: int, dim: int, generator: str) -> float:
    """Bytes by which a process of its own peaks over what it held before it ran the filter."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.filter_memory", str(num), str(dim), generator],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    return float(done.stdout.split()[-1])


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def main(num: int, dim: int, generator: str) -> None:
    """Print the peak of this process over what it held before the run."""
    program, args = compiled(num, dim, _SHORT, GENERATORS[generator](0))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from what is held now
    before = _status("VmRSS")
    jax.block_until_ready(program(*args))
    print(_status("VmHWM") - before)


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """State copies with history off, growth with T, and bytes a particle-step with history on."""
    del seed  # sizes do not depend on it
    num, long = (100_000, 100) if quick else (1_000_000, 1000)
    for dim in (1, 10):
        for generator in GENERATORS:
            what = f"particle filter, history off, N = {num}, state dimension {dim}, {generator}"
            copy = 4 * (dim + 1) * num
            work, results = asked(num, dim, _SHORT, generator)
            later, more = asked(num, dim, long, generator)
            yield Row(
                f"{what}: memory that the compiled program asks for",
                (work + results) / copy,
                "state copies",
                3.0,
                peer=f"work space {work / num:.4g} and results {results / num:.4g} bytes a particle; drawing the noise "
                f"of a step alone asks for {noise(num, dim, generator) / num:.4g}",
            )
            yield Row(
                f"{what}: work space at T = {long} over T = {_SHORT}",
                later / work,
                "ratio",
                1.05,
                peer=f"results grow by {(more - results) / (long - _SHORT):.3g} bytes a step",
            )
            yield Row(
                f"{what}: peak resident memory of a process over what it held before the run",
                peak(num, dim, generator) / copy,
                "state copies",
                3.0,
                peer=f"T = {_SHORT}",
            )
    num, length = num // 10, 50
    for dim in (1, 10):
        stored = 4 * (dim + 2)  # particles, log weights, ancestors
        work, results = asked(num, dim, length, "standard generator", history=True)
        what = f"particle filter, history on, N = {num}, T = {length}, state dimension {dim}"
        yield Row(
            f"{what}: results a particle-step over what particles, log weights and ancestors take",
            results / (stored * num * length),
            "ratio",
            1.1,
            peer=f"O(T N): {stored} bytes a particle-step in float32",
        )
        yield Row(
            f"{what}: work space while it runs, over the results",
            work / results,
            "ratio",
            None,
            peer=f"{work / (num * length):.3g} bytes a particle-step",
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
