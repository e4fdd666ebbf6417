r"""A task with few observations is overwritten by one with many: exact Bayes under task imbalance, and two repairs.

    python -m examples.continual_imbalance [--draws N] [--out FOLDER]

Task 1 has 100 observations around -1, task 2 has 1 to 10,000 around +1, noise 0.1. Under one static mean with a flat
prior the posterior is at $(N_1\bar y_1 + N_2\bar y_2)/(N_1 + N_2)$, so its distance from task 1 is $N_2/(N_1 + N_2)$
of that between the tasks. Repairs: a likelihood with power $\bar N/N_t$, which weighs tasks equally (that is another
model, not exact Bayes in this one), and a mean for each task, which keeps both. For Bayesian linear regression on two
ranges of the input the effect is there only as far as the features of the two overlap.

The setting is that of Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 5.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

import numpy as np

MEANS = (-1.0, 1.0)
NOISE = 0.1
COUNTS = ((100, 1), (100, 10), (100, 100), (100, 1000), (100, 10_000))
_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


class Posterior(NamedTuple):
    """Means and standard deviations of the mean that predicts each task, (tasks,)."""

    mean: np.ndarray
    sd: np.ndarray


class Scores(NamedTuple):
    """Means over draws of the data, each (counts, tasks).

    Attributes:
        error: squared error of the posterior mean as estimate of the task's mean.
        log_score: expected log density of a new observation of the task, nats.
        coverage: share of draws whose 95 % interval holds the task's mean.
    """

    error: np.ndarray
    log_score: np.ndarray
    coverage: np.ndarray


def static(sums: np.ndarray, counts: np.ndarray) -> Posterior:
    """One mean for all tasks, flat prior: the pooled mean."""
    total = counts.sum()
    return Posterior(np.full(len(counts), sums.sum() / total), np.full(len(counts), NOISE / total**0.5))


def balanced(sums: np.ndarray, counts: np.ndarray) -> Posterior:
    """One mean, the likelihood of task t to the power (mean count) / (count of t): every task has the same weight."""
    average = counts.mean()
    return static(sums * average / counts, np.full(len(counts), average))


def separate(sums: np.ndarray, counts: np.ndarray, spread: float = 1.0) -> Posterior:
    r"""A mean for each task, $\theta_t \sim N(m, \text{spread}^2)$, with a flat prior of m."""
    within = NOISE**2 / counts
    weights = 1 / (spread**2 + within)
    centre = np.sum(weights * sums / counts) / weights.sum()
    keep = spread**2 / (spread**2 + within)  # of the task's own mean
    mean = keep * sums / counts + (1 - keep) * centre
    return Posterior(mean, np.sqrt(keep * within + (1 - keep) ** 2 / weights.sum()))


MODELS = {"static mean (exact)": static, "equal task weights": balanced, "a mean for each task": separate}


def expected_error(n1: int, n2: int) -> np.ndarray:
    """Expected squared error of the static model on both tasks, in closed form."""
    total, gap = n1 + n2, MEANS[1] - MEANS[0]
    return (np.array([n2, n1]) / total * gap) ** 2 + NOISE**2 / total


def score(found: Posterior) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared error, expected log score and cover, each (tasks,)."""
    true = np.array(MEANS)
    error = (found.mean - true) ** 2
    variance = found.sd**2 + NOISE**2
    log_score = -0.5 * (np.log(2 * np.pi * variance) + (error + NOISE**2) / variance)
    return error, log_score, (np.abs(found.mean - true) <= _Z95 * found.sd).astype(float)


def run(num_draws: int, seed: int = 0) -> dict[str, Scores]:
    """Scores of every model at every pair of counts."""
    rng = np.random.default_rng(seed)
    found: dict[str, list] = {name: [] for name in MODELS}
    for pair in COUNTS:
        counts = np.array(pair)
        rows: dict[str, list] = {name: [] for name in MODELS}
        for _ in range(num_draws):
            sums = counts * np.array(MEANS) + NOISE * np.sqrt(counts) * rng.normal(size=2)  # sufficient
            for name, model in MODELS.items():
                rows[name].append(score(model(sums, counts)))
        for name, parts in rows.items():
            found[name].append(np.mean(parts, axis=0))
    return {name: Scores(*np.moveaxis(np.array(rows), 1, 0)) for name, rows in found.items()}


def regression_error(n1: int, n2: int, width: float) -> np.ndarray:
    r"""Mean squared error on both tasks of exact Bayesian regression on Gaussian bumps, without noise in the targets.

    Task 1 has inputs on a grid of (-2, -1) with target -1, task 2 of (1, 2) with target +1: the tasks do not contradict
    each other. `width` is that of the bumps: wide ones are shared by the tasks (X₁ᵀX₂ ≠ 0), narrow ones are not.
    """
    centres = np.linspace(-2, 2, 17)

    def features(x: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((x[:, None] - centres[None]) / width) ** 2)

    precision, information = np.eye(len(centres)), np.zeros(len(centres))
    grids = [np.linspace(-2, -1, 40), np.linspace(1, 2, 40)]
    for grid, count, target in zip(grids, (n1, n2), MEANS, strict=True):
        z = features(grid)
        precision += count / len(grid) * z.T @ z / NOISE**2
        information += count / len(grid) * target * z.sum(axis=0) / NOISE**2
    weights = np.linalg.solve(precision, information)
    return np.array([np.mean((features(g) @ weights - t) ** 2) for g, t in zip(grids, MEANS, strict=True)])


def figure(found: dict[str, Scores], path: pathlib.Path) -> None:
    """Error on task 1 as the other task grows: a mean, and a regression."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import CYCLE, MUTED, style

    ratios = np.array([n2 / n1 for n1, n2 in COUNTS])
    with style():
        _, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
        for colour, (name, scores) in zip(CYCLE, found.items(), strict=False):
            axes[0].plot(ratios, scores.error[:, 0], "o-", ms=4, color=colour, label=f"{name}: task 1")
            axes[0].plot(ratios, scores.error[:, 1], "o:", ms=3, color=colour, label="task 2")
        closed = [expected_error(*pair)[0] for pair in COUNTS]
        axes[0].plot(ratios, closed, "x", ms=8, color=MUTED, label="static, closed form")
        for colour, width in zip(CYCLE, (4.0, 1.0, 0.2), strict=False):
            errors = [regression_error(*pair, width)[0] for pair in COUNTS]
            axes[1].plot(ratios, errors, "o-", ms=4, color=colour, label=f"bumps of width {width:g}")
        axes[0].set(title="One number: exact Bayes and two repairs", ylabel="expected squared error")
        axes[1].set(title="Regression on two input ranges: task 1", ylabel="squared error of the mean")
        for ax in axes:
            ax.set(xscale="log", yscale="log", xlabel="observations of task 2 for each of task 1")
        axes[0].set_ylim(bottom=1e-8)
        axes[0].legend(fontsize=7, loc="lower left", ncols=2)
        axes[1].legend(fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        plt.savefig(path)


def main(argv: list[str] | None = None) -> dict[str, Scores]:
    """Run, print, save the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="draws of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    found = run(args.draws, args.seed)
    print("counts           squared error on task 1, 2      log score          coverage of 95 % intervals")
    for name, scores in found.items():
        print(name)
        for i, (n1, n2) in enumerate(COUNTS):
            error, log_score, coverage = scores.error[i], scores.log_score[i], scores.coverage[i]
            print(f"  {n1:>4} {n2:>6}    {error[0]:12.6f} {error[1]:12.6f}", end="")
            print(f"   {log_score[0]:9.2f} {log_score[1]:9.2f}   {coverage[0]:.3f} {coverage[1]:.3f}", end="")
            closed = expected_error(n1, n2) if name == next(iter(MODELS)) else None
            print("" if closed is None else f"   closed form {closed[0]:.6f} {closed[1]:.6f}")
    path = args.out / "continual_imbalance.png"
    figure(found, path)
    print(f"Picture: {path}")
    return found


if __name__ == "__main__":
    main()
