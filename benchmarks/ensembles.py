"""Gradient samplers: effective draws a second of ChEES, the default and NUTS, beside NumPyro and BlackJAX.

The smallest bulk effective sample size over all coordinates, over the CPU seconds (all threads) of a whole run with its
warm-up, once everything is compiled; all contestants take turns with new seeds. Densities are those of the same
posteriors: a program for us, a function of the unconstrained vector for the peers. Eight schools is non-centred for
all. nutpie and Stan are not measured yet: rows that need them miss.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
from benchmarks.ensemble_peers import NOT_MEASURED, PEERS, Run
from benchmarks.record import Row, quartiles
from probinf.inference.diagnostics import diagnose
from probinf.kernels import chains

_EFFECTS, _ERRORS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0), (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


@pi.model
def eight_schools(y: Any, sigma: Any) -> None:
    """Treatment effects in eight schools."""
    mu = pi.sample("mu", dist.Normal(0.0, 5.0))
    tau = pi.sample("tau", dist.HalfCauchy(5.0))
    with pi.plate("school", 8):
        theta = pi.sample("theta", dist.Normal(mu, tau))
        pi.observe("y", dist.Normal(theta, sigma), y)


@pi.model
def logistic(X: Any, y: Any) -> None:
    """Logistic regression with standard normal coefficients."""
    beta = pi.sample("beta", dist.Normal(jnp.zeros(X.shape[1]), 1.0).to_event(1))
    pi.observe("y", dist.Bernoulli(logits=X @ beta).to_event(1), y)


@pi.model
def gaussian(sd: Any) -> None:
    """Independent normals of given standard deviations."""
    pi.sample("x", dist.Normal(jnp.zeros_like(sd), sd).to_event(1))


@dataclasses.dataclass(frozen=True)
class Case:
    """One posterior.

    Attributes:
        program: of a number that changes the data, so that a second call has new ones.
        logdensity: of the unconstrained vector, for the peers.
        non_centred: sites that we sample through their standardised value.
        beside_nutpie: how many times nutpie's effective draws a CPU second the default must reach, and NUTS.
        beside_numpyro: how many times NumPyro's the default must reach, or None.
    """

    dim: int
    program: Callable[[float], Any]
    logdensity: Callable[[Any], Any]
    non_centred: tuple[str, ...] = ()
    beside_nutpie: tuple[float, float | None] = (2.0, None)
    beside_numpyro: float | None = None


def cases() -> dict[str, Case]:
    """The three posteriors of the table of targets."""
    y, sigma = jnp.array(_EFFECTS), jnp.array(_ERRORS)

    def schools(x: Any) -> Any:
        mu, log_tau, z = x[0], x[1], x[2:]
        tau = jnp.exp(log_tau)
        prior = -0.5 * (mu / 5.0) ** 2 - jnp.log1p((tau / 5.0) ** 2) + log_tau - 0.5 * jnp.sum(z**2)
        return prior - 0.5 * jnp.sum(((y - mu - tau * z) / sigma) ** 2)

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 25))
    labels = (rng.random(1000) < 1.0 / (1.0 + np.exp(-rows @ (0.5 * rng.normal(size=25))))).astype(np.int32)
    X, t = jnp.asarray(rows, jnp.float32), jnp.asarray(labels)

    def regression(b: Any) -> Any:
        logits = X @ b
        return -0.5 * jnp.sum(b**2) + jnp.sum(jax.nn.log_sigmoid(jnp.where(t == 1, logits, -logits)))

    sd = jnp.asarray(np.logspace(-1.0, 1.0, 100), jnp.float32)
    return {
        "eight schools": Case(
            10, lambda shift: eight_schools(y + shift, sigma), schools, ("theta",), beside_nutpie=(2.0, 1.5)
        ),
        "logistic 1000 x 25": Case(25, lambda shift: logistic(X + shift, t), regression, beside_numpyro=1.5),
        "Gaussian, 100 dimensions": Case(
            100, lambda shift: gaussian(sd + shift), lambda x: -0.5 * jnp.sum((x / sd) ** 2), beside_nutpie=(2.0, 1.0)
        ),
    }


def _ours(case: Case, method: Any) -> tuple[Run, Callable[[float, int], Any]]:
    def posterior(shift: float, seed: int) -> Any:
        return pi.infer(case.program(shift), method, seed=seed, progress=False)

    def run(seed: int) -> np.ndarray:
        found = posterior(0.0, seed)
        sites = [site for site in found.sites if site != "theta"] or list(found.sites)
        columns = [found[site].reshape(*found[site].shape[:2], -1) for site in (*sites, "theta") if site in found]
        return np.concatenate(columns, axis=2)

    return run, posterior


def _clocks() -> np.ndarray:
    return np.array([time.process_time(), time.perf_counter()])


def of_case(name: str, case: Case, quick: bool, seed: int) -> list[Row]:
    """All rows of one posterior."""
    chees, nuts = pi.ChEES(non_centred=case.non_centred), pi.NUTS(non_centred=case.non_centred)
    methods = {"default": pi.Auto(chees=chees, nuts=nuts), "ChEES": chees, "NUTS": nuts}
    contestants: dict[str, Run] = {}
    again: dict[str, Callable[[float, int], Any]] = {}
    for label, method in methods.items():
        contestants[label], again[label] = _ours(case, method)
    missing, first = dict(NOT_MEASURED), {}
    for label, build in PEERS.items():
        try:
            contestants[label] = build(case.logdensity, case.dim)
        except ImportError as error:
            missing[label] = f"not installed: {error}"
    second: dict[str, np.ndarray] = {}
    for label in list(contestants):
        if label in ("default", "ChEES"):  # they share what they compile
            chains._cache.clear()
        before = _clocks()
        try:
            contestants[label](seed)
        except Exception as error:  # a peer that breaks down is a row that misses
            missing[label] = f"{type(error).__name__}: {str(error)[:200]}"
            del contestants[label]
            continue
        first[label] = _clocks() - before
        if label in again:
            before = _clocks()
            again[label](0.01, seed + 1)
            second[label] = _clocks() - before
    speeds: dict[str, list[np.ndarray]] = {label: [] for label in contestants}
    for turn in range(1 if quick else 7):
        for label, run in contestants.items():
            before = _clocks()
            x = run(seed + 2 + turn)
            seconds = _clocks() - before
            speeds[label].append(float(np.nanmin(diagnose(x).ess_bulk)) / seconds)
    median = {label: np.median(np.array(values), axis=0) for label, values in speeds.items()}
    rows = []
    for label, (cpu, wall) in median.items():
        each = np.array(speeds[label])[:, 0]
        note = f"{wall:.0f} per wall second; first call {first[label][1]:.1f} s, {first[label][0]:.1f} s CPU"
        unit = "ESS per CPU second"
        rows.append(Row(f"{name}: {label}", cpu, unit, None, "higher", note, len(each), quartiles(each)))
    rows += [Row(f"{name}: {label}", None, "ESS per CPU second", None, "higher", why) for label, why in missing.items()]
    wanted = [
        ("default", "nutpie", case.beside_nutpie[0]),
        ("NUTS", "nutpie", case.beside_nutpie[1]),
        ("default", "numpyro", case.beside_numpyro),
        ("default", "blackjax", None),
    ]
    for ours, peer, target in wanted:
        ratio = median[ours][0] / median[peer][0] if peer in median else None
        if ratio is not None or target is not None:
            n, why = len(speeds[ours]), missing.get(peer, "per CPU second")
            rows.append(Row(f"{name}: {ours} over {peer}", ratio, "ratio", target, "higher", why, n))
    for label, seconds in second.items():
        share = float(seconds[1] / first[label][1])
        claim = f"{name}: {label}, second call with new data and seed, over the first"
        rows.append(Row(claim, share, "ratio", 0.05, peer=f"{seconds[1]:.2f} s, wall"))
    return rows


def rows(quick: bool, seed: int) -> list[Row]:
    """All rows."""
    return [row for name, case in cases().items() for row in of_case(name, case, quick, seed)]
