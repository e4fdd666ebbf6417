"""`SMC` chooses by looking at the program; plain populations as a method: evidence, warnings, faults.

Statistical tests use Student's t over independent runs at a two-sided false-alarm rate of 1e-4 each; seeds are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, UnknownNameError
from probinf.language.numpyro_models import as_program
from smc.method import choose
from tests.compile_count import compiled
from tests.test_tempered import agrees

YS = jnp.array([0.3, -0.5, 1.2, 0.4, 2.0, 1.1])
TRANSITION = np.array([[0.8, 0.2], [0.3, 0.7]])
SIGNS = jnp.array([1, 0, 0, 1, 1, 1, 0, 1])


@pi.model
def walk(ys):
    """Sequential, no parameter."""

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, 1.0))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, pi.sample("x0", dist.Normal(0.0, 1.0)), ys)


@pi.model
def hidden_markov(ys):
    def step(z, y):
        z = pi.sample("z", dist.Categorical(jnp.array(TRANSITION)[z]))
        pi.observe("y", dist.Bernoulli(jnp.array([0.1, 0.8])[z]), y)
        return z, None

    jax.lax.scan(step, 0, ys)


@pi.model
def noisy_walk(ys):
    q = pi.sample("q", dist.LogNormal(0.0, 0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, q))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, 0.0, ys)


@pi.model
def hierarchical_walk(ys):
    """The loop looks at q only, whose prior looks at m."""
    m = pi.sample("m", dist.Normal(0.0, 1.0))
    q = pi.sample("q", dist.LogNormal(m, 0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, q))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, 0.0, ys)


@pi.model
def switching_walk(ys):
    """A discrete static parameter."""
    k = pi.sample("k", dist.Bernoulli(0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, jnp.where(k == 1, 1.5, 0.5)))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, 0.0, ys)


@pi.model
def regression(ys):
    """An observed loop without a latent site inside: not sequential, whatever it looks like."""
    a = pi.sample("a", dist.Normal(0.0, 1.0))

    def step(t, y):
        pi.observe("y", dist.Normal(a * t, 1.0), y)
        return t + 1.0, None

    jax.lax.scan(step, 0.0, ys)


@pi.model
def static(ys):
    m = pi.sample("m", dist.Normal(0.0, 1.0))
    with pi.plate("row", ys.shape[0]):
        pi.observe("y", dist.Normal(m, 1.0), ys)


@pi.model
def mixture(ys):
    m = pi.sample("m", dist.Normal(0.0, 3.0))
    with pi.plate("row", ys.shape[0]):
        k = pi.sample("k", dist.Bernoulli(0.5))
        pi.observe("y", dist.Normal(jnp.where(k == 1, m, -m), 1.0), ys)


@pi.model
def sometimes(ys):
    a = pi.sample("a", dist.Bernoulli(0.5))
    b = jax.lax.cond(a == 1, lambda: pi.sample("b", dist.Normal(0.0, 1.0)), lambda: 0.0)
    with pi.plate("row", ys.shape[0]):
        pi.observe("y", dist.Normal(b, 1.0), ys)


@pi.model
def innovations(ys):
    """All randomness drawn before a deterministic loop over it."""
    with pi.plate("time", ys.shape[0]):
        e = pi.sample("e", dist.Normal(0.0, 1.0))

    def step(x, at):
        noise, y = at
        x = 0.5 * x + noise
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, 0.0, (e, ys))


CHOICES = [
    (walk(YS), "population", ()),
    (hidden_markov(SIGNS), "population", ()),
    (noisy_walk(YS), "smc2", ("q",)),
    (hierarchical_walk(YS), "smc2", ("m", "q")),
    (switching_walk(YS), "unmoved", ("k",)),
    (regression(YS), "tempered", ()),
    (static(YS), "tempered", ()),
    (innovations(YS), "tempered", ()),
    (mixture(YS), "unmoved", ("m", "k")),
    (sometimes(YS), "unmoved", ("a", "b")),
]


@pytest.mark.parametrize(("program", "kind", "names"), CHOICES, ids=[c[0].name for c in CHOICES])
def test_the_choice(program, kind, names):
    choice = choose(program)
    assert choice.kind == kind
    assert choice.static == names


def test_the_choice_for_a_numpyro_model():
    def model(ys):
        q = numpyro.sample("q", dist.LogNormal(0.0, 0.5))

        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, q))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
            return x, None

        scan(step, 0.0, ys)

    assert choose(as_program(model, YS)).kind == "smc2"


def test_a_program_without_latent_sites_is_refused():
    @pi.model
    def observed():
        pi.observe("y", dist.Normal(0.0, 1.0), 0.3)

    with pytest.raises(ModelError, match="no latent site"):
        pi.infer(observed(), smc.SMC(16), seed=0)


# -- populations ---------------------------------------------------------------------------------------------------


def test_evidence_and_last_state_of_a_hidden_markov_model_are_exact():
    """Unbiased, so the mean of Z-hat over 64 runs is Z; the law of the last state from the forward algorithm."""
    forward, emission = np.array([1.0, 0.0]), np.array([0.1, 0.8])
    for y in np.asarray(SIGNS):
        forward = (forward @ TRANSITION) * np.where(y == 1, emission, 1 - emission)
    found = pi.infer(hidden_markov(SIGNS), smc.SMC(200, num_runs=64), seed=0)
    runs = smc.history(found)["y/log_evidence"][:, -1]
    assert agrees(np.exp(runs) / forward.sum(), 1.0)
    assert found.log_evidence == pytest.approx(np.log(np.mean(np.exp(runs))), rel=1e-12)
    weights = np.exp(found.log_weights)
    mass = (weights * found["z"][:, :, -1]).mean(axis=1)
    assert agrees(mass, forward[1])
    assert found.claim == "unbiased"
    assert "population" in found.method
    assert "no static parameter" in found.method


def test_evidence_of_a_gaussian_walk_and_its_error():
    found = pi.infer(walk(YS), smc.SMC(2000, num_runs=16), seed=0)
    n = YS.shape[0]
    times = np.arange(1, n + 1)
    cov = np.minimum.outer(times, times) + 1.0 + 0.25 * np.eye(n)
    exact = -0.5 * (np.asarray(YS) @ np.linalg.solve(cov, np.asarray(YS)) + np.linalg.slogdet(2 * np.pi * cov)[1])
    runs = smc.history(found)["y/log_evidence"][:, -1]
    assert agrees(np.exp(runs - exact), 1.0)
    assert found.log_evidence_sd == pytest.approx(np.std(np.exp(runs - exact), ddof=1) / 4, rel=0.2)
    assert found["x"].shape == (16, 2000, n)
    assert found["x0"].shape == (16, 2000)
    assert smc.history(found)["y/ess"].shape == (16, n)
    assert found.warnings == ()


def test_paths_that_go_back_to_few_ancestors_are_reported():
    ys = jnp.zeros(200)
    found = pi.infer(walk(ys), smc.SMC(50, num_runs=2), seed=0)
    (note,) = found.warnings
    counted = int(note.split("go back to ")[1].split()[0])
    assert counted == min(np.unique(row).size for row in found["x0"])
    assert counted < 20


def test_unmoved_static_sites_are_counted():
    found = pi.infer(mixture(YS), smc.SMC(500, num_runs=2), seed=0)
    alive = found.log_weights > -np.inf
    assert any(f"m {np.unique(found['m'][alive]).size}" in note and "k " in note for note in found.warnings)
    assert "cannot be moved" in found.method


def test_a_discrete_parameter_has_its_exact_posterior():
    """P(k = 1 | y) of a switching walk by two Gaussian likelihoods, over 32 runs."""
    n = YS.shape[0]
    times = np.arange(1, n + 1)
    log_z = []
    for scale in (0.5, 1.5):
        cov = scale**2 * np.minimum.outer(times, times) + 0.25 * np.eye(n)
        log_z.append(
            -0.5 * (np.asarray(YS) @ np.linalg.solve(cov, np.asarray(YS)) + np.linalg.slogdet(2 * np.pi * cov)[1])
        )
    joint = 0.5 * np.exp(log_z)
    found = pi.infer(switching_walk(YS), smc.SMC(500, num_runs=32), seed=0)
    weights = np.exp(found.log_weights)
    assert agrees((weights * found["k"]).mean(axis=1) / joint[1], 1.0)
    assert agrees(weights.mean(axis=1) / joint.sum(), 1.0)


def test_one_particle_is_legal_and_said():
    found = pi.infer(walk(YS), smc.SMC(1, num_runs=2), seed=0)
    assert any("One particle" in note for note in found.warnings)


@pytest.mark.parametrize("program", [walk, static, switching_walk])
def test_a_second_call_with_new_data_compiles_nothing(program):
    pi.infer(program(YS), smc.SMC(64, num_runs=2), seed=0)
    new = YS + 1.0
    with compiled() as names:
        pi.infer(program(new), smc.SMC(64, num_runs=2), seed=1)
    assert names == []


@pytest.mark.parametrize(("num_particles", "size"), [(10, 32), (1000, 250), (100_000, 512)])
def test_smc2_is_chosen_and_gets_its_sizes(num_particles, size, monkeypatch):
    seen = []

    def run(self, program, key, *, progress=False, checkpoint=None):
        seen.append(self)
        return pi.Posterior({"q": np.zeros((1, 4))}, method="SMC²")

    monkeypatch.setattr(smc.SMC2, "run", run)
    found = pi.infer(noisy_walk(YS), smc.SMC(num_particles, num_runs=3, threshold=0.4), seed=0)
    assert found.method == "SMC: SMC² (sequential with static q)"
    assert seen == [smc.SMC2(size, size, threshold=0.4, num_runs=3)]


# -- faults --------------------------------------------------------------------------------------------------------


def test_a_population_that_dies_names_the_site_and_the_step():
    @pi.model
    def bounded(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, 1.0))
            pi.observe("y", dist.Uniform(x - 1.0, x + 1.0), y)
            return x, None

        jax.lax.scan(step, 0.0, ys)

    ys = jnp.array([0.1, 0.2, 500.0, 0.1])
    with pytest.raises(
        InferenceError, match=r"(?s)all 100 particles died at site 'y'.*step 2 of 4.*light-tailed"
    ) as caught:
        pi.infer(bounded(ys), smc.SMC(100, num_runs=2), seed=0)
    series = caught.value.partial["history"]["y/log_evidence"]
    assert np.isfinite(series[:, :2]).all()
    assert np.isneginf(series[:, 2:]).all()


def test_nan_weights_name_the_site_and_the_step():
    @pi.model
    def broken(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, 1.0))
            pi.factor("f", jnp.log(y + 0.0 * x))
            return x, None

        jax.lax.scan(step, 0.0, ys)

    with pytest.raises(InferenceError, match=r"(?s)NaN at site 'f'.*step 1 of 3"):
        pi.infer(broken(jnp.array([1.0, -1.0, 1.0])), smc.SMC(50, num_runs=2), seed=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "names"),
    [
        ({"num_particles": 0}, ArgumentError, "num_particles"),
        ({"num_particles": 10.0}, ArgumentTypeError, "num_particles"),
        ({"num_particles": True}, ArgumentTypeError, "num_particles"),
        ({"threshold": 1.5}, ArgumentError, "threshold"),
        ({"threshold": float("nan")}, ArgumentError, "threshold"),
        ({"num_runs": 0}, ArgumentError, "num_runs"),
        ({"resample": "sistematic"}, UnknownNameError, "systematic"),
    ],
)
def test_impossible_settings_are_refused(settings, error, names):
    with pytest.raises(error, match=names):
        smc.SMC(**settings)


def test_public_names():
    assert {"SMC", "SMC2", "TemperedSMC", "ParticleFilter", "EKF", "UKF", "Population"} <= set(smc.__all__)
    for name in smc.__all__:
        assert getattr(smc, name) is not None
    with pytest.raises(AttributeError, match="SMC3"):
        smc.SMC3  # noqa: B018
