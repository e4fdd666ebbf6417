r"""Exact inference in a wrong model forgets: one static mean for two tasks, and three repairs, all in closed form.

    python -m examples.continual_wrong_model [--num N] [--out FOLDER]

Task 1 has N observations around -1, task 2 has N around +1, with noise 0.1. The model says that all have one mean θ.
Its posterior is exact at every step and ends at the pooled mean, 0, certain of a value at which no observation ever
lay. On the same data: a random walk of the mean (follows the last task; smoothing finds the first again), a mean for
each task with a shared hyper-mean (keeps both), and a mixture of two means with unknown task (keeps both and finds the
task).

The setting is that of Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 4.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

import numpy as np

MEANS = (-1.0, 1.0)
NOISE = 0.1
PRIOR_MEAN, PRIOR_SD = 0.0, 1.0
WALK_SD = 0.1  # standard deviation of a step of the random walk


class Filtered(NamedTuple):
    """Mean and standard deviation of θ after each observation, each (observations,)."""

    mean: np.ndarray
    sd: np.ndarray


class Result(NamedTuple):
    """The data, and what each model makes of them."""

    y: np.ndarray
    static: Filtered
    walk: Filtered
    smoothed: Filtered
    tasks: np.ndarray  # hierarchical posterior means of the two tasks
    tasks_sd: np.ndarray
    centres: np.ndarray  # of the mixture
    responsibilities: np.ndarray  # probability that each observation is of the second centre


def pooled(y: np.ndarray, prior_mean: float = PRIOR_MEAN, prior_sd: float = PRIOR_SD) -> tuple[float, float]:
    """Posterior mean and standard deviation of a static mean given all observations at once."""
    precision = 1 / prior_sd**2 + len(y) / NOISE**2
    return (prior_mean / prior_sd**2 + y.sum() / NOISE**2) / precision, precision**-0.5


def filtered(y: np.ndarray, step_sd: float = 0.0) -> Filtered:
    """The Kalman filter of a mean that moves by N(0, step_sd²) before each observation but the first; 0: static."""
    means, sds = np.zeros(len(y)), np.zeros(len(y))
    mean, variance = PRIOR_MEAN, PRIOR_SD**2
    for n, value in enumerate(y):
        variance += step_sd**2 if n else 0.0
        gain = variance / (variance + NOISE**2)
        mean += gain * (value - mean)
        variance *= 1 - gain
        means[n], sds[n] = mean, variance**0.5
    return Filtered(means, sds)


def smoothed(found: Filtered, step_sd: float) -> Filtered:
    """Rauch-Tung-Striebel smoothing of a filtered random walk."""
    mean, variance = found.mean.copy(), found.sd**2
    for n in reversed(range(len(mean) - 1)):
        predicted = found.sd[n] ** 2 + step_sd**2
        gain = found.sd[n] ** 2 / predicted
        mean[n] += gain * (mean[n + 1] - found.mean[n])
        variance[n] += gain**2 * (variance[n + 1] - predicted)
    return Filtered(mean, variance**0.5)


def hierarchical(tasks: list[np.ndarray], spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    r"""Posterior means and sds of $\theta_t \sim N(m, s^2)$, s the spread, with $m \sim N(\mu_0, \sigma_0^2)$.

    Only sums and counts of each task are needed: they are what is kept between tasks, and the posterior is exact in any
    order of the tasks.
    """
    size = len(tasks)
    prior_cov = spread**2 * np.eye(size) + PRIOR_SD**2  # m integrated out
    counts, sums = np.array([len(y) for y in tasks]), np.array([y.sum() for y in tasks])
    precision = np.linalg.inv(prior_cov)
    cov = np.linalg.inv(precision + np.diag(counts) / NOISE**2)
    return cov @ (precision @ np.full(size, PRIOR_MEAN) + sums / NOISE**2), np.sqrt(np.diag(cov))


def mixture(y: np.ndarray, iterations: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Centres and responsibilities of two means with equal weights, by expectation maximisation; no task is told."""
    centres = np.array([y.min(), y.max()])
    second = np.zeros(len(y))
    for _ in range(iterations):
        second = 1 / (1 + np.exp(np.clip(((y - centres[1]) ** 2 - (y - centres[0]) ** 2) / (2 * NOISE**2), -700, 700)))
        centres = np.array([np.average(y, weights=1 - second), np.average(y, weights=second)])
    return centres, second


def run(num: int, seed: int = 0) -> Result:
    """All models on one draw of the data, `num` observations a task."""
    rng = np.random.default_rng(seed)
    tasks = [mean + NOISE * rng.normal(size=num) for mean in MEANS]
    y = np.concatenate(tasks)
    walk = filtered(y, WALK_SD)
    means, sds = hierarchical(tasks)
    return Result(y, filtered(y), walk, smoothed(walk, WALK_SD), means, sds, *mixture(y))


def figure(result: Result, path: pathlib.Path) -> None:
    """Observations, and what each model believes about the mean while they arrive."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import CYCLE, ESTIMATE, MUTED, SECOND, THIRD, style

    with style():
        _, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True)
        n, num = np.arange(1, len(result.y) + 1), len(result.y) // 2
        for ax in axes:
            ax.plot(n, result.y, ".", ms=2.5, color=MUTED, alpha=0.6, label="observations")
            ax.axvline(num + 0.5, color=MUTED, lw=0.8, ls=":")
            ax.set(xlabel="observations so far")
        for ax, found, colour, label in (
            (axes[0], result.static, ESTIMATE, "static mean, exact"),
            (axes[1], result.walk, SECOND, "random walk, filtered"),
            (axes[1], result.smoothed, THIRD, "random walk, smoothed"),
        ):
            ax.plot(n, found.mean, color=colour, label=label)
            ax.fill_between(n, found.mean - 2 * found.sd, found.mean + 2 * found.sd, color=colour, alpha=0.25, lw=0)
        for t, (mean, sd) in enumerate(zip(result.tasks, result.tasks_sd, strict=True)):
            span = [0.5 + t * num, 0.5 + (t + 1) * num]
            label = None if t else "a mean for each task (± 2 sd)"
            axes[1].fill_between(span, mean - 2 * sd, mean + 2 * sd, color=CYCLE[3], lw=0, alpha=0.9, label=label)
        axes[0].set(title="One mean for two tasks: the wrong model", ylabel="mean")
        axes[1].set(title="Repairs on the same data")
        for ax in axes:
            ax.legend(loc="lower right", fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        plt.savefig(path)


def main(argv: list[str] | None = None) -> Result:
    """Run, print, save the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=100, help="observations of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    result = run(args.num, args.seed)
    first, second = result.y[: args.num].mean(), result.y[args.num :].mean()
    exact = pooled(result.y)
    print(f"means of the tasks      {first:+.4f} and {second:+.4f}")
    print(f"static, after task 2    {result.static.mean[-1]:+.4f} ± {result.static.sd[-1]:.4f}", end="")
    print(f"   closed form {exact[0]:+.4f} ± {exact[1]:.4f}")
    print(f"random walk, filtered   {result.walk.mean[-1]:+.4f} ± {result.walk.sd[-1]:.4f}")
    middle = args.num // 2
    print(f"random walk, smoothed   {result.smoothed.mean[middle]:+.4f} in the middle of task 1")
    print(f"a mean for each task    {result.tasks[0]:+.4f} and {result.tasks[1]:+.4f}")
    right = np.mean((result.responsibilities > 0.5) == (np.arange(2 * args.num) >= args.num))
    print(f"mixture, task unknown   {result.centres[0]:+.4f} and {result.centres[1]:+.4f}, task right {right:.1%}")
    path = args.out / "continual_wrong_model.png"
    figure(result, path)
    print(f"Picture: {path}")
    return result


if __name__ == "__main__":
    main()
