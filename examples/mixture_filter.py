"""Follow a state whose sign the sensor cannot see: a trained network as a filter, beside a particle filter.

    python -m examples.mixture_filter [--quick] [--out FOLDER]

The growth model of Gordon, Salmond & Smith (1993). The belief has two peaks much of the time; the shipped network keeps
both, with eight Gaussians and some hundred microseconds a step.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import probinf as pi
import smc
import transformers_gmm as dt

GRID = np.linspace(-25.0, 25.0, 301)


class Track(NamedTuple):
    """What the picture is drawn from: densities on `GRID` after every step."""

    truth: np.ndarray
    network: np.ndarray
    particles: np.ndarray
    log_evidence: dict[str, float]


def follow(seed: int, steps: int, num_particles: int) -> Track:
    """Simulate a series and filter it twice, value by value, through one protocol."""
    shipped = dt.load("growth")
    task: Any = shipped.task
    series = task.simulate(jax.random.key(seed), 1)
    prior = jax.tree.map(lambda x: x[0], series.prior)
    there = np.isfinite(np.asarray(prior.log_weights))
    mixture = pi.GaussianMixture(
        jnp.exp(prior.log_weights[there]), prior.means[there], scale_tril=prior.scale_tril[there]
    )
    system = task.system(mixture)
    densities: dict[str, np.ndarray] = {}
    evidence: dict[str, float] = {}
    for name, method in (("network", shipped.filter_method()), ("particles", smc.ParticleFilter(num_particles))):
        tracker, rows = system.filter(method), []
        belief = tracker.start(seed, 0.0)
        for t in range(steps):
            belief = tracker.predict(belief, t + 1.0, control=series.steps.control[t, 0])
            if bool(series.steps.present["square"][t, 0]):
                belief, _ = tracker.update(belief, t + 1.0, "square", series.steps.values["square"][t, 0])
            if name == "network":
                rows.append(np.exp(np.asarray(belief.as_mixture(8).log_prob(jnp.asarray(GRID, float)[:, None]))))
            else:
                draws = np.asarray(belief.sample(jax.random.key(t), 4000))[:, 0]
                rows.append(np.histogram(draws, bins=np.append(GRID, GRID[-1] + 1 / 6), density=True)[0])
        densities[name], evidence[name] = np.array(rows), float(belief.log_evidence)
    return Track(np.asarray(series.states[:steps, 0, 0]), densities["network"], densities["particles"], evidence)


def picture(track: Track) -> Any:
    """Densities over time, darker where higher, and the truth."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, sharey=True, constrained_layout=True)
    panels = (
        ("network, 8 Gaussians", track.network),
        ("particle filter", track.particles),
    )
    for ax, (title, density) in zip(axes, panels, strict=True):
        shade = np.sqrt(density / density.max(axis=1, keepdims=True))
        steps = np.arange(1, len(density) + 1)
        ax.pcolormesh(steps, GRID, shade.T, cmap="Blues", shading="nearest", rasterized=True)
        ax.plot(steps, track.truth, ".", color="#c0392b", markersize=6, label="state")
        ax.set(title=title, ylabel="state")
    axes[0].legend(loc="upper right")
    axes[1].set_xlabel("step")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and particles")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    args = parser.parse_args()
    track = follow(args.seed, 8 if args.quick else 40, 2000 if args.quick else 50_000)
    for name, value in track.log_evidence.items():
        print(f"log evidence, {name}: {value:.2f}")
    args.out.mkdir(parents=True, exist_ok=True)
    figure = picture(track)
    figure.savefig(args.out / "mixture_filter.png", dpi=120)
    print(f"wrote {args.out / 'mixture_filter.png'}")


if __name__ == "__main__":
    main()
