"""How fast did the learner think the world was changing? Binary outcomes, decisions, and the parameters behind them.

    python -m examples.hgf_learning [--quick] [--out FOLDER]

Outcomes of a probabilistic learning task (320 trials, Iglesias et al. 2021), seen by a simulated learner with a known
tonic volatility and inverse temperature. The parameters are inferred from the decisions; then the beliefs of three
update rules are compared with a particle filter on the network's own generative model.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from probinf import predictive_coding as hgf

DATA = pathlib.Path(__file__).parent / "data" / "hgf" / "binary_learning.csv"
TRUTH = {"x2.tonic_volatility": -2.0, "response.inverse_temperature": 4.0}
RULES: dict[str, Any] = {"enhanced": None, "unbounded": hgf.Unbounded(), "moment matched": hgf.MomentMatched()}


class Result(NamedTuple):
    """What the pictures are drawn from."""

    run: hgf.NetworkRun
    decisions: np.ndarray
    posterior: pi.Posterior
    divergences: dict[str, dict[str, np.ndarray]]


def network(update: Any = None) -> hgf.Network:
    """Three levels with a volatility that moves enough to be worth learning."""
    found = hgf.binary_hgf(3, update=update)
    return found.replace({"x2.tonic_volatility": TRUTH["x2.tonic_volatility"], "x3.tonic_volatility": -3.0})


def run(seed: int, num_draws: int, num_particles: int) -> Result:
    """Simulate decisions, infer the parameters, measure the update rules."""
    outcomes = np.loadtxt(DATA, delimiter=",", skiprows=1)
    learner, response = network(), hgf.UnitSquareSigmoid("u", TRUTH["response.inverse_temperature"])
    beliefs = learner.filter(outcomes)
    decisions = np.asarray(response.sample(jax.random.key(seed), beliefs.beliefs))
    priors = {"x2.tonic_volatility": dist.Normal(-3.0, 2.0), "response.inverse_temperature": dist.LogNormal(0.0, 1.0)}
    program = hgf.subject_program(learner, response, priors, outcomes, decisions)
    method = pi.NUTS(num_warmup=num_draws, num_draws=num_draws, init=hgf.starting_values(priors))
    posterior = pi.infer(program, method, seed=seed, progress=False)

    log = pi.Log({"u": (np.arange(1.0, len(outcomes) + 1), outcomes)})
    particles = learner.system().filter(smc.ParticleFilter(num_particles)).run(log, key=seed, t0=0.0)
    divergences = {
        name: hgf.divergence_from(network(rule).filter(outcomes), particles.means, particles.covs)
        for name, rule in RULES.items()
    }
    return Result(beliefs, decisions, posterior, divergences)


def pictures(result: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """Beliefs over time, the graph, the posterior with the truth, and the divergence of each rule."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"hgf_{name}.png" for name in ("beliefs", "graph", "parameters", "divergence")]
    hgf.plot_beliefs(result.run, time_unit="trial")[0].get_figure().savefig(paths[0], dpi=140)
    figure, ax = plt.subplots(figsize=(3.2, 3.6))
    hgf.plot_network(result.run.network, ax=ax)
    figure.savefig(paths[1], dpi=140)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, (name, truth) in zip(axes, TRUTH.items(), strict=True):
        ax.hist(
            result.posterior[name].reshape(-1), bins=40, density=True, color="#0072B2", alpha=0.5, label="posterior"
        )
        ax.axvline(truth, color="#D55E00", label="truth")
        ax.set(xlabel=name, yticks=[])
        ax.spines[["top", "left", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(paths[2], dpi=140)
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, layout="constrained")
    for ax, node in zip(axes, ("x3", "x2"), strict=True):
        for name, found in result.divergences.items():
            ax.semilogy(np.arange(1, len(found[node]) + 1), np.maximum(found[node], 1e-6), label=name, linewidth=1.0)
        ax.set(ylabel=f"{node}: KL [nats]", ylim=(1e-5, None))
    axes[0].legend(frameon=False, ncols=3)
    axes[1].set(xlabel="trial")
    figure.savefig(paths[3], dpi=140)
    plt.close("all")
    return paths


def main(argv: list[str] | None = None) -> Result:
    """Run, print the estimates beside the truth, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer draws and particles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    result = run(args.seed, *((200, 1000) if args.quick else (1000, 20_000)))
    for name, truth in TRUTH.items():
        mean, sd = float(result.posterior.mean(name)), float(result.posterior.sd(name))
        print(f"{name:<32} posterior {mean:7.3f} ({sd:.3f})   truth {truth:g}")
    print("\nmean divergence from the filtering distribution [nats]")
    for name, found in result.divergences.items():
        print(f"  {name:<16}" + "".join(f"{node} {values.mean():8.4f}   " for node, values in found.items()))
    for path in pictures(result, args.out):
        print(f"Picture: {path}")
    return result


if __name__ == "__main__":
    main()
