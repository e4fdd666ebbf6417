"""The claims of the building blocks: the suite, random programs, four routes to one posterior, line counts.

python -m benchmarks.validity --json benchmarks/results/validity.json
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc.compositions as compositions
from benchmarks import record
from benchmarks.four_models import lines_of_code
from benchmarks.record import Row, rows_of
from probinf.validity import command, shipped
from probinf.validity.random_programs import random_program
from probinf.validity.report import Report
from probinf.validity.validate import validate

GROUPS = ("lines", "rates", "random", "suite", "routes")


def suite(quick: bool, seed: int, markdown: pathlib.Path | None = None) -> Iterator[Row]:
    """Every claim of everything that ships, exact and statistical; `markdown` gets the table."""
    only = ("trace_mh()", "population(2, systematic, 1)", "collapse(population(2))") if quick else ()
    args = argparse.Namespace(level="exact" if quick else "all", full=not quick, random=0, only=only, seed=seed)
    began = time.perf_counter()
    total = Report(())
    for report in command.reports(args):
        total = total + report
        if report.checks:
            print(f"{report.checks[0].thing:<60.60} {report.seconds:6.1f} s  {len(report.failures)} failed", flush=True)
        if markdown:
            markdown.write_text(total.to_markdown())
    seconds = time.perf_counter() - began
    for level, worst in (("exact", max), ("statistical", min)):
        checks = [c for c in total.checks if c.level == level and c.passed is not None]
        if not checks:
            continue
        failed = [c for c in checks if not c.passed]
        extreme = worst(checks, key=lambda c: c.statistic / c.bound)
        where = f"{extreme.thing} on {extreme.program}"
        counts = f"{len(checks)} checks of {len({c.thing for c in checks})} things"
        yield Row(
            f"{level} checks of what ships that fail",
            len(failed),
            "checks",
            0.0,
            peer=f"{counts} on {len({c.program for c in checks})} programs; worst {extreme.statistic:.1e} (bound "
            f"{extreme.bound:.0e}), {where}" + ("; " + failed[0].note if failed else ""),
            n=len(checks),
            seconds=seconds,
        )


def random_programs(quick: bool, seed: int) -> Row:
    """Populations on random programs: sizes, schemes and thresholds in turn, so that pairs are covered."""
    rules = list(shipped.populations(full=True))
    count = 40 if quick else 2000
    began, failed, pairs = time.perf_counter(), [], set()
    for i in range(count):
        thing, num = shipped.for_program(rules, i)
        report = validate(thing, [random_program(seed + i, num_particles=num)], level="exact", name=thing.name)
        failed += [f"program {seed + i}, {thing.name}: {c.note}" for c in report.failures]
        pairs |= set(itertools.combinations(thing.name[len("population(") : -1].split(", "), 2))
    return Row(
        "populations on random programs that differ from the program's measure",
        len(failed),
        "programs",
        0.0,
        peer=f"{count} programs, {len(rules)} rules, {len(pairs)} pairs of settings; "
        + (failed[0] if failed else "all equal to 1e-12"),
        n=count,
        seconds=time.perf_counter() - began,
    )


def routes(quick: bool, seed: int) -> Iterator[Row]:
    """Four routes to the parameters of one stochastic-volatility program: means and standard deviations agree."""
    from examples import volatility_routes as example

    program = example.volatility(example.simulated())
    found = {name: route(program, 0.1 if quick else 1.0, seed) for name, route in example.ROUTES.items()}
    for a, b in itertools.combinations(found, 2):
        apart, ratio = 0.0, 1.0
        for parameter in example.PARAMETERS:
            mean_a, sd_a, error_a = example.moments(found[a], parameter)
            mean_b, sd_b, error_b = example.moments(found[b], parameter)
            apart = max(apart, abs(mean_a - mean_b) / np.hypot(error_a, error_b))
            ratio = max(ratio, sd_a / sd_b, sd_b / sd_a, key=lambda r: abs(np.log(r)))
        yield Row(
            f"volatility, {a} and {b}: share of 4 joint MCSE (means) and of 15 % (sds), the worse",
            float(max(apart / 4, abs(ratio - 1) / 0.15)),
            "share",
            1.0,
            peer=f"means {apart:.2f} joint MCSE apart, sd ratio {ratio:.3f}",
            seconds=found[a].seconds + found[b].seconds,
        )


def rates(quick: bool, seed: int) -> Iterator[Row]:
    """How errors fall with the number of particles, against the Kalman filter: slopes of log error on log N."""
    ys, exact, mean = _local_level(25)
    sizes = [2**k for k in (range(6, 9) if quick else range(6, 13))]
    num_runs = 50 if quick else 400

    @pi.model
    def local_level(ys: Any) -> Any:
        def step(x: Any, y: Any) -> Any:
            x = pi.sample("x", dist.Normal(x, 0.7))
            pi.observe("y", dist.Normal(x, 1.0), y)
            return x, None

        return jax.lax.scan(step, jnp.zeros(()), ys)[0]

    program = local_level(ys)
    variances, errors = [], []
    began = time.perf_counter()
    for num in sizes:
        run = jax.jit(lambda key, n=num: _evidence_and_mean(pi.population(program, n, threshold=0.5), key))
        log_z, means = jax.lax.map(run, jax.random.split(jax.random.key(seed), num_runs))
        ratio = np.exp(np.asarray(log_z) - exact)
        variances.append(ratio.var(ddof=1))
        errors.append(np.sqrt(np.mean((np.asarray(means) - mean) ** 2)))
    for what, series, expected in (
        ("relative variance of the evidence", variances, -1.0),
        ("error of the mean", errors, -0.5),
    ):
        slope = float(np.polyfit(np.log(sizes), np.log(series), 1)[0])
        yield Row(
            f"{what} against the number of particles: distance of the slope from {expected:g}",
            abs(slope - expected),
            "exponent",
            0.15,
            peer=f"slope {slope:.3f}, N = {sizes[0]} to {sizes[-1]}, {num_runs} runs each; from {series[0]:.3g} to "
            f"{series[-1]:.3g}",
            n=num_runs * len(sizes),
            seconds=time.perf_counter() - began,
        )


def _evidence_and_mean(algorithm: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    population = algorithm.run(key)[0]
    weights = jax.nn.softmax(population.log_weights)
    return population.log_evidence, jnp.sum(weights * population.particles)


def _local_level(length: int) -> tuple[jax.Array, float, float]:
    """A simulated series, its exact log evidence and last filtered mean."""
    rng = np.random.default_rng(5)
    ys = np.cumsum(0.7 * rng.normal(size=length)) + rng.normal(size=length)
    mean, variance, total = 0.0, 0.0, 0.0
    for y in ys:
        variance += 0.49
        spread = variance + 1.0
        total += -0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance / spread
    return jnp.asarray(ys), total, mean


def lines() -> Iterator[Row]:
    """Lines of code of the composed algorithms: a screen or less each."""
    for name in ("marginal", "pmmh", "pimh", "particle_gibbs", "smc_squared", "ibis"):
        function = getattr(compositions, name)
        yield Row(f"{name}: lines of code", lines_of_code(function), "lines", 25.0, peer=_first_line(function))
    for function in (shipped.trace_mh, shipped.conditional_smc, shipped.rejuvenated):
        count = lines_of_code(function)
        yield Row(f"{function.__name__}: lines of code", count, "lines", 40.0, peer=_first_line(function))


def _first_line(function: Callable) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure the groups asked for, print and write the rows."""
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of rows")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the suite's table to this file")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    rows: list[Row] = []

    def add(group: str, claim: str, make: Callable[[], Row | Iterable[Row]], target: Any = None) -> None:
        if group in args.only:
            rows.extend(rows_of(claim, "", target, make))
            record.write(args.json, "validity", args.quick, rows)

    add("lines", "lines of code", lines)
    add("rates", "rates", lambda: rates(args.quick, args.seed), 0.15)
    add("random", "random programs", lambda: random_programs(args.quick, args.seed), 0.0)
    add("suite", "what ships", lambda: suite(args.quick, args.seed, args.markdown), 0.0)
    add("routes", "four routes", lambda: routes(args.quick, args.seed), 1.0)
    met = [row.met for row in rows]
    print(f"{met.count(True)} met, {met.count(False)} missed, {met.count(None)} shown")
    return rows


if __name__ == "__main__":
    main()
