"""Posteriors per second of shipped networks on an accelerator, and what its short products cost in accuracy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.accelerator_timing import compiled, in_turn
from benchmarks.record import Row, quartiles
from transformers_gmm.pretrained import load
from transformers_gmm.recurrent import AbstractRecurrentTask

NAMES = ("conjugate_5", "quantum", "range_bearing")


def problems(task: Any, num: int, key: jax.Array) -> tuple[Any, Any, jax.Array]:
    """Beliefs before, what is seen, and a point of each posterior, (num, 1, D)."""
    if isinstance(task, AbstractRecurrentTask):  # the second instant of a series: there has been a motion
        series = dataclasses.replace(task, horizon=2, unroll=1).simulate(key, num)
        return series.prior, jax.tree.map(lambda x: x[1], series.steps), series.states[1][:, None]
    given = task.draw(key, num)
    return given.prior, given.data, given.latents[:, None]


@jax.jit
def score(answer: Any, points: jax.Array) -> jax.Array:
    """Log densities of answers, without the device's short products."""
    with jax.default_matmul_precision("highest"):
        return answer.log_prob(points)


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """Every network on two batches."""
    sizes = (100, 200) if quick else (10_000, 100_000)
    networks = {name: load(name) for name in NAMES}
    key = jax.random.key(88_000 + seed)
    draws = {name: (functools.partial(problems, one.task, max(sizes)), (key,)) for name, one in networks.items()}
    given = {name: draw(key) for name, draw in compiled(draws).items()}

    def answer(name: str, precision: str | None) -> Callable[..., Any]:
        task, definition = networks[name].task, nnx.split(networks[name].network)[0]

        def run(weights: Any, prior: Any, seen: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return nnx.merge(definition, weights)(task.problem(prior, seen))

        return run

    jobs = {}
    for name in NAMES:
        weights = nnx.split(networks[name].network)[1]
        for size in sizes:
            few = jax.tree.map(lambda x, size=size: x[:size], given[name][:2])
            jobs[name, size, None] = (answer(name, None), (weights, *few))
        few = jax.tree.map(lambda x: x[: sizes[0]], given[name][:2])
        jobs[name, sizes[0], "highest"] = (answer(name, "highest"), (weights, *few))
    programs = compiled(jobs)
    calls = {job: lambda _, job=job: programs[job](*jobs[job][1]) for job in jobs}
    seconds, found = in_turn(calls, 3 if quick else 9)
    for name in NAMES:
        points = given[name][2][: sizes[0]]
        scores = [np.asarray(score(found[name, sizes[0], p][0], points), float) for p in (None, "highest")]
        full = seconds[name, sizes[0], "highest"]
        for size in sizes:
            taken = seconds[name, size, None]
            yield Row(
                f"throughput, {name}, {size:,} posteriors in one call",
                size / float(np.median(taken)),
                "posteriors per second",
                None,
                "higher",
                peer=f"{1e3 * np.median(taken):.4g} ms in all"
                + (f"; {1e3 * np.median(full):.4g} ms with products in full float32" if size == sizes[0] else ""),
                n=len(taken),
                spread=quartiles(size / taken),
            )
        apart = scores[0] - scores[1]
        yield Row(
            f"{name}: log score with the device's usual products minus that in full float32",
            float(np.mean(apart)),
            "nats",
            None,
            "higher",
            peer=f"standard error {np.std(apart) / np.sqrt(apart.size):.2g}, largest gap {np.abs(apart).max():.2g}",
            n=apart.size,
        )
