"""Wrong inputs that once gave a silent answer, or an error from the depths: each is refused at the door, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import continual
import probinf as pi
import smc

pytestmark = [
    pytest.mark.bad_input,
    pytest.mark.relaxed_promotion("what newcomers write meets JAX's ordinary settings"),
]

READINGS = {
    "one axis": lambda level, site: level[site, 0],
    "two axes": lambda level, site: level[site, np.array([0, 1, 0])],
    "whole rows": lambda level, site: level[site][:, 1],
    "take": lambda level, site: jnp.take(level[:, 0], site),
    "a table": lambda level, site: jnp.array([1.0, 2.0, 3.0])[site] + level[0, 0],
}


@pi.model
def groups(site, y, reading):
    level = pi.sample("level", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    with pi.plate("rows", len(y)):
        pi.sample("y", dist.Normal(READINGS[reading](level, site), 1.0), obs=y)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("wrong", [3, -4])
def test_an_index_beyond_its_axis_is_refused(reading, wrong):
    y = np.zeros(3)
    for site in ([0, 1, 2], [0, -1, -3]):
        assert groups(np.array(site), y, reading).sites
    said = rf"index {wrong} of 'site' at position \(1,\) is beyond an axis of size 3; 1 of 3 are"
    with pytest.raises(pi.DataError, match=said):
        groups(np.array([0, wrong, 1]), y, reading).sites  # noqa: B018 - looking stages the program


def test_clipped_indices_are_taken_when_asked_for_by_name():
    @pi.model
    def clipped(site, y):
        level = pi.sample("level", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pi.plate("rows", len(y)):
            pi.sample("y", dist.Normal(level.at[site].get(mode="clip"), 1.0), obs=y)

    assert clipped(np.array([0, 9, 1]), np.zeros(3)).sites


@pytest.mark.parametrize("method", [smc.EKF(), smc.UKF()], ids=["EKF", "UKF"])
def test_a_negative_variance_after_an_update_is_a_fault(method):
    """The motion's covariance is indefinite; predicted variances are positive, that of x[1] given x[0] is not."""
    indefinite = jnp.array([[0.0, 2.0], [2.0, 0.0]])

    system = pi.System(
        prior=dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
        move=lambda x, dt: dist.MultivariateNormal(x, dt * indefinite, validate_args=False),
        see={"place": lambda x: dist.Normal(x[0], 0.5)},
    )
    filter = system.filter(method)
    with pytest.raises(pi.InferenceError, match=r"sensor 'place', t = 1 s: .*negative variance"):
        filter.update(filter.start(0, t0=0.0), 1.0, "place", 0.3)


LABELS = np.arange(12) % 3
INPUTS = 3.0 * np.eye(3)[LABELS]


def dataset(labels=LABELS, inputs=INPUTS, num_classes=3):
    part = continual.Examples(inputs, labels)
    return continual.Dataset("mine", part, part, num_classes)


def head():
    return continual.BayesianLinearHead(3)


WRONG = {
    "a label too large": (lambda: dataset(LABELS + 1), r"label 3 in row 2 is none of 0, ..., 2; 4 of 12"),
    "a label below zero": (lambda: dataset(LABELS - 1), r"label -1 in row 0"),
    "half a label": (lambda: dataset(LABELS + 0.5), r"label 0.5 in row 0"),
    "labels that are text": (lambda: dataset(LABELS.astype(str)), r"targets: expected numbers, found dtype <U.*unique"),
    "labels in a column": (lambda: dataset(LABELS[:, None]), r"labels of shape \(examples,\), found shape \(12, 1\)"),
    "fewer labels": (lambda: dataset(LABELS[:5]), "12 inputs and 5 targets"),
    "a list": (lambda: dataset(inputs=INPUTS.tolist()), "training data, inputs: expected an array, found list"),
    "text": (lambda: dataset(inputs=INPUTS.astype(str)), "training data, inputs: expected numbers"),
    "classes by half": (lambda: dataset(num_classes=3.5), "num_classes: expected an integer, found 3.5"),
    "a stream by half": (lambda: continual.split(dataset(), 1.5), "classes: expected an integer, found 1.5"),
    "vectors turned": (lambda: continual.rotated(dataset(), [0, 30]), r"expected images .* found shape \(12, 3\)"),
    "cut with labels too few": (
        lambda: continual.cut(
            continual.Examples(INPUTS, LABELS[:5]), dataset().test, [6], test_boundaries=[6], scenario="domain"
        ),
        "train: 12 inputs and 5 targets",
    ),
    "the wrong way round": (lambda: continual.run(continual.split(dataset()), head()), "learner: .* found TaskStream"),
    "no stream": (lambda: continual.run(head(), dataset()), r"stream: .* found Dataset"),
    "a class": (lambda: continual.run(continual.BayesianLinearHead, continual.split(dataset())), "found the class Bay"),
    "features last": (lambda: continual.Featured(head(), continual.RandomFourier(5)), "features: .* found BayesianL"),
    "too few classes": (
        lambda: continual.run(continual.BayesianLinearHead(2), continual.split(dataset())),
        "it knows 2 classes, and the stream split-mine has 3; give it num_classes=3",
    ),
    "a seed by half": (lambda: continual.run(head(), continual.split(dataset()), seed=1.5), "^seed: expected"),
    "no inputs": (
        lambda: head().update(head().start(0), 0, "label", LABELS),
        "task 0: there are no inputs; pass inputs",
    ),
    "a width alone": (lambda: continual.Training(hidden=100), r"hidden: expected a tuple of widths, such as \(256,\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_of_a_continual_benchmark_are_named(name):
    make, said = WRONG[name]
    with pytest.raises(pi.ProbinfError, match=said):
        make()


def test_whole_numbers_in_floats_are_labels():
    result = continual.run(head(), continual.split(dataset(LABELS * 1.0), 1))
    assert result.accuracy[-1].mean() == 1.0
    assert repr(result).splitlines()[:2] == [
        f"Result(3 of 3 tasks, {result.seconds.sum():.3g} s of training)",
        "  average accuracy after task '2': 1.0000",
    ]


def test_a_file_that_is_no_posterior_never_advises_to_unpickle(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(pi.DataError, match="no NumPy archive") as caught:
        pi.Posterior.load(path)
    assert "pickle" not in str(caught.value)


def test_the_line_of_a_failing_dry_run_is_named():
    def see(x):
        return dist.Normal(x @ jnp.zeros((2, 2)), 1.0)

    line = see.__code__.co_firstlineno + 1
    with pytest.raises(pi.ModelError, match=rf"sensor 'place' .*\(test_wrong_inputs.py:{line}\): TypeError"):
        pi.System(
            prior=dist.Normal(jnp.zeros(1), 1.0).to_event(1),
            move=lambda x, dt: dist.Normal(x, jax.numpy.sqrt(dt)).to_event(1),
            see={"place": see},
        )
