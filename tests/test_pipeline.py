"""Pipelines as programs, methods and things to validate; and what `marginalise` and `translate` are for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError
from probinf.validity.measures import assert_same_measure
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov
from probinf.validity.shipped import ticked
from smc.validity_cases import algorithms

EACH = smc.at_each_observation(smc.resample("multinomial", threshold=1.0), smc.move(pi.trace_mh()))


@pytest.mark.parametrize("algorithm", list(algorithms()), ids=repr)
@pytest.mark.parametrize("num", [1, 2])
def test_an_algorithm_means_the_program(algorithm, num):
    finite = algorithm.with_num_particles(num)
    assert_same_measure(finite(PROGRAMS["zero_weights"]), finite.reference(PROGRAMS["zero_weights"]))


def test_validate_takes_an_algorithm_at_one_two_and_three_particles():
    algorithm = smc.spawn(100) >> smc.resample("residual", threshold=1.0) >> smc.finish()
    report = pi.validate(algorithm, [hidden_markov(DATA)], level="exact")
    assert report
    assert [c.thing.split(" >> ")[0] for c in report.checks] == ["spawn(1)", "spawn(2)", "spawn(3)"]


def test_infer_runs_an_algorithm(key):
    """Evidence against enumeration: weights in [0.1, 0.9]^2 give a relative standard error below 0.01; 6 of them."""
    algorithm = smc.spawn(20_000) >> smc.at_each_observation(smc.resample("systematic")) >> smc.finish()
    posterior = pi.infer(hidden_markov(DATA), algorithm, seed=3, progress=False)
    exact = pi.enumerate_program(hidden_markov(DATA)).log_evidence
    assert abs(posterior.log_evidence - exact) < 0.06
    assert posterior["z"].shape == (1, 20_000, 2)
    assert posterior.claim == "unbiased"
    assert posterior.method.startswith("spawn(20000) >> at_each_observation(resample('systematic'")


def test_the_claim_is_the_meet_of_the_parts():
    import dataclasses

    rough = dataclasses.replace(pi.trace_mh(), claim=Claim.APPROXIMATE)
    assert (smc.spawn(2) >> EACH >> smc.finish()).claim is Claim.UNBIASED
    assert (smc.spawn(2) >> smc.at_each_observation(smc.move(rough))).claim is Claim.APPROXIMATE


def test_waste_free_keeps_the_measure():
    program = PROGRAMS["timed_factor"]
    found = smc.waste_free(program, (0.5, 1.0), pi.redraw(), num_chains=1, length=2, randomness=pi.Ticks(2))
    assert_same_measure(found, ticked(program))


def test_waste_free_finds_a_conjugate_evidence():
    """log N(y; 0, I + 4 J): 20 runs of 400 particles; mean evidence within 6 standard errors."""

    @pi.model
    def conjugate(y):
        mu = pi.sample("mu", dist.Normal(0.0, 2.0))
        pi.observe("y", dist.Normal(mu, 1.0).expand([y.size]).to_event(1), y)

    y = jnp.array([1.2, 0.4, 2.0])
    ladder = (0.05, 0.2, 0.5, 1.0)
    program = smc.waste_free(conjugate(y), ladder, pi.random_walk(0.8), num_chains=40, length=10, values=("mu",))
    runs = jax.jit(jax.vmap(lambda k: program.run(k)[0].log_evidence))(jax.random.split(jax.random.key(0), 20))
    exact = dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 4.0).log_prob(y)
    ratios = np.exp(np.asarray(runs) - float(exact))
    assert abs(ratios.mean() - 1) < 6 * ratios.std(ddof=1) / np.sqrt(20)
    assert ratios.std() < 0.5


@pi.model
def component():
    z = pi.sample("z", dist.CategoricalProbs(jnp.array([0.2, 0.5, 0.3])))
    pi.observe("x", dist.Normal(jnp.array([-2.0, 0.0, 3.0])[z], 1.0), 0.7)
    return z


@pi.model
def mixture_mean():
    mu = pi.sample("mu", dist.Normal(0.0, 1.0))

    def part(mu):
        z = pi.sample("z", dist.BernoulliProbs(0.4))
        pi.observe("y", dist.Normal(mu + 2.0 * z.astype(float), 1.0), 1.3)
        return z

    return pi.marginalise(pi.model(part))(mu)


def test_a_part_of_a_model_is_summed_out_and_gradients_pass():
    program = mixture_mean()
    assert [s.name for s in program.staged.latent()] == ["mu"]
    mu = 0.3
    weight = 0.6 * np.exp(-0.5 * (1.3 - mu) ** 2) + 0.4 * np.exp(-0.5 * (1.3 - mu - 2) ** 2)
    expected = -0.5 * mu**2 - np.log(2 * np.pi) + np.log(weight)
    np.testing.assert_allclose(float(program.log_density({"mu": mu})), expected, rtol=1e-12)


@pi.model
def leaky():
    z = pi.marginalise(component)()
    pi.factor("f", 0.1 * z.astype(float))


@pytest.mark.bad_input
def test_a_score_that_looks_at_a_summed_out_draw_has_no_density():
    with pytest.raises(ModelError, match="makes draws of its own"):
        leaky().log_density({})


def test_nuts_samples_around_a_summed_out_part():
    """Posterior mean of mu by quadrature; 6 Monte Carlo standard errors at an ESS of at least 300."""
    posterior = pi.infer(mixture_mean(), pi.NUTS(num_draws=1000, num_warmup=500, num_chains=2), progress=False)
    mu = np.linspace(-6, 6, 4001)
    w = 0.6 * np.exp(-0.5 * (1.3 - mu) ** 2) + 0.4 * np.exp(-0.5 * (1.3 - mu - 2) ** 2)
    w *= np.exp(-0.5 * mu**2)
    mean = (w * mu).sum() / w.sum()
    sd = np.sqrt((w * (mu - mean) ** 2).sum() / w.sum())
    assert abs(float(posterior.mean("mu")) - mean) < 6 * sd / np.sqrt(300)


def test_translating_continuous_values_carries_the_jacobian():
    """A scaled and mixed pair of normals: the evidence of the target is the mean weight, here exactly constant."""

    @pi.model
    def source():
        pi.sample("a", dist.Normal(0.0, 1.0))
        pi.sample("b", dist.Normal(0.0, 1.0))

    @pi.model
    def target():
        u = pi.sample("u", dist.Normal(0.0, 2.0))
        pi.sample("v", dist.Normal(u, 3.0))

    def mapping(values):
        u = 2.0 * values["a"]
        return {"u": u, "v": u + 3.0 * values["b"]}

    program = pi.translate(source(), target(), mapping)
    weights = [float(program.run(k)[1]) for k in jax.random.split(jax.random.key(0), 5)]
    np.testing.assert_allclose(weights, 0.0, atol=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: smc.spawn(0), ArgumentError, "num_particles"),
        (lambda: smc.spawn(2) >> smc.finish() >> smc.finish(), ArgumentError, "nothing can follow"),
        (lambda: smc.spawn(2) >> 3, ArgumentTypeError, "Expected a step"),
        (lambda: smc.at_each_observation(), ArgumentTypeError, "expected smc.resample"),
        (lambda: smc.at_each_observation(smc.resample(), smc.resample()), ArgumentError, "at most one resampling"),
        (lambda: smc.at_each_observation(smc.move(pi.trace_mh()), smc.resample()), ArgumentError, "comes first"),
        (lambda: smc.move(3), ArgumentTypeError, "kernel: expected a kernel"),
        (lambda: (smc.spawn(2) >> EACH)(hidden_markov(DATA)), ArgumentError, "not finished"),
        (
            lambda: pi.infer(PROGRAMS["no_mass"], smc.spawn(4) >> smc.finish(), progress=False),
            InferenceError,
            "All 4 particles",
        ),
        (lambda: pi.marginalise(mixture_mean)().staged, ModelError, "mu"),
        (lambda: pi.marginalise(with_a_branch)().staged, ModelError, "stands in a branch"),
    ],
)
def test_mistakes_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pi.model
def with_a_branch():
    a = pi.sample("a", dist.BernoulliProbs(0.5))
    return jax.lax.cond(a == 1, lambda: pi.sample("b", dist.BernoulliProbs(0.2)), lambda: jnp.zeros((), jnp.int64))
