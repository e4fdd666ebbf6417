"""How good is the best of k answers? Formulas of a solvable model beside the library's own best-of-k and softmax picks.

    python -m examples.steering_best_of_k [--runs 20000] [--seed 0] [--out FOLDER]

A generator answers y ~ N(m, s^2), the truth is y_T, and the judge's reward is -(y - y_R)^2. With a perfect judge the
error of best-of-k falls like 1 / k^2; with a misled judge there is a best number of answers, and a best temperature.
Each point is a mean over runs of `smc.best_of_n`: the largest weight is best-of-k, a draw by the weights is softmax
selection.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import smc
from examples import steering_selection_model as model


class Estimate(NamedTuple):
    """A mean over runs with its standard error."""

    mean: float
    error: float


@eqx.filter_jit
def _picks(a: Array, b: Array, s: Array, temperature: Array, k: int, is_softmax: bool, keys: Array) -> Array:
    """Squared errors of the picks of many runs; answers are measured from y_T."""

    def propose(states: Array, keys: Array) -> Array:
        del states
        return a + s * jax.vmap(jax.random.normal)(keys)

    def score(states: Array) -> Array:
        return -((states - (a - b)) ** 2) / temperature

    box = smc.BlackBox(jnp.zeros(()), propose, score)

    def one(key: Array) -> Array:
        key_run, key_pick = jax.random.split(key)
        run = smc.best_of_n(
            box, key_run, num_samples=k, max_steps=1, potential=smc.Potential("exp", "final"), history=False
        )
        index = jax.random.categorical(key_pick, run.log_weights) if is_softmax else jnp.argmax(run.log_weights)
        return run.states[index] ** 2

    return jax.vmap(one)(keys)


def sampled(a: float, b: float, s: float, k: int, temperature: float | None, runs: int, seed: int) -> Estimate:
    """The error by the library's sampler; temperature None is best-of-k."""
    is_softmax = temperature is not None
    at, off, spread, heat = (jnp.asarray(float(v)) for v in (a, b, s, temperature if is_softmax else 1.0))
    keys = jax.random.split(jax.random.key(seed), runs)
    found = np.asarray(_picks(at, off, spread, heat, k, is_softmax, keys))
    return Estimate(float(found.mean()), float(found.std(ddof=1) / np.sqrt(runs)))


class Point(NamedTuple):
    """One setting: the formula and the sampler."""

    panel: str
    x: float
    exact: float
    found: Estimate


NUMBERS = (1, 2, 3, 4, 6, 8, 16, 32, 64)
TEMPERATURES = (0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0)


def points(runs: int, seed: int) -> list[Point]:
    """All points of the figure that are sampled."""
    found = []
    for k in NUMBERS:
        for panel, a, offset in (
            ("perfect judge", 0.3, 0.0),
            ("judge off by 0.8", 0.3, 0.8),
            ("judge beyond the truth", -0.5, 0.95),
        ):
            b = a - offset
            exact = model.best_of_k(a, b, 1.0, k)
            found.append(Point(panel, k, exact, sampled(a, b, 1.0, k, None, runs, seed)))
    for temperature in TEMPERATURES:
        for panel, b in (("k = 8, perfect judge", 1.0), ("k = 8, judge off by -1", 2.0)):
            exact = model.softmax_of_k(1.0, b, 1.0, 8, temperature)
            found.append(Point(panel, temperature, exact, sampled(1.0, b, 1.0, 8, temperature, runs, seed)))
    return found


def trained_curves(seed: int, points: int = 400) -> dict[str, np.ndarray]:
    """The source's finite-temperature setting: n = 10,000, d = 10, judges that overcorrect 5, 10 and 15 times."""
    sigma, gamma = 1e-4, 1e-3
    data = model.trained(np.random.default_rng(seed), 10_000, 10, S=1.0, sigma=sigma, gamma=gamma, points=points)
    temperature = 10 * 2 * sigma**2
    a, s = data["mean"] - data["truth"], np.sqrt(data["variance"])
    curves = {}
    for c in (5, 10, 15):
        b = a * (1 + c)  # y_R = y_T - c (m - y_T)
        curves[f"c = {c}"] = (
            np.array(
                [
                    np.mean(
                        [model.weak_selection(ai, bi, si, k, temperature) for ai, bi, si in zip(a, b, s, strict=True)]
                    )
                    for k in range(1, 100)
                ]
            )
            / sigma**2
        )
    return curves


def averaged(tau: float, k: int, nodes: int = 16) -> float:
    """Error of best-of-k over prompts with a ~ N(0, 0.48^2), y_R - y_T ~ N(0, tau^2)."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    return float(
        sum(
            wi * wj * model.best_of_k(0.48 * zi, 0.48 * zi - tau * zj, 1.0, k)
            for zi, wi in zip(z, w, strict=True)
            for zj, wj in zip(z, w, strict=True)
        )
    )


def figure(path: pathlib.Path, found: list[Point], seed: int, ks: Sequence[int]) -> None:
    """Scaling, finite best k, best temperature, and the source's setting."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import CYCLE, MUTED, style

    with style():
        fig, axes = plt.subplots(2, 2, figsize=(9, 6.4))

        def dots(ax, panels):
            for colour, panel in zip(CYCLE, panels, strict=False):
                rows = [p for p in found if p.panel == panel]
                x, y = [p.x for p in rows], [p.exact for p in rows]
                ax.plot(x, y, color=colour, label=panel)
                ax.errorbar(
                    x,
                    [p.found.mean for p in rows],
                    [2 * p.found.error for p in rows],
                    fmt="o",
                    markersize=3,
                    color=colour,
                )

        one, two, three, four = axes.ravel()
        dots(one, ["perfect judge", "judge off by 0.8", "judge beyond the truth"])
        k = np.array([4.0, 64.0])
        one.plot(k, model.best_of_k_limit(0.3, 1.0) / k**2, ":", color=MUTED, label="limit / k²")
        one.set(
            xscale="log",
            yscale="log",
            xlabel="answers k",
            ylabel="squared error",
            title="best of k (dots: sampled, 2 standard errors)",
        )
        for tau, colour in zip((0.4, 0.6, 0.95), CYCLE, strict=False):
            curve = [averaged(tau, k) for k in ks]
            two.plot(ks, curve, color=colour, label=f"judge's spread {tau:g}")
            two.plot(ks[int(np.argmin(curve))], min(curve), "o", color=colour)
            two.axhline(tau**2, color=colour, linestyle=":", linewidth=0.8)
        two.set(
            xscale="log",
            xlabel="answers k",
            ylabel="squared error",
            title="over prompts: dot best k, dotted floor",
            ylim=(0, 1.3),
        )
        dots(three, ["k = 8, perfect judge", "k = 8, judge off by -1"])
        three.set(xscale="log", xlabel="temperature T", ylabel="squared error", title="softmax selection of 8 answers")
        for (name, curve), colour in zip(trained_curves(seed).items(), CYCLE, strict=False):
            four.plot(np.arange(1, 100), curve, color=colour, label=name)
        four.set(xlabel="answers k", ylabel="squared error / σ²", title="trained model: y_R = y_T - c (m - y_T)")
        for ax in axes.ravel():
            ax.legend(fontsize="x-small")
        fig.savefig(path)


def main(argv: Sequence[str] | None = None) -> list[Point]:
    """Print formula beside sampler, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("steering_best_of_k"))
    args = parser.parse_args(argv)
    found = points(args.runs, args.seed)
    for p in found:
        print(f"{p.panel:24} {p.x:6g}: formula {p.exact:.6f}, sampled {p.found.mean:.6f} +- {p.found.error:.6f}")
    args.out.mkdir(parents=True, exist_ok=True)
    figure(args.out / "best_of_k.png", found, args.seed, args.ks)
    print(f"picture: {args.out / 'best_of_k.png'}")
    return found


if __name__ == "__main__":
    main()
