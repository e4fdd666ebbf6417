"""Answers from a learned energy: the lowest point is one answer, the kernel library gives all of them, calibrated.

    python -m examples.steering_energy [--seed 0] [--out FOLDER]

A double well E(x, y) = (y^2 - 1)^2 / 0.3 - 0.4 x y has two sensible answers y to a question x. An energy with the
features y, y^2, y^3, y^4, x y is learned from samples by score matching, which is a linear system for such energies.
Descent on it finds one well and no uncertainty; tempered SMC with HMC moves gives the law of the answers and log Z, and
an HMC chain keeps it. All beside quadrature. (Langevin moves would do inside the wells, but in the tails of a quartic
their proposals overshoot: a chain that starts there never leaves.)
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import probinf as pi
import smc

GRID = np.linspace(-2.5, 2.5, 4001)
WIDTH = 1.5


def true_energy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The double well that the training data come from."""
    return (y**2 - 1) ** 2 / 0.3 - 0.4 * x * y


def features(x: Array, y: Array) -> Array:
    """What the learned energy is linear in, (5,)."""
    return jnp.stack([y, y**2, y**3, y**4, x * y])


def training_pairs(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions x ~ U(-3, 3) and one exact answer y for each, by inverting the distribution function."""
    x = rng.uniform(-3, 3, num)
    density = np.exp(-true_energy(x[:, None], GRID[None, ::8]))
    cumulative = np.cumsum(density, axis=1) / density.sum(axis=1, keepdims=True)
    y = np.array([np.interp(u, row, GRID[::8]) for u, row in zip(rng.random(num), cumulative, strict=True)])
    return x, y


def learn(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Score matching (Hyvarinen 2005) in closed form: minimise E[(theta f')^2 / 2 - theta f'']."""
    zero, one = np.zeros_like(y), np.ones_like(y)
    slope = np.stack([one, 2 * y, 3 * y**2, 4 * y**3, x], axis=1)
    curvature = np.stack([zero, 2 * one, 6 * y, 12 * y**2, zero], axis=1)
    return np.linalg.solve(slope.T @ slope, curvature.sum(axis=0))


def program(theta: np.ndarray, x: float) -> pi.Program:
    """The answers to one question: a wide normal as the start, and the energy as a factor."""

    def answers():
        y = pi.sample("y", dist.Normal(0.0, WIDTH))
        # The factor divides the start out again, so the program's mass is the integral of exp(-energy).
        log_start = -0.5 * (y / WIDTH) ** 2 - np.log(WIDTH * np.sqrt(2 * np.pi))
        pi.factor("energy", -jnp.asarray(theta) @ features(jnp.asarray(x), y) - log_start)

    return pi.model(answers)()


class Answers(NamedTuple):
    """One question answered.

    Attributes:
        right_well: P(y > 0) by quadrature of the learned energy, by tempered SMC, by HMC.
        log_evidence: log Z by quadrature, by tempered SMC.
        true_right_well: P(y > 0) of the energy the data came from.
        descent: where gradient descent from 8 starts ends with the lowest energy.
        draws: answers drawn by tempered SMC.
    """

    right_well: tuple[float, float, float]
    log_evidence: tuple[float, float]
    true_right_well: float
    descent: float
    draws: np.ndarray


def answer(theta: np.ndarray, x: float, seed: int, num: int) -> Answers:
    """Quadrature, descent, tempered SMC and MALA on one question."""
    energy = np.asarray(jax.vmap(lambda y: features(jnp.asarray(x), y))(jnp.asarray(GRID))) @ theta
    density, width = np.exp(-energy), GRID[1] - GRID[0]
    true = np.exp(-true_energy(np.asarray(x), GRID))

    def value(y: Array) -> Array:
        return jnp.asarray(theta) @ features(jnp.asarray(x), y)

    def descend(y: Array) -> Array:
        return jax.lax.fori_loop(0, 200, lambda _, at: at - 0.02 * jax.grad(value)(at), y)

    ends = jax.vmap(descend)(jnp.linspace(-1.5, 1.5, 8))
    posed = program(theta, x)
    tempered = pi.infer(posed, smc.TemperedSMC(num, num_runs=2), seed=seed, progress=False)
    kernel = pi.repeat(pi.hmc(0.1, 5), 4)
    chains = pi.infer(
        posed, pi.MCMC(kernel, num_draws=num, num_warmup=100, num_chains=16, values=("y",)), seed=seed, progress=False
    )
    assert tempered.log_evidence is not None
    draws = np.asarray(tempered["y"]).ravel()
    weights = (
        None if tempered.log_weights is None else np.exp(tempered.log_weights - tempered.log_weights.max()).ravel()
    )
    return Answers(
        (
            float(density[GRID > 0].sum() / density.sum()),
            float(np.average(draws > 0, weights=weights)),
            float(np.mean(np.asarray(chains["y"]) > 0)),
        ),
        (float(np.log(density.sum() * width)), float(tempered.log_evidence)),
        float(true[GRID > 0].sum() / true.sum()),
        float(ends[jnp.argmin(jax.vmap(value)(ends))]),
        draws,
    )


def figure(path: pathlib.Path, theta: np.ndarray, found: dict[float, Answers]) -> None:
    """The learned law of the answers, the draws, and the one answer of descent."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import ESTIMATE, MUTED, TRUTH, style

    with style():
        fig, ((*axes,),) = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3.2), sharey=True, squeeze=False)
        for ax, (x, a) in zip(axes, found.items(), strict=True):
            learned = np.exp(-(np.stack([GRID, GRID**2, GRID**3, GRID**4, x * GRID], axis=1) @ theta))
            true = np.exp(-true_energy(np.asarray(x), GRID))
            width = GRID[1] - GRID[0]
            ax.hist(a.draws, bins=60, range=(-2, 2), density=True, color=ESTIMATE, alpha=0.4, label="tempered SMC")
            ax.plot(GRID, learned / learned.sum() / width, color=ESTIMATE, label="learned energy")
            ax.plot(GRID, true / true.sum() / width, color=TRUTH, linestyle="--", label="true energy")
            ax.axvline(a.descent, color=MUTED, linestyle=":", label="lowest by descent")
            ax.set(xlabel="answer y", title=f"question x = {x:g}", xlim=(-2, 2))
        axes[0].set_ylabel("density")
        axes[0].legend(fontsize="x-small")
        fig.savefig(path)


def main(argv: Sequence[str] | None = None) -> dict[float, Answers]:
    """Learn, answer three questions, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, default=2000, help="particles, and draws of each chain")
    parser.add_argument("--questions", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("steering_energy"))
    args = parser.parse_args(argv)
    theta = learn(*training_pairs(np.random.default_rng(args.seed), 20_000))
    print(
        "learned energy: "
        + ", ".join(f"{t:.3f} {n}" for t, n in zip(theta, ("y", "y^2", "y^3", "y^4", "x y"), strict=True))
    )
    found = {x: answer(theta, x, args.seed, args.num) for x in args.questions}
    for x, a in found.items():
        exact, tempered, chains = a.right_well
        print(
            f"x = {x:g}: P(y > 0) quadrature {exact:.3f}, tempered SMC {tempered:.3f}, HMC {chains:.3f} (true energy "
            f"{a.true_right_well:.3f}); log Z {a.log_evidence[0]:.3f}, tempered SMC {a.log_evidence[1]:.3f}; descent "
            f"says {a.descent:.2f}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    figure(args.out / "energy.png", theta, found)
    print(f"picture: {args.out / 'energy.png'}")
    return found


if __name__ == "__main__":
    main()
