"""Simulation-based calibration of every way to a posterior, on a skewed and a two-humped model, and a short series.

    python -m benchmarks.calibration --json benchmarks/results/calibration.json

Every row is the smallest p-value over parameters and the joint log density; its target is the bound at which all
quantities together raise a false alarm with probability 1e-6. `--replicates N` (1000), `--only NAME ...`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import probinf as pi
import smc
from benchmarks.record import Row, parser, rows_of, write


@pi.model
def skewed():
    """A rate and a shape from four waiting times: both posteriors lean to one side."""
    shape = pi.sample("shape", dist.LogNormal(0.0, 0.7))
    rate = pi.sample("rate", dist.Gamma(1.0, 1.0))
    pi.sample("y", dist.Gamma(shape, rate).expand([4]).to_event(1))


@pi.model
def two_humped():
    """The square of a place is seen: two humps of equal weight, with a valley that chains can cross."""
    place = pi.sample("place", dist.Normal(0.2, 1.0))
    pi.sample("y", dist.Normal(jnp.square(place) * jnp.ones(2), 0.8).to_event(1))


@pi.model
def series():
    """A random walk with an unknown step, seen four times."""
    scale = pi.sample("scale", dist.LogNormal(-0.5, 0.5))

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = pi.sample("x", dist.Normal(x, scale))
        pi.sample("y", dist.Normal(x, 0.5))
        return x, None

    jax.lax.scan(step, jnp.zeros(()), None, length=4)


PROGRAMS = {
    "skewed": lambda: skewed().given(y=jnp.ones(4)),
    "two humps": lambda: two_humped().given(y=jnp.ones(2)),
    "series": lambda: series().given(y=jnp.zeros(4)),
}

# The last draw of each chain is ranked, so chains are many and short. Particle numbers are such that what is only
# consistent (self-normalised weights) is off by less than a thousand replicates can see.
METHODS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "NUTS": (lambda: pi.NUTS(num_warmup=150, num_draws=20, num_chains=8), ("skewed", "two humps", "series")),
    "ChEES": (lambda: pi.ChEES(num_warmup=100, num_draws=20, num_chains=16), ("skewed", "two humps")),
    "trace MH": (lambda: pi.MCMC(pi.trace_mh(), num_warmup=300, num_draws=20, num_chains=16), ("skewed", "series")),
    "tempered SMC": (lambda: smc.TemperedSMC(512, num_runs=1), ("skewed", "two humps")),
    "waste-free SMC": (lambda: smc.TemperedSMC(512, num_runs=1, waste_free=8), ("skewed", "two humps")),
    "importance": (lambda: smc.SMC(num_particles=4000, num_runs=1), ("series",)),
    "SMC squared": (lambda: smc.SMC2(128, 32), ("series",)),
    "PMMH": (lambda: smc.PMMH(32, num_warmup=200, num_draws=20, num_chains=8, paths=True), ("series",)),
}


def calibrated(name: str, model: str, replicates: int, seed: int) -> Iterator[Row]:
    """One method on one model."""
    begin = time.perf_counter()
    found = pi.sbc(PROGRAMS[model](), METHODS[name][0](), num_replicates=replicates, seed=seed)
    worst = min(found.p_values, key=lambda quantity: found.p_values[quantity])
    note = f"smallest for {worst!r}; {found.num_draws} draws a replicate"
    claim = f"{name} on {model}: smallest p-value of uniform ranks"
    seconds = time.perf_counter() - begin
    yield Row(claim, found.p_values[worst], "p", found.bound, "higher", note, n=replicates, seconds=seconds)


def main() -> int:
    """Calibrate everything."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--replicates", type=int, help="1000 by default, 20 with --quick")
    args = options.parse_args()
    replicates = args.replicates or (20 if args.quick else 1000)
    rows: list[Row] = []
    for name in args.only:
        for model in METHODS[name][1]:
            claim = f"{name} on {model}: smallest p-value of uniform ranks"
            rows += rows_of(claim, "p", 0.0, lambda n=name, m=model: calibrated(n, m, replicates, args.seed))
            write(args.json, "calibration", args.quick, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
