"""`validate`: what holds passes, what is broken fails with the smallest program and a reason."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.kernel import Kernel, emit
from probinf.language.primitives import Site, bind_factor
from probinf.transformations.derived import derived
from probinf.validity.programs import PROGRAMS
from probinf.validity.rank_tests import check_ranks
from probinf.validity.report import Check, Report
from probinf.validity.validate import by_size

SMALL = [PROGRAMS[n] for n in ("hidden_markov", "zero_weights", "random_branch")]


def test_a_kernel_that_holds():
    report = pi.validate(pi.trace_mh(), SMALL, level="exact")
    assert report
    assert {c.claim for c in report.checks} == {"invariant", "keeps weight", "reversible"}
    assert max(c.statistic for c in report.checks) <= 1e-13
    text = repr(report)
    assert "trace_mh()" in text
    assert "0 failed" in text
    assert "| `trace_mh()` | invariant | exact |" in report.to_markdown()


def test_a_transformation_that_holds():
    report = pi.validate(lambda p: pi.population(p, 2, threshold=1.0), SMALL, level="exact", name="population(2)")
    assert report.passed
    assert [row["thing"] for row in report.summary()] == ["population(2)"]


def test_the_callers_precision_does_not_matter():
    with jax.enable_x64(False):
        report = pi.validate(lambda p: pi.population(p, 2, threshold=1.0), SMALL[:1], level="exact")
    assert report.passed


@pi.model
def coin(y):
    share = pi.sample("share", dist.CategoricalProbs(jnp.array([0.2, 0.8])))
    pi.observe("y", dist.BernoulliProbs(jnp.array([0.3, 0.6])[share]), y)
    return share


def test_a_program_that_was_checked_is_still_that_of_the_caller():
    """Read once and again in double precision, it keeps the types of the caller, and the data it was given."""
    with jax.enable_x64(False):
        program = coin(jnp.asarray(1))
        other = program.with_operands(jax.tree.map(jnp.zeros_like, program.operands))
        for one in (program, other, coin(jnp.asarray(1))):
            assert pi.validate(lambda p: pi.population(p, 1), one, level="exact")
            assert pi.suspend(one).finish().run(0)[1].dtype == jnp.float32
        seen = []
        pi.validate(lambda p: seen.append(p) or p, other, level="exact")
    assert pi.enumerate_program(seen[0]).log_evidence == pytest.approx(np.log(0.2 * 0.7 + 0.8 * 0.4))


def doubled(program):
    """Counts the evidence wrongly by a constant."""

    def function(value):
        bind_factor(Site(""), jnp.log(1.01))
        return value

    return derived("doubled", program, function)


def test_a_transformation_that_fails_names_the_smallest_program():
    report = pi.validate(doubled, SMALL, level="exact")
    assert not report
    smallest = by_size(SMALL)[0]
    assert report.failures[0].program == smallest.name
    np.testing.assert_allclose(report.failures[0].statistic, 0.01 / 1.01 * _largest(smallest), rtol=1e-6)
    text = repr(report)
    assert f"Smallest failing program: {smallest.name} (doubled)" in text
    assert "has mass" in report.failures[0].note
    assert f"FAILS on {smallest.name}" in text


def test_a_note_names_the_result_that_is_wrong_and_both_masses():
    """Share 1 has mass 0.8 x 0.6; doubled, 1.01 times as much."""
    (failure,) = pi.validate(doubled, coin(jnp.asarray(1)), level="exact").failures
    assert failure.note.startswith("The result (1.0,) has mass 0.4848, expected 0.48 of a total of")


def test_what_applies_to_no_program_says_why():
    report = pi.validate(lambda p: pi.population(p, 2, shared=("theta",)), SMALL[:1], level="exact")
    assert not report
    assert not report.failures
    assert "Nothing could be checked. hidden_markov: 'theta' is not a latent site" in repr(report)


def test_the_level_holds_for_algorithms_too(monkeypatch):
    from probinf.validity import unbiasedness

    asked = []
    monkeypatch.setattr(unbiasedness, "check_unbiased", lambda thing, name, seed: asked.append(thing) or [])
    algorithm = smc.spawn(4) >> smc.resample("systematic") >> smc.finish()
    assert not pi.validate(algorithm, level="statistical").checks
    assert asked == [algorithm]
    assert {c.level for c in pi.validate(algorithm, SMALL[1:2], level="all").checks} == {"exact"}
    assert len(asked) == 1


def _largest(program):
    table = np.array(list(pi.enumerate_program(program).table().values()))
    return table.max() / table.sum()


def lazy(kernel):
    """A kernel that accepts everything."""

    def step(target, state):
        return target.replay(kernel.propose(target, state.slots)), {"accepted": jnp.ones(())}

    return dataclasses.replace(kernel, step=step, name="accepts everything")


def test_a_kernel_that_fails_is_found_exactly():
    report = pi.validate(lazy(pi.redraw()), SMALL, level="exact")
    assert {c.claim for c in report.failures} == {"invariant", "reversible"}


def test_rank_tests_pass_what_holds_and_fail_what_does_not():
    """p-values below 2e-9 fail: false alarms of the first half have probability below 1e-8."""
    kernel = pi.random_walk(0.5)
    assert all(c.passed for c in check_ranks(kernel, 0, "random walk"))
    failed = [c for c in check_ranks(lazy(kernel), 0, "accepts everything") if not c.passed]
    assert {c.claim for c in failed} == {"invariant", "reversible"}


def test_a_wrong_density_is_found_by_ranks():
    """The prior counted twice in the ratio: every chain looks healthy."""
    kernel = pi.random_walk(0.5)

    def step(target, state):
        new = target.replay(kernel.propose(target, state.slots))
        extra = target.prior_and_score(new.slots)[0] - target.prior_and_score(state.slots)[0]
        ratio = jnp.exp(jnp.minimum(new.log_weight - state.log_weight + extra, 0.0))
        ok = emit(dist.BernoulliProbs(ratio)) == 1
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state), {"accepted": ok}

    broken = dataclasses.replace(kernel, step=step)
    assert any(not c.passed for c in check_ranks(broken, 0, "prior twice"))


def test_a_kernel_without_an_exact_claim_is_not_judged():
    kernel = dataclasses.replace(pi.trace_mh(), claim=Claim.APPROXIMATE)
    report = pi.validate(kernel, SMALL[:1], level="exact")
    assert [c.passed for c in report.checks] == [None]
    assert not report.passed


def test_reports_add_up():
    good = Report((Check("a", "exact", "p", 0.0, 1e-12, passed=True),), 1.0)
    bad = Report((Check("b", "exact", "p", 1.0, 1e-12, passed=False, note="why"),), 2.0)
    both = good + bad
    assert both.seconds == 3.0
    assert not both.passed
    assert both.failures == bad.checks
    assert not Report(()).passed


def test_a_weight_that_is_found_again_to_the_last_bit_only_does_not_fail_the_rank_test():
    """Compiled twice, the same weight may differ in its last bit: a state that does not move still ties with itself."""

    def step(target, state):
        again = dataclasses.replace(state, log_weight=state.log_weight * (1 - 4e-16))
        return again, {"accepted": jnp.asarray(False)}

    checks = list(check_ranks(Kernel("weighs again", step, Claim.REVERSIBLE), 0, "weighs again"))
    assert {c.claim for c in checks} == {"invariant", "reversible"}
    assert all(c.passed for c in checks)


@pi.model
def narrow():
    """A loop that carries 32-bit integers and draws 64-bit ones."""

    def step(z, _):
        return pi.sample("z", dist.CategoricalProbs(jnp.array([0.5, 0.5]))), None

    return jax.lax.scan(step, jnp.zeros((), jnp.int32), None, length=2)[0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pi.validate(pi.trace_mh(), level="exactly"), ArgumentError, "level: expected 'exact'"),
        (lambda: pi.validate(3, SMALL), ArgumentTypeError, "thing: expected a kernel"),
        (lambda: pi.validate(pi.trace_mh(), coin), ArgumentTypeError, "found <model coin>: call it with its data"),
        (lambda: pi.validate(pi.trace_mh(), [3]), ArgumentTypeError, "programs: expected programs such as"),
        (lambda: pi.validate(pi.trace_mh(), []), ArgumentError, "programs: expected at least one"),
        (lambda: pi.validate(lambda p: None, SMALL), ArgumentTypeError, "returned None, expected a program"),
        (lambda: pi.validate(smc.spawn(2), SMALL), ArgumentError, "not finished"),
        (lambda: pi.validate(pi.trace_mh(), narrow()), ModelError, "narrow cannot be read in double precision"),
    ],
)
def test_what_cannot_be_validated_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
