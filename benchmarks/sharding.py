"""Particle filters on 1, 2 and 4 virtual CPU devices: wall time, and the bytes that travel between devices.

`python -m benchmarks.sharding --json FILE`. Virtual devices share the cores of one processor: times here show what the
splitting costs, not what more hardware would gain. The bytes are read off the compiled programs and hold anywhere.
"""

from __future__ import annotations

import functools
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import smc
from benchmarks.record import Row, parser, quartiles, rows_of, write

_COLLECTIVE = re.compile(r" = (\(?[^=]*?) (all-gather|all-reduce|collective-permute|all-to-all)\(")
_SHAPE = re.compile(r"(pred|[a-z]+(\d+))\[([\d,]*)\]")


class Track(smc.StateSpaceModel):
    """Position and velocity in the plane, seen by range and bearing."""

    def initial(self) -> dist.Distribution:
        return dist.Normal(jnp.array([1.0, 1.0, 0.0, 0.0]), 0.5).to_event(1)

    def transition(self, t: jax.Array, x: jax.Array) -> dist.Distribution:
        return dist.Normal(jnp.concatenate([x[:2] + x[2:], 0.95 * x[2:]]), 0.1).to_event(1)

    def observation(self, t: jax.Array, x: jax.Array) -> dist.Distribution:
        place = jnp.stack([jnp.sqrt(x[0] ** 2 + x[1] ** 2), jnp.arctan2(x[1], x[0])])
        return dist.Normal(place, 0.2).to_event(1)


def bytes_per_step(run: Callable[..., jax.Array], ys: jax.Array, num_devices: int) -> float:
    """Bytes that each device receives in a step that resamples: the collectives in the loop of the compiled program.

    A gathered array arrives but for the device's own share; a reduced one twice that, in a ring; a permuted one whole.
    """
    key = jax.random.key(0)
    text = jax.jit(lambda key: run(ys, key)).lower(key).compile().as_text()
    share = (num_devices - 1) / num_devices
    whole = float(num_devices > 1)
    factor = {"all-gather": share, "all-reduce": 2 * share, "collective-permute": whole, "all-to-all": share}
    found = 0.0
    for line in text.splitlines():
        match = _COLLECTIVE.search(line)
        if match and "while/body" in line:
            for name, bits, dims in _SHAPE.findall(match[1]):
                size = 1 if name == "pred" else int(bits) // 8
                found += factor[match[2]] * size * math.prod(int(d) for d in dims.split(",") if d)
    return found


def measure(quick: bool, seed: int) -> Iterable[Row]:
    """Both forms on 1, 2 and 4 devices, turn by turn."""
    num, steps, repeats = (4096, 20, 2) if quick else (65536, 100, 7)
    _, ys = Track().simulate(seed, steps)
    runs = {}
    for devices in (1, 2, 4):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("particles",))
        common = {"num_particles": num, "threshold": 1.0, "moments": False, "mesh": mesh}
        runs["exact", devices] = functools.partial(_evidence, smc.particle_filter, common)
        runs["islands", devices] = functools.partial(_evidence, smc.island_filter, {**common, "num_islands": 8})
    seconds: dict = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(ys, jax.random.key(seed + repeat)).block_until_ready()
            if repeat:  # the first call compiles
                seconds[name].append(time.perf_counter() - begin)
    size = f"{num} particles, {steps} steps, resampling at each"
    for (form, devices), values in seconds.items():
        note = "virtual devices on the same cores: no speed-up is to be expected" if devices > 1 else ""
        claim = f"{form}, {devices} devices, {size}: wall time"
        yield Row(claim, statistics.median(values), "s", None, "lower", note, len(values), quartiles(values))
    for (form, devices), run in runs.items():
        moved = bytes_per_step(run, ys, devices) / 1e3
        yield Row(f"{form}, {devices} devices, {size}: received by each device in a step", moved, "kB", None)


def _evidence(function: Callable, settings: dict, ys: jax.Array, key: jax.Array) -> jax.Array:
    return function(Track(), ys, key, **settings).log_evidence


def main() -> None:
    arguments = parser("Particle filters on several devices.").parse_args()
    rows = rows_of("sharding", "s", None, lambda: measure(arguments.quick, arguments.seed))
    write(arguments.json, "sharding", arguments.quick, rows)


if __name__ == "__main__":
    main()
