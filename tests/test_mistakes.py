"""Twenty mistakes, and some more: each message names the site and the remedy in at most twelve shown lines."""

from __future__ import annotations

import textwrap
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import probinf as pi
from probinf.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    InferenceError,
    ModelError,
    ProbinfError,
    ProbinfWarning,
    UnknownNameError,
)
from probinf.language.checks import _said, check_precision
from probinf.language.door import check_reachable, warn_none_arguments
from probinf.language.primitives import Site, bind_sample
from tests.streaming_models import cruise

pytestmark = pytest.mark.bad_input

X = np.arange(20.0)
Y = np.sin(X)
HERE = "test_mistakes.py:"


@pi.model
def line(x, y, sd=1.0):
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    with pi.plate("row", 20):
        pi.sample("y", dist.Normal(slope * x, sd), obs=y)


@pi.model
def free(x):
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    with pi.plate("row", 20):
        pi.sample("y", dist.Normal(slope * x, 1.0))


@pi.model
def walk(y):
    def step(level, y_now):
        level = pi.sample("level", dist.Normal(level, 1.0))
        pi.sample("y", dist.LogNormal(level, 1.0), obs=y_now)
        return level, None

    jax.lax.scan(step, 0.0, y)


@pi.model
def counts(y):
    rate = pi.sample("rate", dist.Gamma(2.0, 1.0))
    pi.sample("n", dist.Poisson(rate).expand([3]), obs=y)


@pi.model
def labels(y):
    pi.sample("class", dist.Categorical(jnp.ones(5) / 5.0).expand([3]), obs=y)


def with_entry(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def staged(function, *args):
    """The table of sites of a model: where most mistakes are found."""
    return pi.model(function)(*args).sites


# -- models with a mistake ---------------------------------------------------------------------------------------------


def twice():
    for _ in range(2):
        pi.sample("slope", dist.Normal(0.0, 1.0))


def two_lines():
    pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.sample("slope", dist.Normal(0.0, 2.0))


def clash():
    group = pi.sample("group", dist.Normal(0.0, 1.0).expand([3]))
    with pi.plate("row", 20):
        noise = pi.sample("noise", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(group, jnp.exp(noise)))


def clash_in_arithmetic():
    group = pi.sample("group", dist.Normal(0.0, 1.0).expand([3]))
    return group + X


def wrong_plate():
    with pi.plate("row", 10):
        pi.sample("y", dist.Normal(jnp.zeros(20), 1.0))


def wrong_numpyro_plate():
    with numpyro.plate("row", 10):
        numpyro.sample("y", dist.Normal(jnp.zeros(20), 1.0))


def empty_numpyro_plate():
    with numpyro.plate("row", 0):
        numpyro.sample("y", dist.Normal(0.0, 1.0))


def python_if():
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.sample("other", dist.Normal(0.0, 1.0))
    steep = 2.0 * slope
    if steep > 1.0:
        return slope
    return 0.0


def python_while():
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    while slope < 3.0:
        slope = slope + 1.0


def python_if_in_a_loop():
    def step(level, _):
        level = pi.sample("level", dist.Normal(level, 1.0))
        return (level if level > 0.0 else -level), None

    jax.lax.scan(step, 0.0, length=3)


def python_if_in_numpyro():
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    if slope > 0.0:
        numpyro.sample("y", dist.Normal(slope, 1.0), obs=1.0)


def numpy_function():
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(np.exp(slope), 1.0))


def python_float():
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    return float(slope)


def numpy_index():
    kind = pi.sample("kind", dist.Categorical(jnp.ones(20) / 20.0))
    return X[kind]


def random_length():
    number = pi.sample("number", dist.Poisson(3.0))
    return jnp.zeros(number)


def negative_scale():
    pi.sample("y", dist.Normal(0.0, -1.0))


def indefinite():
    pi.sample("y", dist.MultivariateNormal(jnp.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])))


def indefinite_argument(cov):
    pi.sample("y", dist.MultivariateNormal(jnp.zeros(2), cov))


def shares(probs):
    pi.sample("kind", dist.Categorical(probs))


def uniform(low, high):
    pi.sample("u", dist.Uniform(low, high))


def nan_factor(x):
    pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.factor("bonus", jnp.log(x))


def plain_vmap():
    return jax.vmap(lambda i: pi.sample("slope", dist.Normal(0.0, 1.0)) + i)(jnp.arange(3.0))


def numpyro_plain_vmap():
    return jax.vmap(lambda i: numpyro.sample("slope", dist.Normal(0.0, 1.0)) + i)(jnp.arange(3.0))


def derivative():
    return jax.grad(lambda x: pi.sample("slope", dist.Normal(x, 1.0)))(1.0)


def inside_reduce():
    def add(a, b):
        return a + b + pi.sample("slope", dist.Normal(0.0, 1.0))

    return jax.lax.reduce(jnp.ones(3), jnp.zeros(()), add, (0,))


def changing_carry():
    def step(level, _):
        return pi.sample("level", dist.Normal(jnp.asarray(level, float), 1.0)), None

    jax.lax.scan(step, jnp.zeros((), int), length=3)


def no_distribution():
    pi.sample("slope", 3.0)


def no_name():
    pi.sample(dist.Normal(0.0, 1.0), "slope")


def improper():
    pi.sample("slope", dist.ImproperUniform(dist.constraints.real, (), ()))


def words_in_arithmetic(y):
    pi.sample("slope", dist.Normal(0.0, 1.0))
    return jnp.exp(y)


def half(y):
    # the mistake is that `obs` has one axis too many
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(slope * X, 1.0), obs=y)


def kind_of_latent():
    kind = pi.sample("kind", dist.Bernoulli(0.3))
    pi.sample("y", dist.Normal(jnp.where(kind == 1, 2.0, 0.0), 1.0), obs=1.0)


def in_one_branch():
    choice = pi.sample("choice", dist.Normal(0.0, 1.0))
    jax.lax.cond(choice > 0.0, lambda: pi.sample("extra", dist.Normal(0.0, 1.0)), lambda: 0.0)
    pi.sample("y", dist.Normal(choice, 1.0), obs=1.0)


def impossible_everywhere():
    slope = pi.sample("slope", dist.Normal(0.0, 1.0))
    pi.factor("never", jnp.where(slope > 1e9, 0.0, -jnp.inf))


def nuts(function):
    return pi.infer(pi.model(function)(), pi.NUTS(num_chains=1, num_warmup=10, num_draws=10), progress=False)


def outside():
    pi.sample("slope", dist.Normal(0.0, 1.0))


def no_handler():
    bind_sample(Site("slope", where="model.py:3"), dist.Normal(0.0, 1.0))


def stream(method, *args, **kwargs):
    from smc.extended import EKF

    filter = pi.Filter(cruise(), EKF(), lag=1.0)
    belief = filter.start(0, 5.0)
    return getattr(filter, method)(belief, *args, **kwargs)


MISTAKES = {
    "1 a name that is not in the model": (
        lambda: free(X).given(Y=Y),
        UnknownNameError,
        ["'Y' is not a site of model 'free'", "Did you mean 'y'?", "'slope', 'y'"],
    ),
    "1 a name in an assignment": (
        lambda: free(X).log_density({"slop": 1.0, "y": Y}),
        UnknownNameError,
        ["'slop'", "Did you mean 'slope'?"],
    ),
    "2 data that would broadcast to an outer product": (
        lambda: staged(half, Y[:, None]),
        DataError,
        ["Site 'y'", HERE, "(20, 1)", "(20,)", "(20, 20)", "outer product", "value.reshape((20,))"],
    ),
    "2 the same through given": (
        lambda: free(X).given(y=Y[:, None]),
        DataError,
        ["Site 'y'", "(20, 1)", "(20,)", "20 (row)", "outer product", "value.reshape((20,))"],
    ),
    "2 data that could be repeated": (
        lambda: staged(half, Y[:1]),
        DataError,
        ["Site 'y'", "(1,)", "(20,)", "broadcast=True"],
    ),
    "3 a fraction under a Poisson": (
        lambda: counts(np.array([1.0, 2.5, 3.0])).sites,
        DataError,
        ["Site 'n'", HERE, "2.5 at index (1,)", "outside the support of Poisson", "1 of 3"],
    ),
    "3 a negative value under a log-normal, in a scan": (
        lambda: walk(np.array([1.0, 2.0, -3.0])).sites,
        DataError,
        ["Site 'y'", "-3.0 at index (2,)", "LogNormal", "a positive number"],
    ),
    "3 a label that does not exist": (
        lambda: labels(np.array([0, 7, 1])).sites,
        DataError,
        ["Site 'class'", "7 at index (1,)", "Categorical", "integers from 0 to 4"],
    ),
    "3 the same through given": (
        lambda: counts(None).given(n=np.array([1.0, 2.5, 3.0])),
        DataError,
        ["Site 'n'", "2.5 at index (1,)", "Poisson"],
    ),
    "4 NaN in data": (
        lambda: line(X, with_entry(Y, [3, 5], np.nan)).sites,
        DataError,
        ["Site 'y'", HERE, "2 of 20 observed values are NaN", "index (3,)", "Leave them out", "latent"],
    ),
    "4 NaN in data for a scan": (
        lambda: walk(np.array([1.0, np.nan, 2.0])).sites,
        DataError,
        ["Site 'y'", "1 of 3 observed values are NaN", "index (1,)"],
    ),
    "4 infinite data": (
        lambda: free(X).given(y=with_entry(Y, 4, np.inf)),
        DataError,
        ["Site 'y'", "1 of 20 observed values are infinite", "index (4,)"],
    ),
    "4 NaN after a transformation of the data": (
        lambda: staged(lambda y: pi.sample("z", dist.Normal(jnp.zeros(20), 1.0), obs=jnp.log(y)), Y),
        DataError,
        ["Site 'z'", "are NaN"],
    ),
    "4 a factor that is NaN": (
        lambda: staged(nan_factor, np.asarray(-1.0)),
        DataError,
        ["Site 'bonus'", "NaN", "-inf for a zero"],
    ),
    "5 None for given": (lambda: free(X).given(y=None), DataError, ["Site 'y'", "None", "Leave the name out"]),
    "5 None for observe": (
        lambda: staged(lambda: pi.observe("y", dist.Normal(0.0, 1.0), None)),
        DataError,
        ["Site 'y'", "None", "pi.sample"],
    ),
    "6 a name in a Python loop": (
        lambda: staged(twice),
        ModelError,
        ["'slope'", HERE, "f'slope_{i}'", "pi.scope", "lax.scan"],
    ),
    "6 a name on two lines": (lambda: staged(two_lines), ModelError, ["'slope'", "Model 'two_lines'", "pi.scope"]),
    "6 a site in one branch, under NUTS": (lambda: nuts(in_one_branch), ModelError, ["'extra'", "SMC()"]),
    "7 shapes of a distribution's parameters": (
        lambda: staged(clash),
        ModelError,
        ["Site 'y'", HERE, "'group' (3,)", "'noise' (20,) [row]", "[:, None]", "plates"],
    ),
    "7 shapes in arithmetic": (
        lambda: staged(clash_in_arithmetic),
        ModelError,
        [HERE, "return group + X", "(3,)", "(20,)", "'group' (3,)", "[:, None]"],
    ),
    "7 a plate of another size": (
        lambda: staged(wrong_plate),
        ModelError,
        ["Site 'y'", "(20,)", "plate 'row' of size 10", ".to_event(1)"],
    ),
    "7 a NumPyro plate of another size": (
        lambda: pi.from_numpyro(wrong_numpyro_plate).sites,
        ModelError,
        ["Site 'y'", HERE, "(20,)", "plate 'row' of size 10", ".to_event(1)"],
    ),
    "7 data of another length": (
        lambda: line(X, Y[:19]).sites,
        DataError,
        ["Site 'y'", "(19,)", "(20,)", "axes 'row'", "Pass data of that shape"],
    ),
    "7 data for given of another length": (
        lambda: free(X).given(y=Y[:19]),
        DataError,
        ["Site 'y'", "(19,)", "(20,)", "20 (row)", "Pass data of that shape"],
    ),
    "8 no seed": (lambda: free(X).simulate(None), ArgumentTypeError, ["seed", "jax.random.key(0)"]),
    "8 a batch of keys": (
        lambda: free(X).simulate(jax.random.split(jax.random.key(0), 4)),
        ArgumentError,
        ["seed", "(4,)", "Pass one key"],
    ),
    "9 a Python if": (
        lambda: staged(python_if),
        ModelError,
        [f"'python_if', {HERE}", "`if steep > 1.0:`", "depends on site 'slope',", "jnp.where", "cond", "mixture"],
    ),
    "9 a Python while": (
        lambda: staged(python_while),
        ModelError,
        ["`while slope < 3.0:`", "site 'slope'", "while_loop"],
    ),
    "9 a conditional expression in a scan": (
        lambda: staged(python_if_in_a_loop),
        ModelError,
        ["site 'level'", "jnp.where"],
    ),
    "9 a Python if in a NumPyro model": (
        lambda: pi.from_numpyro(python_if_in_numpyro).sites,
        ModelError,
        ["`if slope > 0.0:`", "site 'slope'", "jnp.where"],
    ),
    "10 a NumPy function": (
        lambda: staged(numpy_function),
        ModelError,
        [HERE, "np.exp", "site 'slope'", "Use jnp.exp"],
    ),
    "10 float()": (lambda: staged(python_float), ModelError, ["float(...)", "site 'slope'", "without float"]),
    "10 an index into a NumPy array": (lambda: staged(numpy_index), ModelError, ["site 'kind'", "jax.numpy"]),
    "10 a length that is drawn": (
        lambda: staged(random_length),
        ModelError,
        ["`return jnp.zeros(number)`", "site 'number'", "Python integers"],
    ),
    "11 and row 8: a negative scale": (
        lambda: staged(negative_scale),
        ModelError,
        ["Site 'y'", HERE, "Normal", "scale = -1", "a positive number"],
    ),
    "row 8: a negative scale as an argument": (
        lambda: line(X, Y, -2.0).sites,
        ModelError,
        ["Site 'y'", "Normal", "scale", "-2", "a positive number"],
    ),
    "row 8: weights that do not sum to one": (
        lambda: staged(shares, np.array([0.5, 0.2])),
        ModelError,
        ["Site 'kind'", "Categorical", "probs", "sum to 0.7"],
    ),
    "row 8: an empty interval": (
        lambda: staged(uniform, 1.0, 1.0),
        ModelError,
        ["Site 'u'", "Uniform", "low < high", "low = 1", "high = 1"],
    ),
    "17 and row 8: an indefinite covariance": (
        lambda: staged(indefinite),
        ModelError,
        ["Site 'y'", "MultivariateNormal", "covariance", "smallest eigenvalue -1", "positive definite"],
    ),
    "17 and row 8: an indefinite covariance as an argument": (
        lambda: staged(indefinite_argument, np.array([[1.0, 2.0], [2.0, 1.0]])),
        ModelError,
        ["Site 'y'", "MultivariateNormal", "smallest eigenvalue -1", "identity"],
    ),
    "17 and row 8: a covariance that is not symmetric": (
        lambda: staged(indefinite_argument, np.array([[2.0, 1.0], [0.0, 2.0]])),
        ModelError,
        ["Site 'y'", "not symmetric", "transpose"],
    ),
    "17 a mixture's covariance": (
        lambda: pi.GaussianMixture(np.ones(1), np.zeros((1, 2)), np.array([[[1.0, 2.0], [2.0, 1.0]]])),
        ArgumentError,
        ["covariances", "component 0", "smallest eigenvalue -1"],
    ),
    "12 no start": (
        lambda: nuts(impossible_everywhere),
        InferenceError,
        ["'impossible_everywhere'", "never", "slope", "not finite", "init="],
    ),
    "13 a discrete site under NUTS": (
        lambda: nuts(kind_of_latent),
        ModelError,
        ["'kind'", "SMC()", "enumerate"],
    ),
    "14 an unmapped draw under jax.vmap": (
        lambda: staged(plain_vmap),
        ModelError,
        ["Site 'slope'", HERE, "share one draw", "pi.plate", "pi.vmap"],
    ),
    "14 the same in a NumPyro model": (
        lambda: pi.from_numpyro(numpyro_plain_vmap).sites,
        ModelError,
        ["Site 'slope'", "share one draw", "plate"],
    ),
    "15 a carry that changes its type": (
        lambda: staged(changing_carry),
        ModelError,
        [HERE, "int", "float64", "0.0, not 0"],
    ),
    "16 an unknown sensor": (
        lambda: stream("update", 6.0, "gbs", np.zeros(2)),
        UnknownNameError,
        ["'gbs'", "Did you mean 'gps'?"],
    ),
    "16 a value of another size": (
        lambda: stream("update", 6.0, "gps", np.zeros(3)),
        DataError,
        ["'gps'", "(2,)", "(3,)"],
    ),
    "16 time that runs backwards": (
        lambda: stream("update", 2.0, "gps", np.zeros(2)),
        ArgumentError,
        ["2 s", "5 s"],
    ),
    "a statement outside of a model": (
        outside,
        ModelError,
        ["pi.sample('slope')", "outside of a model", "@pi.model", "simulate(seed=0)"],
    ),
    "a forgotten handler": (no_handler, ModelError, ["'slope' (model.py:3)", "pi.infer", "simulate(seed=0)"]),
    "a draw inside a derivative": (
        lambda: staged(derivative),
        ModelError,
        ["'slope'", HERE, "jax.grad", "pass the value"],
    ),
    "an unsupported primitive": (
        lambda: staged(inside_reduce),
        ModelError,
        ["'slope'", HERE, "'reduce'", "scan", "pi.plate"],
    ),
    "a number in place of a distribution": (
        lambda: staged(no_distribution),
        ArgumentTypeError,
        ["Site 'slope'", "float", "pi.deterministic('slope', value)"],
    ),
    "arguments in the wrong order": (
        lambda: staged(no_name),
        ArgumentTypeError,
        [HERE, "site's name", "string", "found Normal"],
    ),
    "a family without draws": (
        lambda: pi.model(improper)().simulate(0),
        ModelError,
        ["Site 'slope'", "ImproperUniform", "proper prior"],
    ),
    "row 4: no rows": (
        lambda: staged(half, Y[:0]),
        DataError,
        ["Site 'y'", "empty", "(0,)", "prior"],
    ),
    "row 4: no rows for given": (lambda: free(X).given(y=[]), DataError, ["Site 'y'", "empty", "(0,)", "prior"]),
    "row 4: an empty NumPyro plate": (
        lambda: pi.from_numpyro(empty_numpyro_plate).sites,
        ArgumentError,
        ["plate 'row'", HERE, "at least 1"],
    ),
    "row 7: strings": (
        lambda: line(X, np.array(list("abcdefghijklmnopqrst"))).sites,
        ArgumentTypeError,
        ["Site 'y'", "<U1", "Encode strings"],
    ),
    "row 7: objects": (
        lambda: free(X).given(y=np.array([None] * 20)),
        ArgumentTypeError,
        ["Site 'y'", "object", "Encode"],
    ),
    "row 7: a ragged list": (
        lambda: staged(half, [[1.0, 2.0], [3.0]]),
        ArgumentTypeError,
        ["Site 'y'", "ragged list", "Pad it"],
    ),
    "row 7: strings in arithmetic": (
        lambda: staged(words_in_arithmetic, np.array(["a", "b"])),
        ArgumentTypeError,
        ["y has dtype <U1", HERE, "Encode strings"],
    ),
}


def shown(error):
    """What Python prints below the traceback, wrapped as a terminal of 100 columns does."""
    lines = "".join(traceback.format_exception_only(type(error), error)).splitlines()
    return [part for line in lines for part in (textwrap.wrap(line, 100) or [""])]


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_named_with_its_place_and_remedy(mistake):
    function, kind, fragments = MISTAKES[mistake]
    with pytest.raises(ProbinfError) as caught:
        function()
    error = caught.value
    assert type(error) is kind
    for fragment in fragments:
        assert fragment in str(error)
    assert len(shown(error)) <= 12
    assert error.__suppress_context__ or error.__context__ is None, "an exception of JAX would be shown above"
    assert error.__cause__ is None
    assert not getattr(error, "__notes__", [])


@pytest.mark.parametrize(
    "mistake", ["6 a name on two lines", "7 shapes in arithmetic", "9 a Python if", "10 a NumPy function"]
)
def test_the_traceback_of_a_mistake_in_a_model_is_short(mistake):
    with pytest.raises(ProbinfError) as caught:
        MISTAKES[mistake][0]()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert not [f for f in frames if "/jax/" in f.filename]
    assert len([f for f in frames if "/probinf/" in f.filename]) <= 3  # the rest are the test and its type hook


def test_a_mistake_leaves_the_program_as_it_was():
    program = free(X)
    with pytest.raises(DataError):
        program.given(y=Y[:19])
    assert program.values == {}
    assert program.given(y=Y).simulate(0)["y"].shape == (20,)


def test_the_users_own_exceptions_pass():
    def picky(n):
        raise ValueError("n must have the shape of a pear")

    with pytest.raises(ValueError, match="pear") as caught:
        staged(picky, 3)
    assert not isinstance(caught.value, ProbinfError)


def test_a_site_in_one_branch_is_named_with_its_branch():
    assert pi.model(in_one_branch)().unconstrained().conditional_labels[0].startswith(f"'extra' ({HERE}")
    assert pi.model(in_one_branch)().unconstrained().conditional_labels[0].endswith("in branch 1")


def test_bad_data_in_a_branch_that_may_not_run_is_no_error():
    def model(flag):
        jax.lax.cond(
            flag > 0.0,
            lambda: pi.factor("bonus", jnp.log(-1.0 * jnp.ones(()))),
            lambda: None,
        )
        pi.sample("slope", dist.Normal(0.0, 1.0))

    assert len(staged(model, -1.0)) == 2


# -- 5: an argument that is None ---------------------------------------------------------------------------------------


def numpyro_line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", 20):
        numpyro.sample(
            "y",
            dist.Normal(slope * x, 1.0),
            obs=y,
        )


@pytest.mark.parametrize(
    "program", [lambda: line(X, None), lambda: pi.from_numpyro(numpyro_line, X)], ids=["own", "numpyro"]
)
def test_data_left_out_are_reported_with_the_sites_that_became_latent(program):
    with pytest.warns(
        ProbinfWarning, match=r"argument 'y' is None, so site 'y' \(test_mistakes.*is latent.*given"
    ) as caught:
        warn_none_arguments(program())
    assert len(caught) == 1
    assert "slope" not in str(caught[0].message)
    assert len(textwrap.wrap(str(caught[0].message), 100)) <= 12


def test_nothing_is_said_when_nothing_was_left_out():
    @pi.model
    def model(x, offset=None):
        pi.sample("y", dist.Normal(x, 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_none_arguments(line(X, Y))
        warn_none_arguments(free(X))
        warn_none_arguments(model(X))  # an option of the model, not data
        warn_none_arguments(pi.from_numpyro(numpyro_line, X, Y))
        warn_none_arguments(pi.from_numpyro(handlers.condition(numpyro_line, {"y": Y}), X))


# -- 11: a parameter that some draw makes impossible -------------------------------------------------------------------


def reported(function, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_reachable(pi.model(function)(*args))
    return [str(w.message) for w in caught]


REACHABLE = {
    "a real scale": (
        lambda a, b: dist.Normal(0.0, a),
        "scale of Normal",
        ["'a' (Normal: a real number)", "below", "jnp.exp"],
    ),
    "shifted": (lambda a, b: dist.Normal(0.0, 1.0 + 2.0 * a), "scale of Normal", ["'a'", "below"]),
    "a positive probability": (lambda a, b: dist.Bernoulli(b), "probs of Bernoulli", ["'b' (HalfNormal", "above"]),
    "a difference": (lambda a, b: dist.Gamma(b - 2.0, 1.0), "concentration of Gamma", ["'b'", "below"]),
    "a product": (lambda a, b: dist.HalfNormal(a * b), "scale of HalfNormal", ["'a'", "'b'", "below"]),
    "a logarithm": (lambda a, b: dist.Normal(0.0, jnp.log(b)).expand([2]).to_event(1), "scale of Normal", ["'b'"]),
    "a rate": (lambda a, b: dist.Poisson(a), "rate of Poisson", ["'a'", "below"]),
}


@pytest.mark.parametrize("name", list(REACHABLE))
def test_a_parameter_that_a_draw_can_make_impossible_is_reported_with_the_parent(name):
    distribution, parameter, fragments = REACHABLE[name]

    def model():
        a = pi.sample("a", dist.Normal(0.0, 1.0))
        b = pi.sample("b", dist.HalfNormal(1.0))
        pi.sample("y", distribution(a, b))

    messages = reported(model)
    assert len(messages) == 1
    for fragment in ["Site 'y'", HERE, parameter, *fragments]:
        assert fragment in messages[0]
    assert len(textwrap.wrap(messages[0], 100)) <= 12


LEGAL = {
    "exp": lambda a, b: dist.Normal(a, jnp.exp(a)),
    "softplus": lambda a, b: dist.Normal(a, jax.nn.softplus(a)),
    "sigmoid": lambda a, b: dist.Bernoulli(jax.nn.sigmoid(a)),
    "square": lambda a, b: dist.Normal(0.0, a**2 + 0.1),
    "abs": lambda a, b: dist.Normal(0.0, jnp.abs(a)),
    "maximum": lambda a, b: dist.Normal(0.0, jnp.maximum(a, 0.1)),
    "where": lambda a, b: dist.Normal(0.0, jnp.where(a > 0.0, a, 1.0)),
    "quotient": lambda a, b: dist.Normal(0.0, 1.0 / jnp.sqrt(b)),
    "positive product": lambda a, b: dist.Normal(0.0, 2.0 * b * jnp.exp(a)),
    "the same site twice": lambda a, b: dist.Normal(0.0, a - a + 1.0),
    "an entry of a stack": lambda a, b: dist.Normal(0.0, jnp.stack([a, b])[1]),
    "complement": lambda a, b: dist.Bernoulli(1.0 - jax.nn.sigmoid(a)),
}


@pytest.mark.parametrize("name", list(LEGAL))
def test_a_parameter_that_stays_in_its_domain_is_not_reported(name):
    def model():
        a = pi.sample("a", dist.Normal(0.0, 1.0))
        b = pi.sample("b", dist.HalfNormal(1.0))
        pi.sample("y", LEGAL[name](a, b))

    assert reported(model) == []


def test_a_parameter_inside_a_scan_is_followed_to_its_parent():
    def model(y):
        scale = pi.sample("scale", dist.Normal(0.0, 1.0))

        def step(level, y_now):
            level = pi.sample("level", dist.Normal(level, scale))
            pi.sample("y", dist.Normal(level, 1.0), obs=y_now)
            return level, None

        jax.lax.scan(step, 0.0, y)

    messages = reported(model, Y)
    assert len(messages) == 1
    assert "Site 'level'" in messages[0]
    assert "'scale'" in messages[0]


# -- 15: 64-bit data in a 32-bit world ---------------------------------------------------------------------------------


@pytest.fixture
def single_precision():
    _said.clear()
    with jax.enable_x64(False):
        yield


STAMPS = 1.7e9 + np.arange(20.0)


@pytest.mark.usefixtures("single_precision")
def test_data_that_lose_their_spread_in_32_bits_are_reported_once():
    with pytest.warns(ProbinfWarning, match=r"'x' of model 'free'.*float32.*jax_enable_x64") as caught:
        free(STAMPS).sites  # noqa: B018
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free(STAMPS).sites  # noqa: B018


@pytest.mark.usefixtures("single_precision")
def test_given_data_that_lose_their_spread_are_reported_with_the_site():
    with pytest.warns(ProbinfWarning, match=r"Site 'y'.*float32"):
        free(X).given(y=STAMPS)


@pytest.mark.usefixtures("single_precision")
def test_ordinary_measurements_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free(X).given(y=20.0 + Y)
        check_precision("y", np.array([1 / 3]))
        check_precision("y", np.array([0, 2**24]))


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.array([1, 2**24 + 1]), ProbinfWarning, "16777217"),
        (np.array([1, 2**31]), DataError, "2147483648 does not fit"),
        (np.array([1.0, 1e300]), DataError, "1e.300 does not fit"),
    ],
)
def test_large_numbers_are_reported(data, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            check_precision("Argument 'n'", data)


def test_in_64_bits_nothing_is_lost():
    _said.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision("y", STAMPS)
