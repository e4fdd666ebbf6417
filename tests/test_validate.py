"""`validate`: what holds passes, what is broken fails with the smallest program and a reason."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError
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
    assert f"Smallest failing program: {smallest.name} (doubled)" in repr(report)


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


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pi.validate(pi.trace_mh(), level="exactly"), ArgumentError, "level: expected 'exact'"),
        (lambda: pi.validate(3, SMALL), ArgumentTypeError, "thing: expected a kernel"),
    ],
)
def test_what_cannot_be_validated_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
