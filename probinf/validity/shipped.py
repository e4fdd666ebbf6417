"""Everything in probinf that makes an exact, unbiased or invariant claim, with the programs to check it on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.kernels.gradient_moves import hmc, mala, mclmc, nuts_kernel, slice_sampling
from probinf.kernels.kernel import Kernel, cycle, mix, on, repeat, together
from probinf.kernels.particle_moves import conditional_smc
from probinf.kernels.trace_moves import gibbs, random_walk, redraw, refresh_future, trace_mh, uniform_proposal
from probinf.language import statements as pi
from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Program, model
from probinf.language.staging import Arguments
from probinf.transformations.algorithms import population
from probinf.transformations.collapsing import collapse, push_evidence, resize
from probinf.transformations.importance import importance
from probinf.transformations.marginalising import marginalise
from probinf.transformations.randomness import Ticks
from probinf.transformations.rejuvenation import rejuvenated, tempered
from probinf.transformations.resampling import SCHEMES
from probinf.transformations.suspension import suspend
from probinf.transformations.traces import Traced
from probinf.transformations.translation import reweight_move, translate
from probinf.validity import jumps
from probinf.validity.programs import DATA, PROGRAMS

TICKS = Ticks(2)


@dataclasses.dataclass(frozen=True)
class Transformation:
    """A transformation with its claim, for the suite.

    Attributes:
        name: as it is called in the table.
        apply: program to program.
        claim: what it keeps.
        programs: programs, or names of programs of the suite; all of the suite by default.
        reference: what the result is compared with; the program itself by default.
    """

    name: str
    apply: Callable[[Program], Program]
    claim: Claim = Claim.UNBIASED
    programs: tuple[str | Program, ...] | None = None
    reference: Callable[[Program], Program] = lambda program: program

    def __call__(self, program: Program) -> Program:
        return self.apply(program)

    def suite(self) -> list[Program]:
        """The programs to check on."""
        names = PROGRAMS if self.programs is None else self.programs
        return [PROGRAMS[p] if isinstance(p, str) else p for p in names]


def ticked(program: Program, values: tuple[str, ...] = ()) -> Program:
    """The program whose randomness is two ticks at every place: what transformations of traces are compared with.

    Sites in `values` hold their value and follow their prior.
    """
    target = Traced(program, values=values, randomness=TICKS)

    def function(operands: Any) -> Any:
        here = target.at(operands)
        slots = here.draw()
        bind_factor(Site(""), here.prior_and_score(slots)[1])
        return here.result_of(slots)

    return Program(f"ticked({program.name})", function, Arguments.split((program.operands,), {}))


@model
def guide_markov(ys: Any) -> None:
    """A guide for the hidden Markov model: states that follow the data."""

    def step(carry: Any, y: Any) -> Any:
        share = jnp.where(y == 1, 0.7, 0.4)
        return carry, pi.sample("z", dist.CategoricalProbs(jnp.stack([1 - share, share])))

    jax.lax.scan(step, (), ys)


@model
def guide_static() -> None:
    """A guide for the static parameter alone; the rest comes from the prior."""
    pi.sample("theta", dist.BernoulliProbs(0.75))


@model
def two_coins() -> Any:
    """A part with a score inside, and something that depends on it."""
    a = pi.sample("a", dist.BernoulliProbs(0.3))
    b = pi.sample("b", dist.BernoulliProbs(jnp.where(a == 1, 0.8, 0.4)))
    pi.factor("f", jnp.where(a == b, 0.5, -0.7))
    return a, b


@model
def summed_coins() -> Any:
    """The same with the part summed out."""
    return marginalise(two_coins)()


@model
def coin_and_die() -> None:
    """A source for translations."""
    pi.sample("coin", dist.BernoulliProbs(0.3))
    die = pi.sample("die", dist.CategoricalProbs(jnp.array([0.2, 0.3, 0.5])))
    pi.factor("f", -0.4 * die.astype(float))


@model
def relabelled() -> dict:
    """A target with its own law and score on the same number of values."""
    side = pi.sample("side", dist.BernoulliProbs(0.6))
    face = pi.sample("face", dist.CategoricalProbs(jnp.array([0.5, 0.1, 0.4])))
    pi.factor("g", jnp.where(face == side, 0.2, -1.0))
    return {"face": face, "side": side}


def relabel(values: dict) -> dict:
    """A bijection from the source's values to the target's."""
    return {"side": 1 - values["coin"], "face": (values["die"] + 1) % 3}


@model
def forth(old: dict) -> None:
    """A kernel from the source's values to the target's."""
    pi.sample("side", dist.BernoulliProbs(jnp.where(old["coin"] == 1, 0.7, 0.2)))
    pi.sample("face", dist.CategoricalProbs(jnp.ones(3) / 3))


@model
def back(new: dict) -> None:
    """A backward kernel."""
    pi.sample("coin", dist.BernoulliProbs(jnp.where(new["side"] == 1, 0.5, 0.25)))
    pi.sample("die", dist.CategoricalProbs(jnp.array([0.3, 0.3, 0.4])))


FEW = ("hidden_markov", "static_parameter", "zero_weights", "timed_factor", "random_branch", "no_mass")
#: Programs without scores inside while loops.
SCANS = (
    "hidden_markov",
    "static_parameter",
    "zero_weights",
    "timed_factor",
    "random_branch",
    "unequal_factors",
    "no_mass",
)


#: Number of particles, resampling scheme, threshold.
Rule = tuple[int, str, float]


def rules(*, full: bool = False) -> list[Rule]:
    """The full grid of sizes, schemes and thresholds, or a covering part of it."""
    if full:
        return list(itertools.product((1, 2, 3), SCHEMES, (0.0, 0.5, 1.0)))
    some = [(2, s, 1.0) for s in SCHEMES] + [(2, "systematic", 0.5), (2, "systematic", 0.0), (1, "residual", 0.5)]
    return [*some, (3, "systematic", 1.0), (3, "residual", 0.5), (1, "ssp", 1.0), (3, "ssp", 0.5), (1, "killing", 0.5)]


def populations(*, full: bool = False) -> Iterator[Transformation]:
    """Populations, by every rule."""
    for num, scheme, threshold in rules(full=full):

        def apply(program: Program, num: int = num, scheme: str = scheme, threshold: float = threshold) -> Program:
            return population(program, num, resample=scheme, threshold=threshold)

        programs = None if num < 3 or full else FEW
        yield Transformation(f"population({num}, {scheme}, {threshold:g})", apply, programs=programs)


def for_program(things: list[Transformation], index: int) -> tuple[Transformation, int]:
    """The population that random program number `index` meets, and its number of particles."""
    thing = things[(7 * index) % len(things)]
    return thing, int(thing.name[len("population(")])


def transformations() -> Iterator[Transformation]:
    """All other transformations of programs."""
    exact = Claim.EXACT
    yield Transformation("collapse(population(2))", lambda p: collapse(population(p, 2, threshold=1.0)))
    yield Transformation("push_evidence(population(2))", lambda p: push_evidence(population(p, 2)))
    yield Transformation("resize(population(2), 3)", lambda p: resize(population(p, 2, threshold=1.0), 3), programs=FEW)
    yield Transformation("resize(population(3), 1)", lambda p: resize(population(p, 3), 1), programs=FEW)
    yield Transformation("population(2, priority w^1/2)", lambda p: population(p, 2, priority=half, threshold=1.0))
    yield Transformation("population(2, priority 1)", lambda p: population(p, 2, priority=jnp.zeros_like), programs=FEW)
    yield Transformation(
        "population(collapse(population(2)), 2)",
        lambda p: population(collapse(population(p, 2, push_evidence=True, threshold=1.0)), 2, threshold=1.0),
        programs=("zero_weights", "two_scores_in_a_call", "timed_factor"),
    )
    for num in (1, 2, 3):
        yield Transformation(
            f"collapse(population({num}, shared theta))",
            lambda p, num=num: collapse(population(p, num, shared=("theta",), threshold=1.0)),
            programs=("static_parameter",),
        )
    yield Transformation("importance(guide)", lambda p: importance(p, guide_markov(DATA)), exact, ("hidden_markov",))
    yield Transformation("importance(part)", lambda p: importance(p, guide_static()), exact, ("static_parameter",))
    yield Transformation(
        "population(importance(guide), 2)",
        lambda p: population(importance(p, guide_markov(DATA)), 2, threshold=1.0),
        programs=("hidden_markov",),
    )
    yield Transformation("marginalise(two coins)", lambda p: summed_coins(), exact, (two_coins(),))
    other, source = relabelled(), (coin_and_die(),)
    yield Transformation("translate", lambda p: translate(p, other, relabel), exact, source, lambda p: other)
    yield Transformation(
        "reweight_move", lambda p: reweight_move(p, other, forth, back), exact, source, lambda p: other
    )
    kernels = {"trace_mh": trace_mh(), "cycle(refresh, redraw)": cycle(refresh_future(), redraw())}
    for name, kernel in kernels.items():

        def moved(p: Program, kernel: Kernel = kernel) -> Program:
            return rejuvenated(p, kernel, randomness=TICKS)

        yield Transformation(f"rejuvenated({name})", moved, exact, SCANS, ticked)
        for num in (1, 2):
            yield Transformation(
                f"population(rejuvenated({name}), {num})",
                lambda p, moved=moved, num=num: population(moved(p), num, threshold=1.0),
                programs=FEW if num == 1 else ("zero_weights", "timed_factor", "hidden_markov"),
                reference=ticked,
            )
    yield Transformation(
        "rejuvenated(redraw, frozen)",
        lambda p: rejuvenated(p, redraw(), freeze=True, randomness=TICKS),
        exact,
        SCANS,
        ticked,
    )
    two_layers = ("hidden_markov", "timed_factor", "zero_weights", "no_mass")
    yield Transformation("suspend, finish", lambda p: suspend(p, randomness=TICKS).finish(), exact, SCANS, ticked)
    yield Transformation(
        "suspend, advance, finish",
        lambda p: suspend(p, randomness=TICKS).advance().advance().advance().finish(),
        exact,
        two_layers,
        ticked,
    )
    yield Transformation(
        "suspend, advance, move, finish",
        lambda p: suspend(p, randomness=TICKS).advance().hoist_first(redraw()).finish(),
        exact,
        two_layers,
        ticked,
    )
    ladder = (0.3, 1.0)
    yield Transformation(
        "tempered(0.3, 1, trace_mh)", lambda p: tempered(p, ladder, trace_mh(), randomness=TICKS), exact, FEW, ticked
    )
    yield Transformation(
        "population(tempered(0.3, 1, trace_mh), 2)",
        lambda p: population(tempered(p, ladder, trace_mh(), randomness=TICKS), 2, threshold=1.0),
        programs=("zero_weights", "timed_factor", "no_mass"),
        reference=ticked,
    )


def half(log_weights: jax.Array) -> jax.Array:
    """The priority w^1/2."""
    return 0.5 * log_weights


def kernels() -> Iterator[Kernel]:
    """All kernels on traces and assignments, and their compositions."""
    yield trace_mh()
    yield redraw()
    yield redraw(0.4)
    yield random_walk(0.5)
    yield gibbs()
    yield uniform_proposal()
    yield cycle(trace_mh(), redraw(0.5))
    yield mix(trace_mh(), redraw(), probabilities=(0.25, 0.75))
    yield repeat(trace_mh(), 2)
    yield together(trace_mh(), redraw(0.5))
    yield on_first(trace_mh())
    for scheme in SCHEMES:
        for ancestor_sampling in (False, True):
            kernel = conditional_smc(2, resample=scheme, threshold=1.0, ancestor_sampling=ancestor_sampling)
            which = f"{scheme}, ancestor sampling" if ancestor_sampling else scheme
            yield dataclasses.replace(kernel, name=f"conditional_smc(2, {which})")
    yield conditional_smc(3, threshold=0.5)
    # On continuous programs only, so at the statistical level.
    yield hmc(0.3, 4)
    yield nuts_kernel(0.4, max_tree_depth=4)
    yield mala(0.15)
    yield slice_sampling()
    yield mclmc(0.5, 4)


def chains() -> Iterator[tuple[str, Kernel, Any, Any]]:
    """Kernels on targets of their own: names, kernels, targets, and all states (None: the target lists them)."""
    yield from jumps.chains()


def on_first(kernel: Kernel) -> Kernel:
    """The kernel on the first site of whatever target it meets."""

    def step(target: Any, state: Any) -> Any:
        return on(kernel, next(iter(target.table))).step(target, state)

    return Kernel(f"on({kernel.name}, first)", step, kernel.claim, (kernel,))
