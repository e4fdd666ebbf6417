"""Programs for posteriors whose moments are known, and the comparison of a run with them.

The models are those of the data base posteriordb (nine of its posteriors) and four on simulated data. Sites carry the
names of the reference's scalars. "Flat" is `ImproperUniform`: it has no normalising constant.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

import probinf as pi
from probinf.inference.diagnostics import diagnose


def flat(size: int | None = None, support: Any = constraints.real) -> dist.Distribution:
    """Constant density on a support: of a number, or of `size` numbers."""
    return dist.ImproperUniform(support, () if size is None else (size,), ())


@pi.model
def eight_schools(y: Any, sigma: Any) -> None:
    """Treatment effects in eight schools with a common mean."""
    mu = pi.sample("mu", dist.Normal(0.0, 5.0))
    tau = pi.sample("tau", dist.HalfCauchy(5.0))
    with pi.plate("school", y.size):
        theta = pi.sample("theta", dist.Normal(mu, tau))
        pi.observe("y", dist.Normal(theta, sigma), y)


@pi.model
def kidscore(mom_iq: Any, kid_score: Any) -> None:
    """Linear regression on one uncentred regressor."""
    with pi.plate("coefficient", 2):
        beta = pi.sample("beta", flat())
    sigma = pi.sample("sigma", dist.HalfCauchy(2.5))
    pi.observe("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma).to_event(1), kid_score)


@pi.model
def flat_regression(X: Any, y: Any) -> None:
    """Linear regression with flat priors, on the noise level too."""
    with pi.plate("coefficient", X.shape[1]):
        beta = pi.sample("beta", flat())
    sigma = pi.sample("sigma", flat(support=constraints.positive))
    pi.observe("y", dist.Normal(X @ beta, sigma).to_event(1), y)


@pi.model
def autoregression(lags: Any, y: Any) -> None:
    """Autoregression, the first values conditioned on. `lags` has y_(t-k) in column k - 1."""
    alpha = pi.sample("alpha", dist.Normal(0.0, 10.0))
    with pi.plate("lag", lags.shape[1]):
        beta = pi.sample("beta", dist.Normal(0.0, 10.0))
    sigma = pi.sample("sigma", dist.HalfCauchy(2.5))
    pi.observe("y", dist.Normal(alpha + lags @ beta, sigma).to_event(1), y)


@pi.model
def garch(y: Any, first_sd: Any) -> None:
    """GARCH(1, 1), flat on the region where it is stationary."""
    mu = pi.sample("mu", flat())
    alpha0 = pi.sample("alpha0", flat(support=constraints.positive))
    alpha1 = pi.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pi.sample("beta1", dist.Uniform(0.0, 1.0 - alpha1))
    pi.factor("flat_in_both", jnp.log1p(-alpha1))  # takes out the 1 / (1 - alpha1) of the dependent bound

    def step(variance: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        pi.observe("y", dist.Normal(mu, jnp.sqrt(variance)), y)
        return alpha0 + alpha1 * (y - mu) ** 2 + beta1 * variance, None

    jax.lax.scan(step, first_sd**2, y)


@pi.model
def poisson_process(x: Any, k: Any) -> None:
    """Counts whose log rate is a Gaussian process with a squared-exponential kernel."""
    rho = pi.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pi.sample("alpha", dist.HalfNormal(2.0))
    distance = x[:, None] - x[None, :]
    cov = alpha**2 * jnp.exp(-0.5 * (distance / rho) ** 2) + 1e-10 * jnp.eye(x.size)
    f = pi.sample("f", dist.MultivariateNormal(jnp.zeros(x.size), cov))
    pi.observe("k", dist.Poisson(jnp.exp(f)).to_event(1), k)


@pi.model
def hidden_markov(y: Any) -> None:
    """Two hidden states, summed out by the forward algorithm; means in order."""
    rows = [pi.sample(name, dist.Dirichlet(jnp.ones(2))) for name in ("theta1", "theta2")]
    mu = pi.sample("mu", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    pi.factor("prior of mu", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu))
    transition = jnp.log(jnp.stack(rows))

    def step(forward: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        predicted = jax.nn.logsumexp(forward[:, None] + transition, axis=0)
        return predicted + dist.Normal(mu, 1.0).log_prob(y), None

    first = dist.Normal(mu, 1.0).log_prob(y[0]) - jnp.log(2.0)
    pi.factor("y", jax.nn.logsumexp(jax.lax.scan(step, first, y[1:])[0]))


@pi.model
def bayesian_regression(X: Any, y: Any) -> None:
    """Linear regression with weak priors."""
    with pi.plate("coefficient", X.shape[1]):
        beta = pi.sample("beta", dist.Normal(0.0, 10.0))
    sigma = pi.sample("sigma", dist.HalfNormal(10.0))
    pi.observe("y", dist.Normal(X @ beta, sigma).to_event(1), y)


@pi.model
def hierarchical_binomial(y: Any, n: Any) -> None:
    """Success rates of several groups with a common prior."""
    m = pi.sample("m", dist.Normal(0.0, 2.0))
    s = pi.sample("s", dist.HalfNormal(1.0))
    with pi.plate("group", y.size):
        alpha = pi.sample("alpha", dist.Normal(m, s))
        pi.observe("y", dist.Binomial(n, logits=alpha), y)


@pi.model
def student_t_regression(X: Any, y: Any) -> None:
    """Linear regression with heavy tails of unknown weight."""
    with pi.plate("coefficient", X.shape[1]):
        b = pi.sample("b", dist.Normal(0.0, 5.0))
    sigma = pi.sample("sigma", dist.HalfNormal(2.0))
    nu = pi.sample("nu", dist.Gamma(2.0, 0.1))
    pi.observe("y", dist.StudentT(nu, X @ b, sigma).to_event(1), y)


@pi.model
def linear_gaussian(y: Any) -> None:
    """First-order autoregression seen in noise, states and parameters together.

    The states are drawn through the standardised noise of the sensor, x = y - r e. About 1 % of the mass has r < 0.4;
    there, states drawn as such (or through the noise of the motion) are pinned to y within r, a funnel in 200
    dimensions that NUTS hardly enters. In e the density is regular: p(x) p(y | x) dx = p(x(e)) N(e; 0, 1) de.
    """
    a = pi.sample("a", dist.Uniform(0.0, 1.0))
    q = pi.sample("q", dist.HalfNormal(1.0))
    r = pi.sample("r", dist.HalfNormal(1.0))
    e = pi.sample("e", dist.Normal(jnp.zeros(y.size), 1.0))
    x = pi.deterministic("x", y - r * e)
    pi.factor("start", dist.Normal(0.0, 1.0).log_prob(x[0]))
    pi.factor("motion", dist.Normal(a * x[:-1], q).log_prob(x[1:]))


@pi.model
def stochastic_volatility(y: Any) -> None:
    """Log variance as a stationary autoregression, states and parameters together."""
    mu = pi.sample("mu", dist.Normal(-1.0, 1.0))
    rho = pi.sample("rho", dist.Uniform(0.6, 0.99))
    sigma = pi.sample("sigma", dist.HalfNormal(0.5))

    def step(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        y, is_first = inputs
        sd = jnp.where(is_first, sigma / jnp.sqrt(1.0 - rho**2), sigma)
        x = pi.sample("x", dist.Normal(mu + rho * (x - mu), sd))
        pi.observe("y", dist.Normal(0.0, jnp.exp(x / 2)), y)
        return x, None

    jax.lax.scan(step, mu, (y, jnp.arange(y.size) == 0))


def _floats(data: Mapping[str, Any], *names: str) -> list[np.ndarray]:
    return [np.asarray(data[name], float) for name in names]


def _earnings(data: Mapping[str, Any]) -> Any:
    earn, height, male = _floats(data, "earn", "height", "male")
    return flat_regression(np.stack([np.ones_like(height), height, male, height * male], axis=1), np.log(earn))


def _election(data: Mapping[str, Any]) -> Any:
    y, ideology, race, education, gender, income = _floats(
        data, "partyid7", "real_ideo", "race_adj", "educ1", "gender", "income"
    )
    age = np.asarray(data["age_discrete"])
    ages = [(age == group).astype(float) for group in (2, 3, 4)]
    return flat_regression(np.stack([np.ones_like(y), ideology, race, *ages, education, gender, income], axis=1), y)


def _lagged(data: Mapping[str, Any]) -> Any:
    (y,) = _floats(data, "y")
    order = int(data["K"])
    lags = np.stack([y[order - k : y.size - k] for k in range(1, order + 1)], axis=1)
    return autoregression(lags, y[order:])


def _counts(data: Mapping[str, Any], *names: str) -> list[np.ndarray]:
    return [np.asarray(data[name], int) for name in names]


class Case(NamedTuple):
    """A posterior with a known answer: its program from the reference's data, and settings of NUTS that suit it."""

    program: Callable[[Mapping[str, Any]], Any]
    settings: dict[str, Any] = {}  # noqa: RUF012


CASES = {
    "posteriordb/eight_schools-eight_schools_noncentered": Case(
        lambda d: eight_schools(*_floats(d, "y", "sigma")), {"non_centred": ("theta",)}
    ),
    "posteriordb/kidiq-kidscore_momiq": Case(
        lambda d: kidscore(*_floats(d, "mom_iq", "kid_score")), {"dense_metric": True}
    ),
    "posteriordb/earnings-logearn_interaction": Case(_earnings, {"dense_metric": True}),
    "posteriordb/arK-arK": Case(_lagged),
    "posteriordb/garch-garch11": Case(lambda d: garch(*_floats(d, "y", "sigma1"))),
    "posteriordb/gp_pois_regr-gp_pois_regr": Case(
        lambda d: poisson_process(*_floats(d, "x"), *_counts(d, "k")), {"non_centred": ("f",)}
    ),
    "posteriordb/hmm_example-hmm_example": Case(lambda d: hidden_markov(*_floats(d, "y"))),
    "posteriordb/sblrc-blr": Case(lambda d: bayesian_regression(*_floats(d, "X", "y"))),
    "posteriordb/nes1972-nes": Case(_election, {"dense_metric": True}),
    "own/hier_binomial": Case(lambda d: hierarchical_binomial(*_counts(d, "y", "n")), {"non_centred": ("alpha",)}),
    "own/student_t_regression": Case(lambda d: student_t_regression(*_floats(d, "X", "y"))),
    "own/lgssm_params": Case(
        lambda d: linear_gaussian(*_floats(d, "y")),
        {"num_draws": 10000, "keep": ("a", "q", "r")},
    ),
    "own/sv_params": Case(
        lambda d: stochastic_volatility(*_floats(d, "y")), {"non_centred": ("x",), "num_draws": 5000}
    ),
}


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A run beside its reference, scalar by scalar.

    Attributes:
        names: scalars.
        means_apart: distance of the means in joint Monte Carlo standard errors.
        sd_ratio: standard deviation of the run over the reference's.
        sd_errors: standard error of `sd_ratio`, the reference's error included.
        ess: effective sample size of the second moment's estimate, the smaller of bulk and tail.
    """

    names: tuple[str, ...]
    means_apart: np.ndarray
    sd_ratio: np.ndarray
    sd_errors: np.ndarray
    ess: np.ndarray

    @property
    def worst_mean(self) -> tuple[str, float]:
        """Scalar whose means are furthest apart."""
        i = int(np.argmax(self.means_apart))
        return self.names[i], float(self.means_apart[i])

    @property
    def worst_sd(self) -> tuple[str, float]:
        """Scalar whose standard deviation is furthest off."""
        i = int(np.argmax(np.abs(self.sd_ratio - 1.0)))
        return self.names[i], float(self.sd_ratio[i])


def read(path: pathlib.Path) -> dict[str, Any]:
    """A reference file."""
    return json.loads(path.read_text())


def compare(posterior: Any, reference: Mapping[str, Any]) -> Agreement:
    """Compare a run with the reference's summary; scalars are named `site` or `site[i]`, i from 1.

    The error of a standard deviation s follows from that of the mean of (x - mean)², to first order (the delta method):
    its relative error is the standard error of that mean over 2 s². Heavy tails and the autocorrelation of the squares,
    which under NUTS is larger than that of the draws, are so counted.
    """
    rows = []
    summary = posterior.summary()
    place = {name: i for i, name in enumerate(summary.names)}
    matrix = posterior.matrix(posterior.sites)[0]
    squares = (matrix - matrix.mean(axis=0)) ** 2
    own_errors = diagnose(squares.reshape(posterior.num_chains, posterior.num_draws, -1)).mcse_mean
    for name, known in reference["reference"]["summary"].items():
        i = place[re.sub(r"\[(\d+)\]", lambda m: f"[{int(m[1]) - 1}]", name)]
        error = np.hypot(summary["MCSE"][i], known.get("mcse_mean", known.get("mcse", 0.0)))
        reference_error = squares[:, i].std() / np.sqrt(known.get("ess_bulk", np.inf))
        sd_error = np.hypot(own_errors[i], reference_error) / (2.0 * squares[:, i].mean())
        ess = min(summary["ESS bulk"][i], summary["ESS tail"][i])
        rows.append((abs(summary["mean"][i] - known["mean"]) / error, summary["sd"][i] / known["sd"], sd_error, ess))
    return Agreement(tuple(reference["reference"]["summary"]), *np.array(rows).T)
