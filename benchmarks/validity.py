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
from typing import Any, NamedTuple

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


@pi.model
def local_level(ys: Any) -> Any:
    """A random walk observed with noise; returns its last state."""

    def step(x: Any, y: Any) -> Any:
        x = pi.sample("x", dist.Normal(x, 0.7))
        pi.observe("y", dist.Normal(x, 1.0), y)
        return x, None

    return jax.lax.scan(step, jnp.zeros(()), ys)[0]


def rates(quick: bool, seed: int) -> Iterator[Row]:
    """How errors follow the number of particles and of observations, against the Kalman filter: slopes of logs."""
    sizes = [2**k for k in (range(6, 9) if quick else range(6, 15, 2))]
    lengths = [2**k for k in (range(3, 6) if quick else range(4, 9))]
    small = [2**k for k in range(3, 6)]
    num_runs = 50 if quick else 400
    many = 2_000 if quick else 200_000
    over_sizes = [_errors(25, num, num_runs, seed) for num in sizes]
    # What an observation adds to the variance depends on its value, so every run has a series of its own.
    over_lengths = [_errors(length, 1024, num_runs, seed, num_runs) for length in lengths]
    over_small = [_errors(3, num, many, seed) for num in small]
    for what, against, found, runs, expected in (
        ("relative variance of the evidence", ("N", sizes), [e.variance for e in over_sizes], num_runs, -1.0),
        ("error of the mean", ("N", sizes), [e.error for e in over_sizes], num_runs, -0.5),
        ("variance of the log evidence", ("T", lengths), [e.log_variance for e in over_lengths], num_runs, 1.0),
        ("bias of the mean", ("N", small), [abs(e.bias) for e in over_small], many, -1.0),
    ):
        letter, numbers = against
        slope = float(np.polyfit(np.log(numbers), np.log(found), 1)[0])
        noun = {"N": "particles", "T": "observations"}[letter]
        yield Row(
            f"{what} against the number of {noun}: distance of the slope from {expected:g}",
            abs(slope - expected),
            "exponent",
            0.15,
            peer=f"slope {slope:.3f}, {letter} = {numbers[0]} to {numbers[-1]}, {runs} runs each; from {found[0]:.3g} "
            f"to {found[-1]:.3g}",
            n=runs * len(numbers),
        )


class _Errors(NamedTuple):
    variance: float  # of the evidence, relative to its square
    log_variance: float
    error: float  # of the last filtered mean, root mean square
    bias: float  # of the last filtered mean


def _errors(length: int, num_particles: int, num_runs: int, seed: int, num_series: int = 1) -> _Errors:
    """Of as many runs, which share the series evenly."""
    ys, exact, mean = _simulated(length, num_series)
    which = jnp.arange(num_runs) % num_series
    program = local_level(jnp.asarray(ys[0]))

    def one(key: jax.Array, series: jax.Array) -> tuple[jax.Array, jax.Array]:
        given = program.with_operands(jax.tree.map(lambda _: series, program.operands))
        population = pi.population(given, num_particles, threshold=0.5).run(key)[0]
        return population.log_evidence, jnp.sum(jax.nn.softmax(population.log_weights) * population.particles)

    run = jax.jit(lambda keys: jax.lax.map(lambda x: one(x[0], jnp.asarray(ys)[x[1]]), (keys, which)))
    log_z, means = map(np.asarray, run(jax.random.split(jax.random.key(seed), num_runs)))
    log_ratio, gap = log_z - exact[np.asarray(which)], means - mean[np.asarray(which)]
    return _Errors(
        float(np.exp(log_ratio).var(ddof=1)),
        float(log_ratio.var(ddof=1)),
        float(np.sqrt(np.mean(gap**2))),
        float(gap.mean()),
    )


def _simulated(length: int, num_series: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Series (S, T), their exact log evidences and last filtered means, both (S,)."""
    steps, noise = np.random.default_rng(5).normal(size=(2, num_series, length))
    ys = np.cumsum(0.7 * steps, axis=1) + noise
    mean, variance, total = np.zeros(num_series), 0.0, np.zeros(num_series)
    for y in ys.T:
        variance += 0.49
        spread = variance + 1.0
        total += -0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance / spread
    return ys, total, mean


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
