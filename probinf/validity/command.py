"""Check every claim of everything that ships, and print the table.

Example:
  probinf validate --level exact --only systematic
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from probinf import fast_random
from probinf.entry_points import entry_points
from probinf.validity import calibration_cases, compositions, family_tests, shipped, unbiasedness
from probinf.validity.calibration import sbc
from probinf.validity.random_programs import random_program
from probinf.validity.report import STATISTICAL_CHECKS, Check, Report
from probinf.validity.validate import check_on, validate

#: Packages register modules here: `transformations()`, `compositions()`, `kernels()`, and `chains()` of kernels on
#: targets of their own.
GROUP = "probinf.validity"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf validate`."""
    parser.add_argument("--level", choices=("exact", "statistical", "all"), default="all")
    parser.add_argument("--full", action="store_true", help="the whole grid of populations instead of a covering part")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="also N random programs for the populations")
    parser.add_argument("--only", nargs="+", default=(), help="things whose name contains one of these")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table to this file")
    parser.add_argument("--json", type=pathlib.Path, help="write every check to this file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--generator", choices=("standard", "fast"), default="standard", help="JAX's default or that of pi.fast_key"
    )


def modules() -> Iterator[Any]:
    """Modules of all packages that register claims."""
    yield shipped
    for entry in entry_points(GROUP).values():
        yield entry.load()


def timed(checks: Iterable[Check]) -> Report:
    """A report of checks that are made now, in double precision."""
    began = time.perf_counter()
    with jax.enable_x64(True):
        found = tuple(checks)
    return Report(found, time.perf_counter() - began)


def by_rules(thing: Any, *, full: bool) -> Report:
    """One composition by every rule of a population, as one row; what fails says by which rule."""
    some, total = shipped.rules(full=full), Report(())
    for one in thing.by(some):
        found = validate(one, one.suite(), level="exact", name=f"{thing.name}, {len(some)} rules")
        checks = tuple(dataclasses.replace(c, note=f"{one.name}: {c.note}") if c.note else c for c in found.checks)
        total = total + Report(checks, found.seconds)
    return total


def reports(args: argparse.Namespace) -> Iterator[Report]:
    """One report for each thing that ships."""

    def wanted(name: str) -> bool:
        return not args.only or any(part in name for part in args.only)

    for module in modules():
        things = [*module.transformations()]
        if module is shipped:
            things = [*shipped.populations(full=args.full), *things]
        if args.level != "statistical":
            for thing in things:
                if wanted(thing.name):
                    yield validate(thing, thing.suite(), level="exact", name=thing.name)
            for thing in compositions.compositions() if module is shipped else getattr(module, "compositions", tuple)():
                if wanted(thing.name):
                    yield by_rules(thing, full=args.full)
            for algorithm in getattr(module, "algorithms", tuple)():
                if wanted(repr(algorithm)):
                    few = [shipped.PROGRAMS[n] for n in ("zero_weights", "timed_factor", "hidden_markov")]
                    yield validate(algorithm, few, level="exact")
        for kernel in getattr(module, "kernels", tuple)():
            if wanted(kernel.name):
                yield validate(kernel, level=args.level, seed=args.seed)
        if args.level != "statistical":
            for name, kernel, target, states in getattr(module, "chains", tuple)():
                if wanted(name):
                    yield timed(check_on(kernel, target, name, states))
    if args.level != "exact":
        yield from _statistical(args, wanted)
    if args.random and args.level != "statistical":
        rules = list(shipped.populations(full=True))
        for i in range(args.random):
            # Each program meets one rule in turn: sizes, schemes and thresholds are covered pairwise.
            thing, num = shipped.for_program(rules, i)
            if wanted(thing.name):
                yield validate(
                    thing,
                    [random_program(args.seed + i, num_particles=num)],
                    level="exact",
                    name=f"{thing.name}, random programs",
                )


def _statistical(args: argparse.Namespace, wanted: Callable[[str], bool]) -> Iterator[Report]:
    """The statistical checks that do not belong to one kernel: evidence, calibration, families of distributions."""
    for name, transform in unbiasedness.populations():
        if wanted(name):
            yield validate(transform, level="statistical", seed=args.seed, name=name)
    for program, sampler in calibration_cases.cases():
        if wanted(sampler.name):
            found = sbc(program, sampler, num_replicates=calibration_cases.REPLICATES, seed=args.seed)
            yield timed(found.checks())
    for family in family_tests.families():
        if wanted(family.name):
            yield timed(family_tests.check_family(family, args.seed))
    if wanted("resampling"):
        yield timed(family_tests.check_resampling(args.seed))


def run(args: argparse.Namespace) -> int:
    """Check, print, write; the exit status is 0 when every claim holds."""
    jax.config.update("jax_enable_x64", True)
    if args.generator == "fast":
        jax.config.update("jax_default_prng_impl", fast_random.NAME)
    began = time.perf_counter()
    total, unchecked = Report(()), 0
    for report in reports(args):
        total = total + report
        if report.checks:
            unchecked += not report.passed and not report.failures
            failed = f"{len(report.failures)} FAILED" if report.failures else "holds" if report.passed else "UNCHECKED"
            print(f"{report.checks[0].thing:<60.60} {report.seconds:6.1f} s  {failed}", flush=True)  # noqa: T201
    total = Report(total.checks, time.perf_counter() - began)
    made = sum(check.level == "statistical" for check in total.checks)
    if made > STATISTICAL_CHECKS:
        print(f"{made} statistical checks share a budget made for {STATISTICAL_CHECKS}: raise it in validity/report.py")  # noqa: T201
        return 1
    print(total)  # noqa: T201
    if args.markdown:
        args.markdown.write_text(total.to_markdown())
    if args.json:
        rows = [{**row, "met": not row["failed"]} for row in total.summary()]
        args.json.write_text(json.dumps({"benchmark": "validity", "rows": rows}, indent=1) + "\n")
    return 0 if total.passed and not unchecked else 1
