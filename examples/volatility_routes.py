"""One stochastic-volatility program, four routes to its parameters: NUTS, PMMH, particle Gibbs and SMC squared.

    python -m examples.volatility_routes [--quick] [--out FOLDER]

The same program is a joint density for NUTS, a filter with parameters for PMMH and SMC squared, and a path with
parameters for particle Gibbs. The posteriors must agree within their Monte Carlo errors.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc

PARAMETERS = ("mu", "rho", "sigma")
STEPS = {"mu": 0.3, "rho": 1.3, "sigma": 0.5}  # on unconstrained space, about 2.4 / sqrt(3) posterior sds
LENGTH = 100


@pi.model
def volatility(returns):
    """Returns with a log variance that reverts to its mean."""
    mu = pi.sample("mu", dist.Normal(-1.0, 1.0))
    rho = pi.sample("rho", dist.Uniform(0.6, 0.99))
    sigma = pi.sample("sigma", dist.LogNormal(-1.2, 0.4))

    def step(h, y):
        h = pi.sample("h", dist.Normal(mu + rho * (h - mu), sigma))
        pi.observe("returns", dist.Normal(0.0, jnp.exp(h / 2)), y)
        return h, None

    jax.lax.scan(step, mu, returns)


def simulated(seed: int = 3) -> np.ndarray:
    """Returns drawn from the model with mu = -1, rho = 0.9, sigma = 0.4."""
    rng = np.random.default_rng(seed)
    h, returns = -1.0, []
    for _ in range(LENGTH):
        h = -1.0 + 0.9 * (h + 1.0) + 0.4 * rng.normal()
        returns.append(np.exp(h / 2) * rng.normal())
    return np.array(returns)


def by_nuts(program: Any, share: float, seed: int) -> pi.Posterior:
    """States and parameters jointly, by gradients of the joint density."""
    return pi.infer(program, pi.NUTS(num_draws=int(2000 * share), non_centred=("h",)), seed=seed, progress=False)


def by_pmmh(program: Any, share: float, seed: int) -> pi.Posterior:
    """Random walk on the parameters, evidence estimated by a particle filter and kept."""
    method = pi.MCMC(
        smc.pmmh(pi.random_walk(STEPS)),
        num_draws=int(3000 * share),
        num_warmup=300,
        num_chains=4,
        target=lambda p: smc.particle_marginal(p, PARAMETERS, 150),
        report="result",
    )
    return pi.infer(program, method, seed=seed, progress=False)


def by_particle_gibbs(program: Any, share: float, seed: int) -> pi.Posterior:
    """Paths by conditional SMC with ancestor sampling, parameters given the path by random walks."""
    kernel = smc.particle_gibbs(25, PARAMETERS, pi.repeat(pi.random_walk(STEPS), 5))
    method = pi.MCMC(kernel, num_draws=int(4000 * share), num_warmup=300, num_chains=4, values=(*PARAMETERS, "h"))
    return pi.infer(program, method, seed=seed, progress=False)


def by_smc_squared(program: Any, share: float, seed: int) -> pi.Posterior:
    """Particles of parameters, each with a filter, moved by PMMH after each observation; independent runs."""
    algorithm = smc.smc_squared(program, PARAMETERS, 64, 64, pi.random_walk(STEPS), threshold=0.5)
    began, num_runs = time.perf_counter(), max(4, int(16 * share))

    @jax.jit
    def run(key: jax.Array) -> Any:
        return algorithm.run(key)[0]

    runs = [run(k) for k in jax.random.split(jax.random.key(seed), num_runs)]
    log_z = np.array([float(r.log_evidence) for r in runs])
    weights = np.stack([np.asarray(r.log_weights) + float(r.collected) for r in runs])
    return pi.Posterior(
        {n: np.stack([np.asarray(r.particles[n]) for r in runs]) for n in PARAMETERS},
        log_weights=weights,
        log_evidence=float(np.logaddexp.reduce(log_z) - np.log(num_runs)),
        method=f"SMC squared, {num_runs} runs of 64 x 64 particles",
        claim="unbiased",
        seconds=time.perf_counter() - began,
        model=program.name,
    )


ROUTES: dict[str, Callable[[Any, float, int], pi.Posterior]] = {
    "NUTS": by_nuts,
    "PMMH": by_pmmh,
    "particle Gibbs": by_particle_gibbs,
    "SMC squared": by_smc_squared,
}


def moments(posterior: pi.Posterior, name: str) -> tuple[float, float, float]:
    """Mean, standard deviation and Monte Carlo error of the mean; from the spread of runs where draws have weights."""
    mean, sd = float(posterior.mean(name)), float(posterior.sd(name))
    if posterior.log_weights is None:
        summary = posterior.summary()
        return mean, sd, float(summary["MCSE"][list(summary.names).index(name)])
    share = posterior.weights.sum(axis=1)
    per_run = (posterior.weights * posterior[name]).sum(axis=1) / share
    return mean, sd, float(np.sqrt((share**2 * (per_run - mean) ** 2).sum() / (1 - (share**2).sum())))


def main(argv: list[str] | None = None) -> dict[str, pi.Posterior]:
    """Run the four routes, print the table, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    program = volatility(jnp.asarray(simulated()))
    found: dict[str, pi.Posterior] = {}
    print(f"{'route':<16}" + "".join(f"{n:>24}" for n in PARAMETERS) + f"{'seconds':>9}")
    for name, route in ROUTES.items():
        found[name] = route(program, 0.1 if args.quick else 1.0, args.seed)
        cells = ["{:8.3f} ({:.3f}) ±{:.4f}".format(*moments(found[name], n)) for n in PARAMETERS]
        print(f"{name:<16}" + "".join(f"{c:>24}" for c in cells) + f"{found[name].seconds:9.1f}", flush=True)
    print("mean (standard deviation) ± Monte Carlo error of the mean")
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"Picture: {picture(found, args.out / 'volatility_routes.png')}")
    return found


def picture(found: dict[str, pi.Posterior], path: pathlib.Path) -> pathlib.Path:
    """Marginal posteriors of the parameters, one line for each route."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    labels = {"mu": "mean log variance", "rho": "persistence", "sigma": "volatility of volatility"}
    for axis, name in zip(axes, PARAMETERS, strict=True):
        pooled = np.concatenate([p[name].reshape(-1) for p in found.values()])
        edges = np.linspace(*np.quantile(pooled, [0.002, 0.998]), 31)
        for route, posterior in found.items():
            heights, _ = np.histogram(
                posterior[name].reshape(-1), edges, weights=posterior.weights.reshape(-1), density=True
            )
            axis.stairs(heights, edges, label=route, linewidth=1.6)
        axis.set(xlabel=labels[name], yticks=[])
        axis.spines[["top", "left", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("One program, four routes to its parameters")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()
