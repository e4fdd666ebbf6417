"""Steering a diffusion model by the reward of its predicted clean sample, where the answer is known exactly.

    python -m examples.steering_diffusion [--runs 400] [--seed 0] [--out FOLDER]

Clean data: 0.7 N(-2, 0.25) + 0.3 N(2, 0.25). Twenty noising steps, each reversed exactly (draw x0 given x_t, then the
bridge). Reward -(x0 - 1)^2 / 1.28. The steered law and its evidence are Gaussian mixtures in closed form. Compares
potentials that telescope along the way with a single weight at the end, and never-resampling with dropped weights.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import smc

WEIGHTS, MEANS, VARIANCE = np.array([0.7, 0.3]), np.array([-2.0, 2.0]), 0.25
BETA = np.linspace(0.001, 0.35, 20)
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - BETA)])  # of x_0, ..., x_20
STEPS = len(BETA) + 1  # the first draws x_20
REWARD_CENTRE, REWARD_VARIANCE = 1.0, 0.64


class Noised(NamedTuple):
    """A sample on its way back.

    Attributes:
        x: its value.
        level: its number of noising steps; 21 before anything is drawn.
    """

    x: Any
    level: Any


def clean_given(x: Array, level: Array) -> tuple[Array, Array, Array]:
    """Law of x0 given x_t: weights (2,), means (2,), variance."""
    bar = jnp.asarray(ALPHA_BAR)[level]
    spread = bar * VARIANCE + 1 - bar
    means = jnp.asarray(MEANS)
    logits = jnp.log(jnp.asarray(WEIGHTS)) - (x - jnp.sqrt(bar) * means) ** 2 / (2 * spread)
    gain = jnp.sqrt(bar) * VARIANCE / spread
    return jax.nn.softmax(logits), means + gain * (x - jnp.sqrt(bar) * means), VARIANCE * (1 - bar) / spread


def back(state: Noised, key: Array) -> Noised:
    """One exact reverse step of one sample; the first draws x_20."""
    key_clean, key_which, key_bridge = jax.random.split(key, 3)
    level = jnp.minimum(state.level, STEPS - 1)
    bar, before = jnp.asarray(ALPHA_BAR)[level], jnp.asarray(ALPHA_BAR)[level - 1]
    noise, wander = jax.random.normal(key_clean), jax.random.normal(key_bridge)
    fresh_mean = jnp.asarray(MEANS)[jax.random.bernoulli(key_which, WEIGHTS[1]).astype(int)]
    first = jnp.sqrt(bar) * (fresh_mean + np.sqrt(VARIANCE) * noise) + jnp.sqrt(1 - bar) * wander
    chances, means, variance = clean_given(state.x, level)
    x0 = means[jax.random.bernoulli(key_which, chances[1]).astype(int)] + jnp.sqrt(variance) * noise
    beta = 1 - bar / before
    mean = (jnp.sqrt(before) * beta * x0 + jnp.sqrt(1 - beta) * (1 - before) * state.x) / (1 - bar)
    bridge = mean + jnp.sqrt(beta * (1 - before) / (1 - bar)) * wander
    x = jnp.where(state.level == STEPS, first, bridge)
    return Noised(x, state.level - 1)


def reward(states: Noised) -> Array:
    """Reward of the predicted clean sample E[x0 | x_t]; of the sample itself at the end."""

    def one(x: Array, level: Array) -> Array:
        chances, means, _ = clean_given(x, level)
        return jnp.where(level == 0, x, chances @ means)

    clean = jax.vmap(one)(states.x, states.level)
    return -((clean - REWARD_CENTRE) ** 2) / (2 * REWARD_VARIANCE)


def box() -> smc.BlackBox:
    """The reverse chain and its reward."""
    return smc.BlackBox(Noised(jnp.zeros(()), jnp.asarray(STEPS)), jax.vmap(back), reward)


class Exact(NamedTuple):
    """The steered law: log Z, mean and standard deviation of x0."""

    log_evidence: float
    mean: float
    sd: float


def exact() -> Exact:
    """Product of a Gaussian mixture and a Gaussian."""
    total = VARIANCE + REWARD_VARIANCE
    mass = WEIGHTS * np.sqrt(REWARD_VARIANCE / total) * np.exp(-((MEANS - REWARD_CENTRE) ** 2) / (2 * total))
    variance = VARIANCE * REWARD_VARIANCE / total
    means = (MEANS * REWARD_VARIANCE + REWARD_CENTRE * VARIANCE) / total
    share = mass / mass.sum()
    mean = share @ means
    return Exact(float(np.log(mass.sum())), float(mean), float(np.sqrt(variance + share @ means**2 - mean**2)))


def every_fifth(step: Array, ess: Array) -> Array:
    """The schedule of public diffusion code: every fifth step of the middle, if half of the population is lost."""
    return (step % 5 == 0) & (ess < 0.5)


RULES = {
    "difference, ESS-triggered": ("difference", smc.Resampler("ess", None)),
    "difference, every fifth step": ("difference", smc.Resampler(every_fifth, None)),
    "max, ESS-triggered": ("max", smc.Resampler("ess", None)),
    "sum, ESS-triggered": ("sum", smc.Resampler("ess", None)),
    "final only": ("final", smc.Resampler("never", None)),
}


class Row(NamedTuple):
    """Many runs: error of E[x0], and the mean of Z^ / Z with its standard error."""

    rmse: float
    mean: float
    ratio: float
    ratio_error: float


def measure(mode: str, rule: Any, num_particles: int, runs: int, seed: int) -> Row:
    """Repeated runs of one setting, all at once."""
    potential, truth = smc.Potential("exp", mode), exact()

    def one(key: Array) -> tuple[Array, Array]:
        run = smc.steer(
            box(), key, num_particles=num_particles, max_steps=STEPS, potential=potential, rule=rule, history=False
        )
        return run.weights @ run.states.x, run.log_evidence

    means, log_z = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), runs))
    ratio = np.exp(np.asarray(log_z) - truth.log_evidence)
    rmse = float(np.sqrt(np.mean((np.asarray(means) - truth.mean) ** 2)))
    return Row(rmse, float(np.mean(means)), float(ratio.mean()), float(ratio.std(ddof=1) / np.sqrt(runs)))


def figure(path: pathlib.Path, seed: int) -> None:
    """Paths of one steered population, and the steered law beside the exact one."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import ESTIMATE, MUTED, TRUTH, style

    run = smc.steer(
        box(),
        seed,
        num_particles=2000,
        max_steps=STEPS,
        potential=smc.Potential("exp", "difference"),
        rule=smc.Resampler("ess", None),
    )
    paths = np.asarray(run.trajectories().x)
    grid = np.linspace(-4, 4, 400)
    prior = sum(
        w * np.exp(-((grid - m) ** 2) / (2 * VARIANCE)) / np.sqrt(2 * np.pi * VARIANCE)
        for w, m in zip(WEIGHTS, MEANS, strict=True)
    )
    steered = prior * np.exp(-((grid - REWARD_CENTRE) ** 2) / (2 * REWARD_VARIANCE) - exact().log_evidence)
    with style():
        fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2))
        left.plot(np.arange(STEPS), paths[:, :60], color=ESTIMATE, alpha=0.25, linewidth=0.8)
        left.set(xlabel="reverse step", ylabel="x", title="paths of one population (60 of 2,000)")
        right.plot(grid, prior, color=MUTED, label="unsteered")
        right.plot(grid, steered, color=TRUTH, label="steered, exact")
        final = np.asarray(run.states.x)
        right.hist(
            final, bins=60, weights=np.asarray(run.weights), density=True, color=ESTIMATE, alpha=0.4, label="particles"
        )
        right.set(xlabel="x0", ylabel="density", title="clean samples")
        right.legend(fontsize="small")
        fig.savefig(path)


def main(argv: Sequence[str] | None = None) -> dict[str, Row]:
    """Print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--num-particles", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("steering_diffusion"))
    args = parser.parse_args(argv)
    truth = exact()
    print(f"exact: log Z {truth.log_evidence:.6f}, E[x0] {truth.mean:.6f}, sd {truth.sd:.6f}")
    rows = {}
    for name, (mode, rule) in RULES.items():
        rows[name] = row = measure(mode, rule, args.num_particles, args.runs, args.seed)
        print(f"{name:30} rmse {row.rmse:.3f}  mean {row.mean:.3f}  Z^/Z {row.ratio:.3f} +- {row.ratio_error:.3f}")
    args.out.mkdir(parents=True, exist_ok=True)
    figure(args.out / "diffusion.png", args.seed)
    print(f"picture: {args.out / 'diffusion.png'}")
    return rows


if __name__ == "__main__":
    main()
