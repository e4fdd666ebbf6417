"""Faults that users bring, by kind and number: refused before anything is compiled, or reported with step and index.

All thirty rows are here: `FAULTS` are refused at the door, `LOOPS` arise in compiled code, `ELSEWHERE` names the tests
that need a longer story. Each says what was found, where, and what to do.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import continual
import probinf as pi
import smc
from probinf.kernels.chains import compilations
from probinf.predictive_coding import Network, Standard, binary_hgf
from probinf.transformations.resampling import Systematic

pytestmark = pytest.mark.bad_input

X = np.arange(4.0)


@pi.model
def line(x):
    slope = pi.sample("slope", dist.Normal(0.0, 2.0))
    with pi.plate("obs", len(x)):
        pi.sample("y", dist.Normal(slope * x, 1.0))


@pi.model
def walk(num=0):
    spread = pi.sample("spread", dist.HalfNormal(1.0))

    def step(x, _):
        x = pi.sample("x", dist.Normal(x, spread))
        pi.sample("y", dist.Normal(x, 1.0))
        return x, None

    jax.lax.scan(step, 0.0, length=num)


def numpyro_line(x):
    with numpyro.plate("obs", len(x)):
        numpyro.sample("y", dist.Normal(x, 1.0))


@pi.model
def sloped(x):
    slope = pi.sample("slope", dist.Normal(0.0, 2.0))
    pi.sample("y", dist.Normal(slope * x, 1.0))


@pi.model
def counts():
    rate = pi.sample("rate", dist.Gamma(1.0, 1.0))
    with pi.plate("obs", 4):
        pi.sample("y", dist.Poisson(rate))


@pi.model
def positive():
    mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.LogNormal(mean, 1.0))


@pi.model
def label():
    p = pi.sample("p", dist.Dirichlet(jnp.ones(5)))
    pi.sample("y", dist.Categorical(p))


@pi.model
def twice():
    pi.sample("a", dist.Normal(0.0, 1.0))
    pi.sample("a", dist.Normal(0.0, 1.0))


@pi.model
def negative_scale():
    mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(mean, -1.0))


@pi.model
def not_definite():
    pi.sample("m", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])))


@pi.model
def too_likely():
    pi.sample("k", dist.Categorical(jnp.array([0.5, 0.6])))


SENSOR = pi.System(
    prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
    move=lambda x, dt: dist.MultivariateNormal(x, covariance_matrix=dt * jnp.diag(jnp.array([1.0, -3.0]))),
    see={"gps": lambda x: dist.Normal(x[0], 1.0)},
)


class Walk(smc.StateSpaceModel):
    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, t, x):
        return dist.Normal(x, 1.0)

    def observation(self, t, x):
        return dist.Uniform(x - 0.5, x + 0.5)


class Broken(Walk):
    def observation(self, t, x):
        return dist.Normal(x, jnp.sqrt(1.5 - jnp.asarray(t, float)))


def volatile():
    """Two levels whose classical update breaks down at a surprise."""
    network = Network("volatile", update=Standard()).continuous_input("u", precision=1e4).continuous_state("x1")
    return network.continuous_state("x2", tonic_volatility=-2.0).value("x1", "u").volatility("x2", "x1")


def judged(score):
    """Particles of a black box with this judge."""
    box = smc.BlackBox(0, lambda states: states, score)
    potential = smc.Potential("odds", "difference")
    return smc.steer(box, 0, num_particles=5, max_steps=3, potential=potential, executor="host")


def learnt(inputs, labels=(0, 1, 0), num_classes=2, learner=None):
    """A learner after two tasks, of which the second is given."""
    learner = learner or continual.BayesianLinearHead(num_classes)
    belief, _ = learner.update(learner.start(0), 0, "label", np.array([0, 1, 0]), inputs=np.eye(3))
    return learner.update(belief, 1, "label", np.asarray(labels), inputs=np.asarray(inputs))


def mixture(weights, covariances=None):
    covariances = np.broadcast_to(np.eye(2), (2, 2, 2)) if covariances is None else covariances
    return pi.GaussianMixture(jnp.asarray(weights), jnp.zeros((2, 2)), jnp.asarray(covariances))


FAULTS = {
    "1 NaN in data": (
        lambda: line(X).given(y=[1.0, np.nan, 2.0, np.nan]),
        r"Site 'y'.*2 of 4 observed values are NaN, the first at index \(1,\)",
    ),
    "2 infinite data": (
        lambda: line(X).given(y=[1.0, 2.0, np.inf, 2.0]),
        r"Site 'y'.*1 of 4 observed values are infinite, the first at index \(2,\)",
    ),
    "3 no count": (
        lambda: counts().given(y=[1.0, 2.5, 2.0, 3.0]),
        r"Site 'y'.*2\.5 at index \(1,\) lies outside the support of Poisson",
    ),
    "3 negative": (lambda: positive().given(y=-1.0), r"Site 'y'.*-1\.0.*support of LogNormal \(a positive number\)"),
    "3 label": (lambda: label().given(y=7), r"Site 'y'.*value 7.*Categorical \(integers from 0 to 4\)"),
    "4 no rows": (lambda: line(np.zeros(0)).given(y=np.zeros(0)), r"Site 'y'.*model 'line': plate 'obs' has size 0"),
    "4 no rows in a loop": (lambda: walk().given(y=np.zeros(0)), r"Site 'y'.*model 'walk'.*is empty.*allow_empty"),
    "4 no rows under NumPyro": (
        lambda: pi.infer(numpyro_line, None, np.zeros(0)),
        r"plate 'obs'.*size must be at least 1",
    ),
    "5 shape": (
        lambda: line(X).given(y=np.zeros(3)),
        r"Site 'y'.*model 'line'.*shape \(3,\), expected \(4,\), that is 4 \(obs\)",
    ),
    "6 two sites of one name": (
        lambda: twice().sites,
        r"two sites are named 'a'.*test_bad_inputs\.py:\d+ and .*test_bad_inputs\.py:\d+",
    ),
    "7 strings": (lambda: line(X).given(y=["a", "b", "c", "d"]), r"Site 'y'.*expected numbers, found dtype <U1"),
    "7 objects": (lambda: line(X).given(y=np.array([object()] * 4)), r"Site 'y'.*found dtype object"),
    "7 ragged": (lambda: line(X).given(y=[[1.0], [2.0, 3.0], [1.0], [1.0]]), r"Site 'y'.*found a ragged list"),
    "7 a list in arithmetic": (
        lambda: sloped([0.0, 1.0]).sites,
        r"'sloped'.*'x' is a Python list.*np\.asarray\(x\)",
    ),
    "8 scale": (lambda: negative_scale().given(y=1.0), r"Site 'y'.*Normal got an impossible scale = -1"),
    "8 covariance": (lambda: not_definite().simulate(seed=0), r"Site 'm'.*smallest eigenvalue -1"),
    "8 weights": (lambda: too_likely().sites, r"Site 'k'.*they sum to 1\.1"),
    "9 start": (
        lambda: pi.infer(line(X).given(y=X), pi.NUTS(init={"slope": np.nan})),
        r"'slope'.*not finite",
    ),
    "11 draws": (lambda: pi.NUTS(num_draws=0), r"num_draws: expected an integer >= 1, found 0"),
    "11 half a draw": (lambda: pi.NUTS(num_draws=2.5), r"num_draws: expected an integer, found 2\.5"),
    "11 thinning": (lambda: pi.ChEES(num_draws=3, thinning=4), r"thinning: 4 keeps none of num_draws=3"),
    "12 keys": (
        lambda: pi.infer(line(X).given(y=X), seed=jax.random.split(jax.random.key(0), 3)),
        r"seed: expected one key of shape \(\), found a batch of shape \(3,\)",
    ),
    "17 NaN weight": (
        lambda: Systematic(np.array([0.0, -1.0, np.nan]), 3),
        r"log_weights: 1 of 3 are NaN or inf, the first at index \(2,\)",
    ),
    "18 no particles": (lambda: smc.SMC(num_particles=0), r"num_particles: expected at least 1, found 0"),
    "18 a float": (lambda: smc.SMC(num_particles=10.0), r"num_particles: expected an integer, found 10\.0"),
    "18 threshold": (lambda: smc.SMC(threshold=1.5), r"threshold: expected a fraction in \[0, 1\], found 1\.5"),
    "19 ladder": (
        lambda: pi.tempered(line(X).given(y=X), [0.5, 0.2, 1.0], pi.random_walk(0.1)),
        r"exponents: expected numbers that rise from above 0 and end at 1, found \[0\.5, 0\.2, 1\.0\]",
    ),
    "19 end": (
        lambda: pi.tempered(line(X).given(y=X), [0.5, 0.9], pi.random_walk(0.1)),
        r"exponents: .*end at 1, found \[0\.5, 0\.9\]",
    ),
    "20 too few scores": (lambda: judged(lambda states: [0.5]), r"score: expected 5 answers"),
    "20 NaN score": (
        lambda: judged(lambda states: [0.5, 0.5, np.nan, 0.5, 0.5]),
        r"score: .*NaN for particle 2 at step 1",
    ),
    "20 None": (
        lambda: judged(lambda states: [0.5, None, 0.5, 0.5, 0.5]),
        r"score: expected a number for particle 1 at step 1, found None",
    ),
    "20 outside": (
        lambda: judged(lambda states: [0.5, 0.5, 0.5, 1.2, 0.5]),
        r"score: .*1\.2.*particle 3.*step 1",
    ),
    "22 negative weight": (lambda: mixture([1.5, -0.5]), r"weights: component 1 has the negative weight -0\.5"),
    "22 sum": (lambda: mixture([0.5, 0.6]), r"weights: they sum to 1\.1"),
    "22 covariance": (
        lambda: mixture([0.5, 0.5], [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]]),
        r"covariances: component 1 is not positive definite: smallest eigenvalue -1",
    ),
    "25 no label": (lambda: binary_hgf(2).filter([1.0, 2.0]), r"'u'.*value 2\.0 at step 1 is impossible"),
    "25 time step": (lambda: volatile().filter([1.0, 2.0], time_steps=[1.0, -1.0]), r"time_steps: expected finite"),
    "25 missing node": (lambda: volatile().value("x3", "u"), r"'x3' is not a node.*Did you mean"),
    "25 cycle": (lambda: volatile().value("x1", "x2"), r"'x1'.*'x2'.*closes a cycle"),
    "27 missing": (
        lambda: SENSOR.filter(smc.EKF()).run([(0.0, "gps", 0.1), (1.0, "gps", np.nan)], t0=0.0),
        r"sensor 'gps'.*1 of 2 values are NaN, the first at row 1 of the log.*missing='nan'",
    ),
    "28 label": (
        lambda: learnt(np.eye(3), [0, 7, 1]),
        r"task 1: label 7 is unknown, this learner has the classes 0 to 1",
    ),
    "28 no data": (lambda: learnt(np.zeros((0, 3)), []), r"task 1: there is no example"),
    "28 width": (lambda: learnt(np.eye(4)[:3]), r"task 1: inputs of shape \(3, 4\).*had 3 features"),
    "30 no permission": (
        lambda: pi.infer(line(X).given(y=X), pi.NUTS(), checkpoint=Path(__file__) / "inside"),
        r"checkpoint: cannot write to .*inside",
    ),
}

#: Faults of compiled code: the call, the error, and where on `.partial` or in the object what came before is kept.
LOOPS = {
    "probinf, 27 a covariance that is not positive definite": (
        lambda: SENSOR.filter(smc.EKF()).run([(0.0, "gps", 0.1), (2.0, "gps", 0.3)], t0=0.0),
        r"event 1 \(sensor 'gps', t = 2 s\).*scale_tril",
        lambda partial: len(partial) == 1,
    ),
    "smc, 15 all particles die": (
        lambda: smc.particle_filter(Walk(), jnp.array([0.1, 0.2, 60.0, 0.1]), num_particles=100),
        r"weight zero at t = 2: no particle explains ys\[2\]",
        lambda partial: np.isfinite(np.asarray(partial.mean)[:2]).all(),
    ),
    "smc, 16 NaN weights": (
        lambda: smc.particle_filter(Broken(), jnp.array([0.1, 0.2, 0.1]), num_particles=100),
        r"weights of Broken are nan at t = 2",
        lambda partial: np.isfinite(np.asarray(partial.mean)[:2]).all(),
    ),
    "predictive coding, 26 a precision turns negative": (
        lambda: volatile().filter([0.0, 0.0, 50.0, 0.0], observed={"u": [False, False, True, True]}, on_fault="raise"),
        r"'volatile' broke down at step 2, node 'x2': posterior precision -",
        lambda partial: len(partial) == 2 and np.isfinite(partial["x2"].precision).all(),
    ),
    "continual, 24 the loss is NaN": (
        lambda: learnt(1e308 * np.ones((3, 3)), learner=continual.FineTuning(2)),
        r"loss is nan at training step 0 of 1",
        lambda partial: True,  # the belief before the task is another object
    ),
    "continual, sums overflow": (
        lambda: learnt([[1.0, 1.0, 1.0], [1.0, 1e200, 1.0], [1.0, 1.0, 1.0]]),
        r"task 1: sums over the inputs overflow.*1e\+200, is in row 1",
        lambda partial: True,
    ),
}

ELSEWHERE = {
    "9": "test_nuts.py::test_row_9_a_start_that_is_not_legal_is_named_before_sampling",
    "10": "test_nuts.py::test_row_10_no_legal_start_lists_the_sites_that_are_not_finite",
    "13": "test_nuts.py::test_row_13_a_real_interrupt_is_heard_within_seconds",
    "14": "test_posterior.py::test_what_cannot_be_computed_is_never_a_pass",
    "15": "test_smc_method.py::test_a_population_that_dies_names_the_site_and_the_step",
    "16": "test_smc_method.py::test_nan_weights_name_the_site_and_the_step",
    "19": "test_tempered.py::test_a_temperature_that_stalls_ends_the_run",
    "21": "test_steering_host.py::test_a_particle_that_keeps_failing_is_lost_alone_and_reported",
    "27": "test_streaming_masking.py::test_missing_coordinates_are_integrated_out",
    "29": "test_checkpoints.py::test_a_flipped_bit_is_detected_wherever_it_is",
    "23": "test_transformer_amortized.py::test_what_the_network_has_no_room_for_is_refused",
    "30": "test_checkpoints.py::test_a_full_disk_leaves_the_old_checkpoint_and_the_run_goes_on",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_before_a_sampler_is_compiled(fault):
    call, message = FAULTS[fault]
    before = compilations()
    with pytest.raises(pi.ProbinfError, match=f"(?s){message}"):
        call()
    assert compilations() == before


def test_a_fault_leaves_the_program_usable():
    program = line(X)
    with pytest.raises(pi.DataError):
        program.given(y=np.full(4, np.nan))
    posterior = pi.infer(program.given(y=X), pi.NUTS(num_warmup=20, num_draws=10), progress=False)
    assert np.isfinite(posterior["slope"]).all()


@pytest.mark.relaxed_promotion("optax's Adam")
@pytest.mark.parametrize("fault", LOOPS)
def test_a_fault_in_compiled_code_is_reported_with_its_step_and_what_came_before(fault):
    call, message, is_kept = LOOPS[fault]
    with pytest.raises(pi.InferenceError, match=f"(?s){message}") as caught:
        call()
    assert is_kept(caught.value.partial)


def test_all_thirty_rows_are_covered():
    numbers = {fault.split()[0] for fault in FAULTS} | {n for fault in LOOPS for n in re.findall(r", (\d+) ", fault)}
    assert numbers | set(ELSEWHERE) == {str(n) for n in range(1, 31)}
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), place


@pytest.mark.parametrize("method", [pi.NUTS(num_warmup=300, num_draws=500), smc.TemperedSMC(2000)], ids=["nuts", "smc"])
def test_no_rows_give_the_prior_when_asked_and_say_so(method):
    program = line(np.zeros(0)).given(y=np.zeros(0), allow_empty=True)
    posterior = pi.infer(program, method, seed=0, progress=False)
    assert "There are no data ('y': no rows): this is the prior." in posterior.warnings
    assert not posterior.summary().is_trustworthy
    # Normal(0, 2): 5 standard errors of 400 effective draws, a false alarm in a million.
    assert abs(posterior.mean("slope")) < 5 * 2 / np.sqrt(400)
    assert abs(posterior.sd("slope") - 2) < 5 * 2 / np.sqrt(800)
    again = pi.infer(line(np.zeros(0)), smc.TemperedSMC(8), seed=0, allow_empty=True, progress=False)
    assert again["slope"].shape == (1, 8)


def test_a_loop_without_steps_gives_the_prior_too():
    posterior = pi.infer(walk().given(y=np.zeros(0), allow_empty=True), smc.SMC(500), progress=False)
    assert posterior.log_evidence == 0.0
