"""Check a claim: of a kernel, a transformation, or an algorithm, shipped or your own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
import numpy as np

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, ProbinfError, UnknownNameError
from probinf.kernels.kernel import Kernel
from probinf.language.program import Model, Program
from probinf.transformations.algorithms import enumerate_program, recorded
from probinf.transformations.randomness import Ticks
from probinf.transformations.targets import Assigned
from probinf.transformations.traces import Traced
from probinf.validity.matrices import Chain, all_slots, transition_matrix
from probinf.validity.measures import discrepancy, farthest
from probinf.validity.programs import PROGRAMS
from probinf.validity.report import Check, Report

EXACT = 1e-12  # times the sum of absolute path weights
KERNEL = 1e-13  # of the total mass
_MOST_STATES = 64
_FEW_STATES = 9  # three ticks where they are cheap


def validate(
    thing: Any,
    programs: Program | Iterable[Program] | None = None,
    *,
    level: str = "all",
    seed: int = 0,
    name: str | None = None,
) -> Report:
    """Check what a kernel or transformation claims.

    A *kernel* is enumerated from every state of each program's trace space: rows sum to one, pi K = pi, and
    reversibility where it is claimed. A *transformation*, any function of a program to a program, is enumerated as a
    whole, its own randomness included, and compared with the program's measure entry by entry; an algorithm that
    depends on a number of particles is checked at the numbers given by whoever calls (`pi.validate(lambda p:
    pi.population(p, 2))`), and one built with `smc.spawn(n) >> ...` at 1, 2 and 3. At the statistical level kernels are
    tested on continuous programs by exact rank tests, and functions from program to program by the mean of their
    evidence estimates on linear-Gaussian programs (see `probinf.validity.unbiasedness`); both bring their own programs.

    Args:
        thing: a kernel, a function from program to program, or an algorithm.
        programs: finite programs to check on, one or several; those of the suite by default, smallest first. Where they
            are given, a function is checked on them alone unless `level` is "statistical". They are read again in
            double precision: what a loop carries must have the type of a draw there (`jnp.zeros((), int)`).
        level: "exact", "statistical" or "all".
        seed: of the statistical checks.
        name: how to call the thing in the table.

    Returns:
        A report that prints as a table and is true when every check holds.

    Raises:
        ArgumentError: no such level, or no programs.
        ArgumentTypeError: nothing that can be checked, or that returns no program.
        ModelError: a program that cannot be enumerated.
    """
    if level not in ("exact", "statistical", "all"):
        raise ArgumentError(f"level: expected 'exact', 'statistical' or 'all', found {level!r}.")
    began = time.perf_counter()
    # Exact means in double precision, whatever the caller's JAX is set to.
    with jax.enable_x64(True):
        checks = _checks(thing, programs, level, seed, name)
    return Report(tuple(checks), time.perf_counter() - began)


def _checks(thing: Any, programs: Any, level: str, seed: int, name: str | None) -> list[Check]:
    suite = by_size(PROGRAMS.values() if programs is None else _in_double_precision(programs))
    checks: list[Check] = []
    if isinstance(thing, Kernel):
        if level in ("exact", "all"):
            for program in suite:
                checks += check_kernel(thing, program, name or thing.name)
        if level in ("statistical", "all"):
            from probinf.validity.rank_tests import check_ranks

            checks += check_ranks(thing, seed, name or thing.name)
    elif hasattr(thing, "with_num_particles"):
        if level in ("exact", "all"):
            for num in (1, 2, 3):
                fixed = thing.with_num_particles(num)
                for program in suite:
                    checks += check_transformation(fixed, program, name or repr(fixed), thing.claim)
        if level == "statistical" or (level == "all" and programs is None):
            from probinf.validity.unbiasedness import check_unbiased

            checks += check_unbiased(thing, name or repr(thing), seed)
    elif callable(thing):
        claim = getattr(thing, "claim", Claim.UNBIASED)
        label = name or getattr(thing, "__name__", repr(thing))
        if level in ("exact", "all"):
            for program in suite:
                checks += check_transformation(cast(Any, thing), program, label, claim)
        # What changes the measure on purpose (`reference`) is compared with another, which is that of a finite program.
        is_plain = getattr(thing, "reference", None) is None
        if is_plain and (level == "statistical" or (level == "all" and programs is None)):
            from probinf.validity.unbiasedness import check_unbiased

            checks += check_unbiased(cast(Any, thing), label, seed)
    else:
        raise ArgumentTypeError(
            f"thing: expected a kernel, an algorithm, or a function from program to program, found {thing!r} of type "
            f"{type(thing).__name__}."
        )
    return checks


def _in_double_precision(programs: Any) -> list[Program]:
    """Copies of the programs: a program keeps how it was read, and the caller goes on in another precision."""
    given = [programs] if isinstance(programs, Program | Model) else list(programs)
    if not given:
        raise ArgumentError("programs: expected at least one finite program, found none.")
    copies = []
    for program in given:
        if not isinstance(program, Program):
            kind = f"{program!r}: call it with its data" if isinstance(program, Model) else repr(program)
            raise ArgumentTypeError(f"programs: expected programs such as model(data), found {kind}.")
        copy = dataclasses.replace(program)
        try:
            copies.append(copy.with_operands(program.operands if "_staged" in vars(program) else copy.operands))
        except ModelError as error:
            raise ModelError(f"programs: {program.name} cannot be read in double precision: {error}") from None
    return copies


def by_size(programs: Iterable[Program]) -> list[Program]:
    """Programs in the order of their number of executions, so that the first failure is the smallest."""
    return sorted(programs, key=lambda p: len(enumerate_program(p).log_weights))


def check_transformation(
    transform: Callable[[Program], Program], program: Program, name: str, claim: Claim = Claim.UNBIASED
) -> Iterator[Check]:
    """Enumerate a transformed program and compare measures.

    Where the transformation draws traces its ticks make another program of the same shape; the reference is then
    that program (see `probinf.transformations.randomness.Ticks`).
    """
    reference = enumerate_program(_reference(transform, program))
    try:
        made: Any = transform(program)
        if not isinstance(made, Program):
            raise ArgumentTypeError(f"thing: {name} returned {made!r}, expected a program.")
        law = enumerate_program(made)
    except (ArgumentError, ArgumentTypeError):
        raise  # a mistake in the call, not in the algorithm
    except (ModelError, UnknownNameError) as error:
        yield Check(name, str(claim), program.name, np.nan, EXACT, passed=None, note=str(error))
        return
    except ProbinfError as error:
        yield Check(name, str(claim), program.name, np.inf, EXACT, passed=False, note=str(error))
        return
    error, scale = discrepancy(law, reference)
    relative = error / scale if scale > 0 else error
    passed = bool(relative <= EXACT)  # NaN fails
    note = ""
    if not passed:
        value, found, expected = farthest(law, reference)
        note = (
            f"The result {value} has mass {found:.6g}, expected {expected:.6g} of a total of {scale:.3g}, over "
            f"{len(law.log_weights)} worlds."
        )
    yield Check(name, str(claim), program.name, float(relative), EXACT, passed=passed, note=note)


def _reference(transform: Any, program: Program) -> Program:
    change = getattr(transform, "reference", None)
    return program if change is None else change(program)


def check_kernel(kernel: Kernel, program: Program, name: str) -> Iterator[Check]:
    """Enumerate a kernel on a program's traces: rows, invariance, reversibility, and the weight it reports."""
    if not kernel.claim.implies(Claim.INVARIANT):
        yield Check(name, str(kernel.claim), program.name, np.nan, KERNEL, passed=None, note="Not an exact claim.")
        return
    found = 0
    for target, states in _targets(kernel, program):
        try:
            chain = transition_matrix(kernel, target, states)
        except ModelError:
            continue  # the kernel moves values, and this target holds none, or the other way round
        found += 1
        yield from _of_chain(kernel, chain, name, program.name)
    if not found:
        yield Check(name, str(kernel.claim), program.name, np.nan, KERNEL, passed=None, note="It moves nothing here.")


def check_on(kernel: Kernel, target: Any, name: str, states: Any = None) -> Iterator[Check]:
    """`check_kernel` on one finite target, or on one whose states are all given."""
    program = target.program.name if hasattr(target, "program") else target.name
    yield from _of_chain(kernel, transition_matrix(kernel, target, states), name, program)


def _targets(kernel: Kernel, program: Program) -> Iterator[tuple[Any, Any]]:
    if kernel.space == "assignments":
        if not any(None in s.loops for s in program.staged.latent()):  # such sites have no single value
            yield Assigned(program), assignments(program)
        return
    always = [s.name for s in program.staged.latent() if not s.branches and None not in s.loops]
    for values in ((), tuple(always)) if always else ((),):
        for count in (2, 3):
            try:
                target = Traced(program, values=values, randomness=Ticks(count))
            except ModelError:
                continue
            units = sum(p.count for p in target.table.values() if p.holds == "unit")
            if count**units <= (_MOST_STATES if count == 2 else _FEW_STATES):
                yield target, all_slots(target)
            if not units:
                break


def assignments(program: Program) -> dict[str, np.ndarray]:
    """All assignments of a finite program's latent sites that have mass, stacked."""
    law = enumerate_program(recorded(program))
    possible = np.isfinite(law.log_weights)
    values = {s.name: np.asarray(law.values[s.name])[possible] for s in program.staged.latent()}
    count = int(possible.sum())
    flat = [v.reshape(count, int(np.prod(v.shape[1:], dtype=int))).astype(float) for v in values.values()]
    rows = np.concatenate([np.zeros((count, 1)), *flat], axis=1)
    first = np.unique(rows, axis=0, return_index=True)[1]
    return {n: v[first] for n, v in values.items()}


def _of_chain(kernel: Kernel, chain: Chain, name: str, program: str) -> Iterator[Check]:
    if not (chain.target > 0).any():
        return

    def check(claim: str, error: float, what: str) -> Check:
        passed = bool(error <= KERNEL)
        note = "" if passed else f"{what} {error:.3g}, over {len(chain.target)} states."
        return Check(name, claim, program, error, KERNEL, passed=passed, note=note)

    yield check("invariant", max(chain.invariance, chain.row_error), "pi K differs from pi by")
    yield check("keeps weight", chain.kept, "The weight kept for the new state is off by")
    if kernel.claim.implies(Claim.REVERSIBLE):
        yield check("reversible", chain.asymmetry, "The flow between two states is asymmetric by")
