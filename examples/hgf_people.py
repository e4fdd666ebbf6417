"""Which model do people follow, and could we tell? Model comparison, model recovery and parameter recovery.

    python -m examples.hgf_people [--quick] [--subjects N] [--seed N] [--out FOLDER]

Simulated subjects watch the outcomes of a learning task (Iglesias et al. 2021) and choose. Some learn, some hold on to
what they believed at first, some forget; the evidence of each model for each subject says who is who, the confusion
matrix how far such an answer can be trusted, and a hierarchical fit how well the learners' numbers come back.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist

import probinf as pi
from probinf import predictive_coding as hgf

DATA = pathlib.Path(__file__).parent / "data" / "hgf" / "binary_learning.csv"
OMEGA, ZETA = "x2.tonic_volatility", "response.inverse_temperature"
DECISIVE = dist.LogNormal(1.0, 0.4)


class Result(NamedTuple):
    """What the pictures are drawn from."""

    models: hgf.ModelRecovery
    mixed: hgf.ModelComparison
    followed: np.ndarray
    parameters: hgf.Recovery


def models() -> dict[str, hgf.SubjectModel]:
    """Three ways to watch outcomes."""
    sigmoid, two = hgf.UnitSquareSigmoid("u"), hgf.binary_hgf(2)
    forgetful = two.replace({OMEGA: -1.0})
    return {
        "holds on": hgf.SubjectModel(
            two.replace({OMEGA: -12.0}), sigmoid, {"x2.precision": dist.LogNormal(0.0, 0.5), ZETA: DECISIVE}
        ),
        "learns": hgf.SubjectModel(two, sigmoid, {OMEGA: dist.Normal(-2.5, 0.7), ZETA: DECISIVE}),
        "forgets": hgf.SubjectModel(forgetful, sigmoid, {"x2.autoconnection": dist.Beta(4.0, 4.0), ZETA: DECISIVE}),
    }


def run(seed: int, trials: int, subjects: int, draws: int) -> Result:
    """The two studies, and one group of which most learn."""
    outcomes = np.loadtxt(DATA, delimiter=",", skiprows=1)[:trials]
    candidates = models()
    settings = {"num_particles": 256, "num_runs": 1}
    recovered = hgf.recover_models(candidates, outcomes, subjects, seed=seed, **settings)

    rng = np.random.default_rng(seed)
    followed = np.sort(rng.choice(3, subjects, p=[0.2, 0.6, 0.2]))
    keys = jax.random.split(jax.random.key(seed), len(candidates))
    told = []
    for k, model in enumerate(candidates.values()):
        count = int((followed == k).sum())
        if count:
            parts = dict(zip(model.priors, jax.random.split(keys[k], len(model.priors)), strict=True))
            truth = {a: prior.sample(parts[a], (count,)) for a, prior in model.priors.items()}
            assert model.response is not None
            told.append(hgf.simulate_responses(model.network, model.response, truth, outcomes, keys[k]))
    mixed = hgf.compare_models(candidates, outcomes, np.concatenate(told, axis=1), seed=seed, **settings)

    priors = {
        OMEGA: hgf.GroupPrior(dist.Normal(-2.5, 0.5), dist.HalfNormal(0.7)),
        ZETA: hgf.GroupPrior(dist.Normal(1.0, 0.3), dist.HalfNormal(0.4), "exp"),
    }
    method = pi.NUTS(num_warmup=draws, num_draws=draws, init=hgf.starting_values(priors, subjects))
    learner = candidates["learns"]
    assert learner.response is not None
    parameters = hgf.recover(learner.network, learner.response, priors, outcomes, subjects, method, seed=seed)
    return Result(recovered, mixed, followed, parameters)


def picture(result: Result, out: pathlib.Path) -> pathlib.Path:
    """Confusion matrix, probabilities of the mixed group, and estimates against the truth."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    names, confusion = result.models.names, result.models.confusion()
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    axes = axes.ravel()
    axes[0].imshow(confusion, cmap="Blues", vmin=0.0, vmax=1.0)
    for i, j in np.ndindex(confusion.shape):
        color = "white" if confusion[i, j] > 0.5 else "black"
        axes[0].text(j, i, f"{confusion[i, j]:.2f}", ha="center", va="center", color=color)
    axes[0].set(xticks=range(len(names)), yticks=range(len(names)), xlabel="model chosen", ylabel="model simulated")
    axes[0].set_xticklabels(names)
    axes[0].set_yticklabels(names)
    bottom, probabilities = np.zeros(len(result.followed)), result.mixed.probabilities()
    place = np.arange(len(bottom))
    for k, (name, color) in enumerate(zip(names, ("#999999", "#0072B2", "#D55E00"), strict=True)):
        axes[1].bar(place, probabilities[:, k], 1.0, bottom=bottom, color=color, label=name)
        bottom += probabilities[:, k]
    for edge in np.flatnonzero(np.diff(result.followed)) + 0.5:
        axes[1].axvline(edge, color="black", linewidth=1.0)
    axes[1].set(xlabel="subject (lines: where the simulated model changes)", ylabel="probability", ylim=(0, 1))
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)
    study = result.parameters
    labels = ("tonic volatility", "inverse temperature")
    for ax, (address, label) in zip(axes[2:], zip((OMEGA, ZETA), labels, strict=True), strict=True):
        truth, mean = study.truth[address], study.mean[address]
        error = np.abs(np.stack([mean - study.low[address], study.high[address] - mean]))
        ax.errorbar(truth, mean, error, fmt="o", markersize=3, linewidth=0.8, color="#0072B2")
        ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
        ax.plot(ends, ends, color="#D55E00", linewidth=1.0)
        ax.set(xlabel=f"true {label}", ylabel="posterior mean, 90 % interval")
    for ax in axes[1:]:
        ax.spines[["top", "right"]].set_visible(False)
    path = out / "hgf_people.png"
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def main(argv: list[str] | None = None) -> Result:
    """Run, print the tables, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, subjects and draws")
    parser.add_argument("--subjects", type=int, help="subjects of each model, and of the group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    trials, subjects, draws = (80, 10, 150) if args.quick else (320, 40, 500)
    result = run(args.seed, trials, args.subjects or subjects, draws)
    print(result.models)
    print(f"\nA group of which {[int(n) for n in np.bincount(result.followed, minlength=3)]} follow each model")
    print(result.mixed)
    print()
    print(result.parameters)
    print(f"Picture: {picture(result, args.out)}")
    return result


if __name__ == "__main__":
    main()
