"""How many components does a mixture have? Galaxies, an enzyme, and the acidity of lakes.

Normal mixtures with an unknown number of components (Richardson & Green 1997), by reversible jump: births and deaths,
splits and merges, and moves within a mixture. Allocations are summed out. The posterior of the number of components is
compared with that of another algorithm, run for a long time.

    python -m examples.richardson_green --out richardson_green

Data and reference: see examples/data/mixtures/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from examples.jump_chains import Chains, mean_and_error, number_table, run_chains
from examples.mixture_moves import INDEX, MOST, State, sampler, target

DATA = pathlib.Path(__file__).parent / "data" / "mixtures"
SETS = {
    "galaxy": ("galaxy_velocities.csv", "velocity_rg1997", "velocity, 1000 km/s"),
    "enzyme": ("enzyme_activity.csv", "activity", "enzyme activity"),
    "acidity": ("lake_acidity.csv", "log_anc", "log acidity index"),
}


def read(name: str) -> np.ndarray:
    """One data set: "galaxy", "enzyme" or "acidity"."""
    file, column, _ = SETS[name]
    return np.genfromtxt(DATA / file, delimiter=",", names=True)[column]


def reference(name: str) -> dict[str, Any]:
    """The posterior of k by the other algorithm, with its standard errors."""
    return json.loads((DATA / "mixtures_richardson_green1997.json").read_text())["data_sets"][name]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much work the demonstration does."""

    num_chains: int = 128
    num_records: int = 800
    num_warmup: int = 100
    thin: int = 20

    @staticmethod
    def quick() -> Sizes:
        """Sizes for a smoke test: the numbers mean little."""
        return Sizes(num_chains=16, num_records=20, num_warmup=10, thin=4)


def starts(y: np.ndarray, num_chains: int, seed: int) -> State:
    """Over-dispersed starting points: 1 to 8 components about data points."""
    rng = np.random.default_rng(seed)
    k = rng.integers(1, 9, num_chains)
    alive = k[:, None] > INDEX
    shape = (num_chains, MOST)
    variance = np.exp(rng.normal(np.log(np.var(y) / 4), 0.5, shape))
    return {
        "k": k,
        "g": np.where(alive, rng.exponential(1.0, shape), 0.0),
        "mean": np.where(alive, rng.choice(y, shape) + rng.normal(0, 0.1 * np.std(y), shape), 0.0),
        "variance": np.where(alive, variance, 1.0),
        "beta": np.full(num_chains, np.var(y) / 4),
    }


def see(grid: np.ndarray) -> Any:
    """What to keep of a state: the number of components and the density on a grid."""

    def look(x: State) -> dict[str, jax.Array]:
        alive = jnp.asarray(INDEX) < x["k"]
        weight = jnp.where(alive, x["g"], 0.0) / jnp.sum(jnp.where(alive, x["g"], 0.0))
        each = dist.Normal(x["mean"], jnp.sqrt(x["variance"])).log_prob(jnp.asarray(grid)[:, None])
        return {"k": x["k"], "density": jnp.exp(logsumexp(each, b=weight, axis=1))}

    return look


class Fit(NamedTuple):
    """What the chains say of one data set."""

    name: str
    share: np.ndarray
    error: np.ndarray
    reference: np.ndarray
    reference_error: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    chains: Chains

    @property
    def worst(self) -> float:
        """Largest difference of p(k given y) from the reference."""
        return float(np.abs(self.share - self.reference).max())


def fit(name: str, sizes: Sizes, seed: int) -> Fit:
    """One data set."""
    y, known = read(name), reference(name)
    margin = 0.12 * np.ptp(y)
    grid = np.linspace(y.min() - margin, y.max() + margin, 200)
    chains = run_chains(
        sampler(y),
        target(y),
        jax.tree.map(jnp.asarray, starts(y, sizes.num_chains, seed)),
        see(grid),
        num_records=sizes.num_records,
        num_warmup=sizes.num_warmup,
        thin=sizes.thin,
        seed=seed,
    )
    share, error = number_table(chains.records["k"], MOST)
    table = [
        [known[part].get(str(k), 0.0) for k in range(MOST + 1)]
        for part in ("posterior_k", "monte_carlo_standard_error")
    ]
    density, _ = mean_and_error(chains.records["density"])
    return Fit(name, share, error, *map(np.asarray, table), grid, density, chains)


def run(sizes: Sizes, seed: int, names: Sequence[str] = tuple(SETS)) -> list[Fit]:
    """The whole demonstration, without files."""
    return [fit(name, sizes, seed) for name in names]


def report(fits: list[Fit]) -> str:
    """The tables, as text."""
    lines = []
    for one in fits:
        records, chains = one.chains.records["k"].shape
        lines += [
            f"{one.name}: {chains} chains, {records} states kept of each; {100 * one.chains.accepted:.0f} % of moves "
            f"accepted; compiled in {one.chains.compile_seconds:.1f} s, ran in {one.chains.run_seconds:.1f} s",
            f"{'k':>4}{'reference':>11}{'± s.e.':>9}{'found':>9}{'± s.e.':>9}{'apart, s.e.':>13}",
        ]
        for k in range(1, 13):
            both = float(np.hypot(one.error[k], one.reference_error[k]))
            apart = abs(one.share[k] - one.reference[k]) / both if both > 0 else 0.0
            lines.append(
                f"{k:>4}{one.reference[k]:>11.4f}{one.reference_error[k]:>9.4f}{one.share[k]:>9.4f}{one.error[k]:>9.4f}"
                f"{apart:>13.1f}"
            )
        lines += [f"largest difference of p(k given y): {one.worst:.4f}", ""]
    return "\n".join(lines)


def figures(fits: list[Fit], out: pathlib.Path) -> list[pathlib.Path]:
    """Draw and save the picture; its path."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import style

    with style():
        figure, axes = plt.subplots(2, len(fits), figsize=(4 * len(fits), 6), layout="constrained", squeeze=False)
        for (top, bottom), one in zip(axes.T, fits, strict=True):
            k = np.arange(1, 15)
            top.bar(k, one.share[k], width=0.7, color="#1f6f8b", alpha=0.75, label="reversible jump, ± 2 s.e.")
            top.errorbar(k, one.share[k], 2 * one.error[k], fmt="none", ecolor="black", capsize=2)
            top.plot(k, one.reference[k], "o", ms=4, color="#d1713a", label="partition sampler")
            top.set_title(one.name)
            top.set_ylim(bottom=0)
            top.set_xlabel("number of components k")
            y = read(one.name)
            bottom.hist(y, bins=30, density=True, color="0.8", label="data")
            bottom.plot(one.grid, one.density, color="#1f6f8b", label="predictive density")
            bottom.set_xlabel(SETS[one.name][2])
        axes[0, 0].set_ylabel("p(k given y)")
        axes[1, 0].set_ylabel("density")
        axes[0, 0].legend()
        axes[1, 0].legend()
        path = out / "number_of_components.png"
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return [path]


def main(argv: list[str] | None = None) -> list[Fit]:
    """Run, print the tables, save the pictures and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("richardson_green"), help="folder for pictures"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=tuple(SETS), default=tuple(SETS), help="data sets")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few chains, few steps")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    fits = run(Sizes.quick() if args.quick else Sizes(), args.seed, args.only)
    print(report(fits))
    print("Pictures:")
    for path in figures(fits, args.out):
        print(f"  {path}")
    return fits


if __name__ == "__main__":
    main()
