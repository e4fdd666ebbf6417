"""Makes the images of docs/pictures.md from small runs.

    python -m docs.make_gallery --out docs/images

Under a minute on two cores.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot
import numpy as np
import numpyro.distributions as dist
from PIL import Image

import probinf as pi
import smc
from probinf import predictive_coding as hgf
from probinf.validity.samplers import Chains

matplotlib.use("Agg")
_DPI = 80


@pi.model
def schools(error: Any, effect: Any) -> None:
    """Eight schools (Rubin 1981)."""
    mean = pi.sample("mean", dist.Normal(0.0, 10.0))
    spread = pi.sample("spread", dist.HalfCauchy(5.0))
    with pi.plate("school", len(effect)):
        offset = pi.sample("offset", dist.Normal(0.0, 1.0))
        true_effect = pi.deterministic("true_effect", mean + spread * offset)
        pi.sample("effect", dist.Normal(true_effect, error), obs=effect)


EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pi.model
def local_level(num: int) -> Any:
    """A level that drifts, seen with noise."""
    drift = pi.sample("drift", dist.HalfNormal(1.0))
    noise = pi.sample("noise", dist.HalfNormal(1.0))

    def step(level: jax.Array, _: Any) -> tuple[jax.Array, None]:
        level = pi.sample("level", dist.Normal(level, drift))
        pi.sample("y", dist.Normal(level, noise))
        return level, None

    return jax.lax.scan(step, 0.0, length=num)[0]


class Level(smc.StateSpaceModel):
    """The same with known noise, for particle filters."""

    def initial(self) -> Any:
        return dist.Normal(0.0, 1.0)

    def transition(self, t: Any, x: Any) -> Any:
        return dist.Normal(x, 0.5)

    def observation(self, t: Any, x: Any) -> Any:
        return dist.Normal(x, 1.0)


@pi.model
def mean_and_scale() -> None:
    """Mean and scale of three numbers."""
    mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    scale = pi.sample("scale", dist.LogNormal(0.0, 0.5))
    pi.sample("y", dist.Normal(mean, scale).expand([3]).to_event(1))


def posterior_of_schools(out: Path, seed: int) -> None:
    """Trace, ranks, marginal and pairs of one posterior."""
    posterior = pi.infer(schools(ERROR, EFFECT), pi.NUTS(target_acceptance=0.95), seed=seed)
    diverging = posterior.sample_stats["diverging"]
    _save(pi.plots.plot_trace(posterior["spread"], name="spread", diverging=diverging), out, "trace")
    _save(pi.plots.plot_rank(posterior["spread"], name="spread"), out, "rank")
    _save(
        pi.plots.plot_marginal(posterior["true_effect"][..., 0], name="effect of school A", unit="points"),
        out,
        "marginal",
    )
    shown = {name: posterior[name] for name in ("mean", "spread")} | {"offset A": posterior["offset"][..., 0]}
    _save(pi.plots.plot_pairs(shown, diverging=diverging)[0, 0], out, "pairs")


def weighted_posterior(out: Path, seed: int) -> None:
    """The marginal of weighted draws, and the mixture fitted to them."""
    program = mean_and_scale().given(y=np.array([0.4, 1.9, 2.6]))
    posterior = pi.infer(program, smc.SMC(num_particles=2000), seed=seed)
    _save(pi.plots.plot_marginal(posterior["mean"], log_weights=posterior.log_weights, name="mean"), out, "weighted")
    mixture = posterior.as_mixture(3)
    _save(pi.plots.plot_mixture(mixture, names=("mean", "scale")), out, "mixture")
    points, _ = posterior.matrix()
    flat = None if posterior.log_weights is None else posterior.log_weights.reshape(-1)
    _save(pi.plots.plot_cloud(points[:1500], log_weights=None if flat is None else flat[:1500], mixture=mixture,
                              names=("mean", "scale")), out, "cloud")  # fmt: skip


def filters(out: Path, seed: int) -> None:
    """Filtered bands against the truth, the family tree, sample sizes and evidence of several runs."""
    model = Level()
    states, values = model.simulate(seed, 100)
    run = smc.particle_filter(model, values, key=seed, num_particles=1000)
    times = np.arange(100.0)
    _save(
        pi.plots.plot_band(
            times, mean=run.mean, sd=jnp.sqrt(run.variance), truth=states, observations=values, name="level"
        ),
        out,
        "band",
    )
    few = smc.particle_filter(model, values[:40], key=seed, num_particles=25, history=True)
    _save(pi.plots.plot_genealogy(few.history, few.history.particles, name="level"), out, "genealogy")
    runs = {
        f"{n} particles": [smc.particle_filter(model, values, key=k, num_particles=n) for k in range(5)]
        for n in (100, 1000)
    }
    _save(pi.plots.plot_ess(times, {name: np.stack([r.ess for r in many]) for name, many in runs.items()}), out, "ess")
    exact = _kalman_log_evidence(np.asarray(values))
    totals = {name: np.stack([np.cumsum(r.log_increments) for r in many]) for name, many in runs.items()}
    _save(pi.plots.plot_log_evidence(times, totals, reference=exact), out, "log_evidence")
    both = pi.plots.plot_ess_and_evidence(
        times, run.ess, np.cumsum(run.log_increments), num_particles=1000, threshold=500.0
    )
    _save(both[0], out, "ess_and_evidence")


def walk(out: Path, seed: int) -> None:
    """A track in the plane from bearings and ranges, by an extended Kalman filter."""
    system = pi.System(
        prior=dist.MultivariateNormal(jnp.array([0.0, 0.0, 1.0, 0.5]), 0.1 * jnp.eye(4)),
        move=_walk,
        see={"range": lambda x, beacon: dist.Normal(jnp.linalg.norm(x[:2] - beacon), 0.3)},
    )
    rng, beacons = np.random.default_rng(seed), np.array([[2.0, 8.0], [12.0, -2.0]])
    truth, events = [np.array([0.0, 0.0, 1.0, 0.5])], []
    for k in range(1, 60):
        x = truth[-1].copy()
        x[2:] += 0.12 * rng.normal(size=2)
        x[:2] += 0.25 * x[2:]
        truth.append(x)
        beacon = beacons[k % 2]
        events.append((0.25 * k, "range", np.linalg.norm(x[:2] - beacon) + 0.3 * rng.normal(), beacon))
    run = system.filter(smc.EKF()).run(pi.Log(events), t0=0.0)
    track = np.array(truth)[:, :2]
    _save(pi.plots.plot_track(run.means[:, :2], run.covs[:, :2, :2], truth=track, landmarks=beacons), out, "track")


def calibration(out: Path, seed: int) -> None:
    """Ranks of a sampler that is right and of one that is stopped too early; coverage of a posterior too narrow."""
    program = mean_and_scale().given(y=jnp.zeros(3))
    kernel = pi.random_walk(0.5)
    settings: dict[str, Any] = {"num_chains": 31, "values": ("mean", "scale")}
    right = pi.sbc(program, Chains(kernel, num_steps=24, start="truth", **settings), seed=seed)
    early = pi.sbc(program, Chains(kernel, num_steps=2, start="prior", **settings), seed=seed)
    _save(pi.plots.plot_rank_histogram(early.ranks["log joint"], name="log joint density"), out, "rank_histogram")
    ax = pi.plots.plot_rank_ecdf(right.ranks["log joint"], name="log joint density", label="from the truth and back")
    _save(
        pi.plots.plot_rank_ecdf(
            early.ranks["log joint"], name="log joint density", label="2 steps", color="#D55E00", ax=ax
        ),
        out,
        "rank_ecdf",
    )
    rng = np.random.default_rng(seed)
    truths = rng.normal(size=(500, 2))
    data = truths + rng.normal(size=(500, 2))
    references = rng.normal(size=(500, 2))
    ax = None
    for sd, label, color in ((np.sqrt(0.5), "right", "#0072B2"), (0.5, "too narrow", "#D55E00")):
        draws = data[:, None] / 2.0 + sd * rng.normal(size=(500, 200, 2))
        levels = pi.plots.tarp_levels(draws, truths, references)
        ax = pi.plots.plot_coverage(levels, label=label, color=color, ax=ax)
    assert ax is not None
    _save(ax, out, "coverage")


def forgetting(out: Path, seed: int) -> None:
    """Softmax regression, trained on five tasks of two classes one after the other: it forgets."""
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(10, 8))
    x = centres[:, None] + rng.normal(size=(10, 200, 8))
    weights, accuracy = np.zeros((9, 10)), np.zeros((5, 5))
    inputs = np.concatenate([x, np.ones((10, 200, 1))], axis=2)
    for task in range(5):
        classes = np.array([2 * task, 2 * task + 1])
        for _ in range(60):
            for c in classes:
                scores = inputs[c, :100] @ weights
                share = np.exp(scores - scores.max(axis=1, keepdims=True))
                share /= share.sum(axis=1, keepdims=True)
                weights -= 0.002 * inputs[c, :100].T @ (share - np.eye(10)[c])
        right = [np.mean(np.argmax(inputs[c, 100:] @ weights, axis=1) == c) for c in range(10)]
        accuracy[task] = np.reshape(right, (5, 2)).mean(axis=1)
    _save(pi.plots.plot_accuracy_matrix(accuracy), out, "accuracy_matrix")


def networks(out: Path, seed: int) -> None:
    """A network that learns how fast its input changes: its graph, and its beliefs about a simulated series."""
    network = hgf.continuous_hgf(2, tonic_volatility=-3.0).replace({"x2.tonic_volatility": -2.0})
    rng = np.random.default_rng(seed)
    log_volatility = np.where((np.arange(200) // 50) % 2 == 0, -6.0, 0.0)
    level = np.cumsum(np.exp(0.5 * log_volatility) * rng.normal(size=200))
    run = network.filter(level + rng.normal(size=200))
    _save(hgf.plot_network(network), out, "network")
    _save(hgf.plot_beliefs(run, truth={"x1": level})[0], out, "network_beliefs")


def programs(out: Path, seed: int) -> None:
    """Two programs as pictures."""
    _save(pi.plots.plot_program(schools(ERROR, EFFECT)), out, "program_schools")
    _save(pi.plots.plot_program(local_level(100).given(y=np.zeros(100))), out, "program_level")


def _walk(x: jax.Array, dt: jax.Array) -> dist.Distribution:
    noise = jnp.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    return dist.MultivariateNormal(jnp.concatenate([x[:2] + dt * x[2:], x[2:]]), 0.06 * jnp.kron(noise, jnp.eye(2)))


def _kalman_log_evidence(values: np.ndarray) -> np.ndarray:
    """Accumulated log evidence of `Level`, exact."""
    mean, variance, found = 0.0, 1.0, []
    for value in values.astype(float):
        spread = variance + 1.0
        found.append(-0.5 * (np.log(2 * np.pi * spread) + (value - mean) ** 2 / spread))
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance + 0.25
    return np.cumsum(found)


def _save(ax: Any, out: Path, name: str) -> None:
    figure = ax.get_figure(root=True)
    with io.BytesIO() as raw:
        figure.savefig(raw, dpi=_DPI)
        image = Image.open(raw).convert("RGB").quantize(64)  # a quarter of the size
    image.save(out / f"{name}.png", optimize=True)
    matplotlib.pyplot.close(figure)


PARTS: tuple[Callable[[Path, int], None], ...] = (
    posterior_of_schools, weighted_posterior, filters, walk, calibration, forgetting, networks, programs,
)  # fmt: skip


def main() -> None:
    """Make all images, or those of some parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="PART", help=", ".join(part.__name__ for part in PARTS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if args.only is None or part.__name__ in args.only:
            part(args.out, args.seed)


if __name__ == "__main__":
    main()
