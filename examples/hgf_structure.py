"""Is the volatility itself changing? A network that gains a parent while it filters, and the evidence for it.

    python -m examples.hgf_structure [--quick] [--steps N] [--seed N] [--out FOLDER]

A level moves slowly, then wildly, then slowly again. A network with a volatility parent that may be absent learns the
series; the table gives the evidence of each structure, reversible jump the probability of the parent, and particles
correct the beliefs where the closed-form updates are far from exact conditioning.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from probinf import predictive_coding as hgf

OMEGA = "x1.tonic_volatility"


class Result(NamedTuple):
    """What the picture is drawn from."""

    u: np.ndarray
    level: np.ndarray
    joined: hgf.NetworkRun
    table: hgf.StructureSearch
    draws: hgf.StructureDraws
    overlap: np.ndarray
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]


def network() -> hgf.Network:
    """Level, volatility, and a trend that the data do not have."""
    return (
        hgf.Network("volatile")
        .continuous_input("u", precision=10.0)
        .continuous_state("x1", tonic_volatility=-2.0)
        .continuous_state("x2", tonic_volatility=-2.0, autoconnection=0.95)
        .continuous_state("trend", precision=100.0, tonic_volatility=-8.0)
        .value("x1", "u")
        .value("trend", "x1")
        .volatility("x2", "x1")
    )


def run(seed: int, steps: int, draws: int, particles: int) -> Result:
    """Simulate, filter with a parent that joins half-way, compare structures, correct the beliefs."""
    rng = np.random.default_rng(seed)
    wild = (np.arange(steps) * 4 // steps) % 2 == 1
    level = np.cumsum(rng.normal(0.0, np.where(wild, 1.5, 0.1)))
    u = level + rng.normal(0.0, np.sqrt(0.1), steps)
    pool = hgf.Supernetwork(network(), ["x2", "trend"])
    joined = pool.filter(u, {"x2": np.arange(steps) >= steps // 4, "trend": False})
    priors = {OMEGA: dist.Normal(-2.0, 1.5)}
    table = hgf.learn_structure(pool, u, priors, num_particles=256, seed=seed)
    jumps = hgf.jump_structures(pool, u, priors, num_draws=draws, num_warmup=draws // 5, seed=seed)

    plain = pool.structure(["x2"])
    log = pi.Log({"u": (np.arange(1.0, steps + 1), u)})
    exact = plain.system().filter(smc.ParticleFilter(particles)).run(log, key=seed, t0=0.0)
    corrected = hgf.corrected_filter(plain, u, num_particles=512, seed=seed)
    before, after = (hgf.divergence_from(r, exact.means, exact.covs) for r in (plain.filter(u), corrected.run))
    return Result(u, level, joined, table, jumps, np.asarray(corrected.overlap), before, after)


def picture(result: Result, out: pathlib.Path) -> pathlib.Path:
    """The series, the volatility once its node has joined, overlap, and divergence before and after correction."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    steps = np.arange(1, len(result.u) + 1)
    figure, axes = plt.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    axes[0].plot(steps, result.u, ".", color="#999999", markersize=3, label="observed")
    axes[0].plot(steps, result.level, color="#D55E00", linewidth=1.0, label="true level")
    axes[0].plot(steps, result.joined["x1"].mean, color="#0072B2", linewidth=1.0, label="belief")
    axes[0].set(ylabel="level")
    axes[0].legend(frameon=False, ncols=3)
    mean, sd = np.asarray(result.joined["x2"].mean), 1.0 / np.sqrt(np.asarray(result.joined["x2"].precision))
    axes[1].fill_between(steps, mean - 1.645 * sd, mean + 1.645 * sd, color="#0072B2", alpha=0.25, linewidth=0)
    axes[1].plot(steps, mean, color="#0072B2")
    axes[1].axvline(steps[np.argmax(np.isfinite(mean))], color="black", linestyle=":", label="the node joins")
    axes[1].set(ylabel="log volatility, 90 %")
    axes[1].legend(frameon=False)
    axes[2].plot(steps, result.overlap, color="#0072B2", linewidth=1.0)
    axes[2].axhline(0.9, color="black", linestyle=":", label="threshold")
    axes[2].set(ylabel="overlap", ylim=(0, 1.02))
    axes[2].legend(frameon=False)
    axes[3].semilogy(steps, np.maximum(result.before["x2"], 1e-6), color="#D55E00", linewidth=1.0, label="closed form")
    axes[3].semilogy(steps, np.maximum(result.after["x2"], 1e-6), color="#0072B2", linewidth=1.0, label="corrected")
    axes[3].set(ylabel="volatility: KL [nats]", xlabel="step", ylim=(1e-5, None))
    axes[3].legend(frameon=False, ncols=2)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    path = out / "hgf_structure.png"
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def main(argv: list[str] | None = None) -> Result:
    """Run, print the tables, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short series, few draws and particles")
    parser.add_argument("--steps", type=int, help="length of the series")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    steps, draws, particles = (60, 100, 2000) if args.quick else (200, 2000, 20_000)
    result = run(args.seed, args.steps or steps, draws, particles)
    print(result.table)
    print("\nprobability of each part, by evidence and by reversible jump")
    for part, (share, error) in result.draws.inclusion().items():
        print(f"  {part:<6} {result.table.inclusion()[part]:.3f}   {share:.3f} (standard error {error:.3f})")
    print("\nmean divergence from the filtering distribution [nats]")
    for name in result.before:
        print(f"  {name}: closed form {result.before[name].mean():.4f}, corrected {result.after[name].mean():.4f}")
    print(f"Picture: {picture(result, args.out)}")
    return result


if __name__ == "__main__":
    main()
