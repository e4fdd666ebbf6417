"""Tempered samplers of static targets: variance of log evidence times CPU time, beside BlackJAX and particles.

All start from the prior with the same number of particles and take the next temperature at ESS = N / 2. BlackJAX: four
HMC trajectories of five leapfrog steps a temperature (20 steps on the sonar-like data, as ours), metric and step size
tuned on the population as ours are. particles: 20 random-walk moves a temperature, covariance from the particles.
Truth: closed form, or bridge sampling between NUTS draws and a normal fitted to other NUTS draws. Turn by turn in one
process; the first turn, which compiles, is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import probinf as pi
import smc
from benchmarks.record import Row
from benchmarks.sampler_targets import TARGETS, Target

Run = Callable[[int], float]
_FEW = 3  # turns of particles on the regressions, where one takes about a minute
_LEAPFROG = {"sonar": 20}  # five do not mix there, and the verdict says so; BlackJAX gets the same


def ours(target: Target, num: int, num_leapfrog: int, **options: Any) -> Run:
    """Our log evidence as a function of a seed."""
    method = smc.TemperedSMC(num, num_leapfrog=num_leapfrog, **options)

    def run(seed: int) -> float:
        found = pi.infer(target.program, method, seed=seed).log_evidence
        assert found is not None
        return found

    return run


def by_blackjax(target: Target, num: int, num_leapfrog: int) -> Run:
    """BlackJAX's adaptive tempered SMC with HMC, diagonal metric and step size tuned between temperatures."""
    import blackjax
    from blackjax.smc import adaptive_tempered, extend_params
    from blackjax.smc.resampling import systematic

    kernel = adaptive_tempered.build_kernel(
        target.log_prior,
        target.log_likelihood,
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        systematic,
        0.5,
    )

    @jax.jit
    def step(key: Any, state: Any, log_step: Any) -> tuple:
        parameters = extend_params(
            {
                "step_size": jnp.exp(log_step),
                "inverse_mass_matrix": jnp.var(state.particles, axis=0) + 1e-12,
                "num_integration_steps": num_leapfrog,
            }
        )
        state, info = kernel(key, state, 4, parameters)
        rate = jnp.mean(info.update_info.acceptance_rate)
        log_step = jnp.clip(log_step + jnp.clip(2 * (rate - 0.8), -1, 0.3), -11.0, 0.4)
        return state, log_step, info.log_likelihood_increment

    def run(seed: int) -> float:
        particles = jnp.asarray(target.draw(np.random.default_rng(seed), num), jnp.float32)
        state, log_step, total = adaptive_tempered.init(particles), jnp.log(1.2 * target.dim**-0.25), 0.0
        key = jax.random.key(seed)
        for k in range(500):
            state, log_step, increment = step(jax.random.fold_in(key, k), state, log_step)
            total += float(increment)
            if float(state.tempering_param) >= 1:
                return total
        raise RuntimeError("BlackJAX: 500 temperatures were not enough")

    return run


def by_particles(target: Target, num: int) -> Run:
    """particles' adaptive tempering with 20 random-walk moves at each temperature."""
    import particles
    from particles import distributions, smc_samplers

    if target.prior_sd is not None:
        sd = target.prior_sd
        prior = distributions.MvNormal(loc=np.zeros(target.dim), cov=np.diag(sd**2))
    else:
        one = distributions.LogD(distributions.Gamma(0.5, 0.02))
        prior = distributions.IndepProd(*([one] * target.dim))

    class Model(smc_samplers.StaticModel):
        def loglik(self, theta: Any, t: Any = None) -> np.ndarray:
            return target.log_likelihoods(np.asarray(theta["x"]))

    model = Model(data=np.zeros(1), prior=distributions.StructDist({"x": prior}))

    def run(seed: int) -> float:
        np.random.seed(seed)  # noqa: NPY002 - the package draws from the global state
        kernel = smc_samplers.AdaptiveTempering(model=model, wastefree=False, len_chain=21, ESSrmin=0.5)
        found = particles.SMC(fk=kernel, N=num, ESSrmin=1.0)
        found.run()
        return float(found.logLt)

    return run


def bridge_evidence(target: Target, num_draws: int, seed: int) -> float:
    """Log evidence by bridge sampling (Meng & Wong 1996): NUTS, and a normal fitted to half of its draws."""
    found = pi.infer(target.program, pi.NUTS(num_draws=num_draws), seed=seed)
    draws, _ = found.matrix()
    draws = draws.reshape(found.num_chains, -1, target.dim)
    half = draws.shape[1] // 2
    fit, rest = (part.reshape(-1, target.dim) for part in (draws[:, :half], draws[:, half:]))
    normal = stats.multivariate_normal(fit.mean(0), np.cov(fit.T))
    other = np.atleast_2d(normal.rvs(len(rest), random_state=seed))
    sd = target.prior_sd

    def log_ratio(x: np.ndarray) -> np.ndarray:
        return target.log_likelihoods(x) + np.asarray(stats.norm.logpdf(x, 0, sd)).sum(axis=1) - normal.logpdf(x)

    at_draws, at_normal = log_ratio(rest), log_ratio(other)
    log_z = float(np.median(at_draws))
    for _ in range(1000):
        above = np.logaddexp.reduce(at_normal - np.logaddexp(at_normal, log_z)) - np.log(at_normal.size)
        below = np.logaddexp.reduce(-np.logaddexp(at_draws, log_z)) - np.log(at_draws.size)
        log_z = float(above - below)
    return log_z


def _turns(functions: dict[str, Run], num_runs: dict[str, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """CPU seconds and log evidence of each, turn by turn, after one turn that compiles."""
    cpu, found = ({name: [] for name in functions} for _ in range(2))
    for k in range(max(num_runs.values()) + 1):
        for name, function in functions.items():
            if k > num_runs[name] or (k == 0 and name == "particles"):  # which compiles next to nothing
                continue
            begin = time.process_time()
            value = function(k)
            if k:
                cpu[name].append(time.process_time() - begin)
                found[name].append(value)
    return {n: np.array(v) for n, v in cpu.items()}, {n: np.array(v) for n, v in found.items()}


def work(cpu: np.ndarray, found: np.ndarray) -> float:
    """Variance of the log evidence times the CPU time of a run: what a variance of one costs, seconds."""
    return float(np.var(found, ddof=1) * np.median(cpu))


def work_spread(one: tuple, other: tuple, seed: int) -> tuple[float, float]:
    """Quartiles of the ratio of works when the runs of both are drawn again with replacement."""
    rng, ratios = np.random.default_rng(seed), []
    for _ in range(400):
        works = []
        for cpu, found in (one, other):
            pick = rng.integers(0, len(cpu), len(cpu))
            works.append(work(cpu[pick], found[pick]))
        if works[1] > 0:
            ratios.append(works[0] / works[1])
    low, high = np.quantile(ratios, [0.25, 0.75])
    return float(low), float(high)


_VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive tempering": {},
    "waste-free, chains of 32": {"waste_free": 32},
    "persistent": {"persistent": True},
}


def one_target(name: str, num: int, num_runs: int, num_draws: int, seed: int) -> Iterator[Row]:
    """Work of each variant over that of the peers."""
    target = TARGETS[name](seed + 1)
    leapfrog = _LEAPFROG.get(name, 5)
    functions: dict[str, Run] = {label: ours(target, num, leapfrog, **o) for label, o in _VARIANTS.items()}
    missing = {}
    for peer, make in (
        ("blackjax", lambda: by_blackjax(target, num, leapfrog)),
        ("particles", lambda: by_particles(target, num)),
    ):
        try:
            functions[peer] = make()
        except ImportError as error:
            missing[peer] = str(error)
    few = {"particles": min(num_runs, _FEW)} if target.exact is None else {}
    cpu, found = _turns(functions, {label: few.get(label, num_runs) for label in functions})
    truth = target.exact if target.exact is not None else bridge_evidence(target, num_draws, seed)
    how = "closed form" if target.exact is not None else "bridge sampling"
    for label in _VARIANTS:
        for peer, wanted in (("blackjax", 0.5), ("particles", 0.001)):
            claim = f"{target.name}, N = {num}, {label}: variance of log evidence x CPU time over {peer}'s"
            if peer in missing:
                yield Row(claim, None, "ratio", wanted, peer=f"not installed: {missing[peer]}")
                continue
            each = "; ".join(
                f"{n}: off by {found[n].mean() - truth:+.2f}, sd {found[n].std(ddof=1):.3f}, "
                f"{np.median(cpu[n]):.3g} CPU s"
                for n in (label, peer)
            )
            yield Row(
                claim,
                work(cpu[label], found[label]) / work(cpu[peer], found[peer]),
                "ratio",
                wanted,
                peer=f"{each}; truth {truth:.2f} ({how})",
                n=len(cpu[peer]),
                spread=work_spread((cpu[label], found[label]), (cpu[peer], found[peer]), seed),
            )


def verdicts(num: int, num_runs: int, seed: int) -> Iterator[Row]:
    """How often the verdict on the sonar-like data speaks, for moves that do not mix and for moves that do."""
    target = TARGETS["sonar"](seed + 1)
    for label, method, wanted, better in (
        ("random-walk moves", smc.TemperedSMC(num, moves="rwm", num_moves=16), 1.0, "higher"),
        ("HMC moves of 20 leapfrog steps", smc.TemperedSMC(num, num_leapfrog=20), 0.0, "lower"),
    ):
        said, log_z = [], []
        for k in range(num_runs):
            found = pi.infer(target.program, method, seed=k)
            said.append(any("do not mix" in note for note in found.warnings))
            log_z.append(found.log_evidence)
        yield Row(
            f"{target.name}, N = {num}, {label}: share of runs whose summary says that moves do not mix",
            float(np.mean(said)),
            "share",
            wanted,
            better=better,
            peer=f"log evidence {np.mean(log_z):.2f}",
            n=num_runs,
        )


# Runs of each target: those of the regressions take seconds, and sonar's, of 20 leapfrog steps, four times as long.
_RUNS = {"credit": 24, "sonar": 30, "skewed": 100, "bimodal": 100}


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """All rows; with `quick` the two small targets only, and two runs for the verdict."""
    num, num_draws = (256, 300) if quick else (1024, 5000)
    for name in ("skewed", "bimodal") if quick else TARGETS:
        yield from one_target(name, num, 4 if quick else _RUNS[name], num_draws, seed)
    yield from verdicts(num, 2 if quick else 4, seed)
