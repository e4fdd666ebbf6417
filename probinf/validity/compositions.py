"""Algorithms composed of a population and something else, each to be checked by every rule of resampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from probinf.kernels.trace_moves import redraw, trace_mh
from probinf.language.program import Program
from probinf.transformations.algorithms import population
from probinf.transformations.collapsing import collapse, push_evidence, resize
from probinf.transformations.importance import importance
from probinf.transformations.rejuvenation import rejuvenated, tempered
from probinf.transformations.suspension import suspend
from probinf.validity.programs import DATA
from probinf.validity.shipped import SCANS, TICKS, Rule, Transformation, guide_markov, half, ticked


@dataclasses.dataclass(frozen=True)
class Composition:
    """An algorithm around a population, which takes the rule of it.

    Attributes:
        name: as it is called in the table, for all rules together.
        make: from a program and what a rule gives to `population`.
        programs: as for `Transformation`; small ones where traces are drawn besides.
        reference: what the result means.
    """

    name: str
    make: Callable[..., Program]
    programs: tuple[str | Program, ...]
    reference: Callable[[Program], Program] = lambda program: program

    def by(self, some: Iterable[Rule]) -> Iterator[Transformation]:
        """One transformation for each rule."""
        for num, scheme, threshold in some:

            def apply(program: Program, num: int = num, scheme: str = scheme, threshold: float = threshold) -> Program:
                return self.make(program, num, resample=scheme, threshold=threshold)

            label = f"{self.name} by ({num}, {scheme}, {threshold:g})"
            yield Transformation(label, apply, programs=self.programs, reference=self.reference)


TRACED = ("zero_weights", "timed_factor", "no_mass")


def compositions() -> Iterator[Composition]:
    """What is composed of a population and of transformations that hold for any program."""

    def moved(p: Program) -> Program:
        return rejuvenated(p, trace_mh(), randomness=TICKS)

    def heated(p: Program) -> Program:
        return tempered(p, (0.3, 1.0), trace_mh(), randomness=TICKS)

    def stepped(p: Program) -> Program:
        return suspend(p, randomness=TICKS).advance().hoist_first(redraw()).finish()

    def inner(p: Program) -> Program:
        return collapse(population(p, 2, push_evidence=True, threshold=1.0))

    def resized(p: Program, num: int, *, resample: str, threshold: float) -> Program:
        return resize(population(p, num, resample=resample, threshold=threshold), 2, resample=resample)

    yield Composition("collapse(population)", lambda p, n, **r: collapse(population(p, n, **r)), SCANS)
    yield Composition("push_evidence(population)", lambda p, n, **r: push_evidence(population(p, n, **r)), SCANS)
    yield Composition("resize(population, 2)", resized, SCANS)
    yield Composition("population by priority w^1/2", lambda p, n, **r: population(p, n, priority=half, **r), SCANS)
    yield Composition(
        "population(importance(guide))",
        lambda p, n, **r: population(importance(p, guide_markov(DATA)), n, **r),
        ("hidden_markov",),
    )
    yield Composition("population(population(1))", lambda p, n, **r: population(population(p, 1, **r), n, **r), TRACED)
    yield Composition("population(collapse(population(2)))", lambda p, n, **r: population(inner(p), n, **r), TRACED[:1])
    yield Composition(
        "population(rejuvenated(trace_mh))", lambda p, n, **r: population(moved(p), n, **r), TRACED, ticked
    )
    yield Composition(
        "population(tempered(0.3, 1, trace_mh))", lambda p, n, **r: population(heated(p), n, **r), TRACED, ticked
    )
    yield Composition(
        "population(suspend, advance, move, finish)",
        lambda p, n, **r: population(stepped(p), n, **r),
        ("zero_weights", "no_mass"),
        ticked,
    )
