"""How many times did the rate of coal-mining disasters change, and when?

191 explosions in British mines between 1851 and 1962 are a Poisson process whose rate is a step function of an unknown
number of steps (Green 1995, section 4). Reversible jump moves between step functions of different dimension: a birth
splits a step, a death merges two. The posterior is known exactly, so every number is printed beside its exact value.

    python -m examples.coal_mining --out coal_mining

Data and exact posterior: see examples/data/change_points/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln

import probinf as pi
from examples.jump_chains import Chains, mean_and_error, number_table, run_chains
from probinf.kernels.involutive import InvolutiveKernel, involutive
from probinf.kernels.kernel import Density, Kernel, cycle
from probinf.kernels.reversible_jump import reversible_jump

DATA = pathlib.Path(__file__).parent / "data" / "change_points"
LENGTH = 40907  # days: 1851-01-01 to 1962-12-31
MOST = 30  # change points
MEAN_NUMBER = 3.0  # of the Poisson prior on the number of change points, before truncation
RATE = 200.0  # days: heights are Gamma(1, RATE), events per day
SHOWN = range(1, 9)

State = dict[str, Any]
"""k: number of change points; s: (30,) their days, then LENGTH; h: (31,) rates per day, then 0."""


def events() -> np.ndarray:
    """Days of the events, integers."""
    return np.genfromtxt(DATA / "coal_mining_disasters.csv", delimiter=",", names=True)["day"]


def exact() -> dict[str, Any]:
    """The exact posterior."""
    return json.loads((DATA / "coal_green1995.json").read_text())["exact"]


def log_prior_of_number() -> np.ndarray:
    """log p(k), k = 0..30: Poisson(3), truncated."""
    k = np.arange(MOST + 1)
    log_p = k * np.log(MEAN_NUMBER) - np.asarray(gammaln(k + 1.0))
    return log_p - np.logaddexp.reduce(log_p)


def target(days: np.ndarray) -> Density:
    """The posterior density of the step function."""
    before = np.searchsorted(np.sort(days), np.arange(LENGTH + 2))  # events before each day: events have whole days
    log_p = log_prior_of_number()

    def log_density(x: State) -> jax.Array:
        k, edge = x["k"], _edges(x)
        is_step = jnp.arange(MOST + 1) <= k
        length = jnp.diff(edge)
        number = jnp.diff(jnp.asarray(before)[jnp.ceil(edge).astype(int)])
        height = jnp.where(is_step, x["h"], 1.0)
        # Even-numbered order statistics of 2k + 1 uniforms; heights are exponential, so only lengths and rates appear.
        positions = gammaln(2.0 * k + 2) - (2 * k + 1) * jnp.log(float(LENGTH))
        per_step = (
            jnp.log(jnp.where(is_step, length, 1.0))
            + jnp.log(RATE)
            - RATE * height
            + number * jnp.log(height)
            - height * length
        )
        legal = jnp.all(jnp.where(is_step, (length > 0) & (height > 0), True))
        total = jnp.asarray(log_p)[k] + positions + jnp.sum(jnp.where(is_step, per_step, 0.0))
        return jnp.where(legal, total, -jnp.inf)

    return Density(log_density, "coal mining")


def probability_before(day: float, days: np.ndarray) -> float:
    """P(the change point comes before a day, given that there is one), by quadrature between the events."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edge = np.unique(np.concatenate([[0.0, day, LENGTH], days]))
    middle, half = (edge[1:] + edge[:-1]) / 2, np.diff(edge) / 2
    s = middle[:, None] + half[:, None] * nodes
    before = np.searchsorted(np.sort(days), s)

    def segment(number: np.ndarray, length: np.ndarray) -> np.ndarray:  # the height of a segment integrated out
        return np.asarray(gammaln(number + 1.0)) - (number + 1) * np.log(RATE + length)

    log_density = np.log(s * (LENGTH - s)) + segment(before, s) + segment(len(days) - before, LENGTH - s)
    mass = (np.exp(log_density - log_density.max()) * weights).sum(1) * half
    return float(mass[edge[1:] <= day].sum() / mass.sum())


def jump_probabilities() -> tuple[np.ndarray, np.ndarray]:
    """Green's choice: b_k = c min(1, p(k+1)/p(k)), d_k = c min(1, p(k-1)/p(k)), c such that b_k + d_k <= 0.9."""
    log_p = log_prior_of_number()
    birth = np.append(np.minimum(1, np.exp(np.diff(log_p))), 0.0)
    death = np.append(0.0, np.minimum(1, np.exp(-np.diff(log_p))))
    c = 0.9 / (birth + death).max()
    return c * birth, c * death


def birth_and_death() -> InvolutiveKernel:
    """Split the step in which s* falls; the old height is the geometric mean, weighted by length, of the new two."""
    births, deaths = map(jnp.asarray, jump_probabilities())
    place, step = jnp.arange(MOST), jnp.arange(MOST + 1)

    def up(x: State) -> None:
        pi.sample("s", dist.Uniform(0.0, float(LENGTH)))
        pi.sample("u", dist.Uniform(0.0, 1.0))

    def down(x: State) -> None:
        pi.sample("which", dist.DiscreteUniform(0, jnp.maximum(x["k"] - 1, 0)))

    def forward(x: State, u: dict) -> tuple[State, dict]:
        j = jnp.sum((place < x["k"]) & (x["s"] <= u["s"]))
        begin, end = _edges(x)[j], _edges(x)[j + 1]
        logit = jnp.log1p(-u["u"]) - jnp.log(u["u"])  # log of h2 / h1
        log_first = jnp.log(x["h"][j]) - (end - u["s"]) / (end - begin) * logit
        s, h = jnp.roll(x["s"], 1), jnp.roll(x["h"], 1)
        s = jnp.where(place < j, x["s"], jnp.where(place == j, u["s"], s))
        h = jnp.where(step < j, x["h"], jnp.where(step == j, jnp.exp(log_first), h))
        h = jnp.where(step == j + 1, jnp.exp(log_first + logit), h)
        return {"k": x["k"] + 1, "s": s, "h": h}, {"which": j}

    def inverse(x: State, v: dict) -> tuple[State, dict]:
        j, k = v["which"], x["k"] - 1
        first, second = x["h"][j], x["h"][j + 1]
        begin, middle, end = (_edges(x)[j + i] for i in range(3))
        share = (middle - begin) / (end - begin)
        merged = jnp.exp(share * jnp.log(first) + (1 - share) * jnp.log(second))
        s = jnp.where(place < j, x["s"], jnp.roll(x["s"], -1))
        h = jnp.where(step < j, x["h"], jnp.where(step == j, merged, jnp.roll(x["h"], -1)))
        s, h = jnp.where(place < k, s, float(LENGTH)), jnp.where(step <= k, h, 0.0)
        return {"k": k, "s": s, "h": h}, {"s": middle, "u": first / (first + second)}

    def log_jacobian(x: State, u: dict) -> jax.Array:
        """(h1 + h2)^2 / h."""
        new, v = forward(x, u)
        first, second = new["h"][v["which"]], new["h"][v["which"] + 1]
        return 2 * jnp.log(first + second) - jnp.log(x["h"][v["which"]])

    return reversible_jump(
        forward,
        inverse,
        up=up,
        down=down,
        probabilities=lambda x: (births[x["k"]], deaths[x["k"]]),
        log_jacobian=log_jacobian,
        dimension=lambda x: 2 * x["k"] + 1,
        name="birth and death",
    )


def _edges(x: State) -> jax.Array:
    """(32,): 0, the change points, LENGTH for all the rest."""
    real = jnp.where(jnp.arange(MOST) < x["k"], x["s"], float(LENGTH))
    return jnp.concatenate([jnp.zeros(1), real, jnp.full(1, float(LENGTH))])


def height_move() -> InvolutiveKernel:
    """Multiply one height by exp(u), u uniform."""

    def auxiliary(x: State) -> None:
        pi.sample("j", dist.DiscreteUniform(0, x["k"]))
        pi.sample("u", dist.Uniform(-0.6, 0.6))

    def scale(x: State, v: dict) -> tuple[State, dict]:
        mine = jnp.arange(MOST + 1) == v["j"]
        return {**x, "h": jnp.where(mine, x["h"] * jnp.exp(v["u"]), x["h"])}, {"j": v["j"], "u": -v["u"]}

    return involutive(
        auxiliary, scale, log_jacobian=lambda x, v: v["u"], dimension=lambda x: 2 * x["k"] + 1, name="height"
    )


def position_move() -> InvolutiveKernel:
    """Redraw one change point between its neighbours."""

    def auxiliary(x: State) -> None:
        j = pi.sample("j", dist.DiscreteUniform(0, jnp.maximum(x["k"] - 1, 0)))
        edge = _edges(x)
        pi.sample("s", dist.Uniform(edge[j], edge[j + 2]))

    def swap(x: State, v: dict) -> tuple[State, dict]:
        mine = (jnp.arange(MOST) == v["j"]) & (x["k"] > 0)
        moved = {**x, "s": jnp.where(mine, v["s"], x["s"])}
        return moved, {"j": v["j"], "s": jnp.where(x["k"] > 0, x["s"][v["j"]], v["s"])}

    return involutive(auxiliary, swap, log_jacobian=lambda *_: 0.0, dimension=lambda x: 2 * x["k"] + 1, name="position")


def sampler() -> Kernel:
    """One step of a chain: the three moves in turn."""
    return cycle(birth_and_death(), height_move(), position_move())


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much work the demonstration does."""

    num_chains: int = 512
    num_records: int = 500
    num_warmup: int = 50
    thin: int = 20

    @staticmethod
    def quick() -> Sizes:
        """Sizes for a smoke test: the numbers mean little."""
        return Sizes(num_chains=32, num_records=40, num_warmup=20, thin=10)


def starts(num_chains: int, seed: int) -> State:
    """Over-dispersed starting points: 0 to 8 change points anywhere, heights about the overall rate."""
    rng = np.random.default_rng(seed)
    k = rng.integers(0, 9, num_chains)
    s = np.sort(np.where(np.arange(MOST) < k[:, None], rng.uniform(0, LENGTH, (num_chains, MOST)), LENGTH), axis=1)
    h = 191 / LENGTH * np.exp(rng.normal(0, 0.5, (num_chains, MOST + 1)))
    return {"k": k, "s": s, "h": np.where(np.arange(MOST + 1) <= k[:, None], h, 0.0)}


def see(grid: np.ndarray) -> Any:
    """What to keep of a state: the number, the first three change points, the rate on a grid of days."""

    def look(x: State) -> dict[str, jax.Array]:
        step = jnp.sum(x["s"][:, None] <= jnp.asarray(grid), axis=0)
        return {"k": x["k"], "s": x["s"][:3], "rate": x["h"][step]}

    return look


class Line(NamedTuple):
    """One quantity: what it is, exact, estimated, standard error of the estimate."""

    name: str
    exact: float
    found: float
    error: float


class Result(NamedTuple):
    """What the chains say, beside the exact posterior."""

    numbers: list[Line]
    moments: list[Line]
    rate: np.ndarray
    rate_error: np.ndarray
    band: np.ndarray
    exact: dict[str, Any]
    chains: Chains

    @property
    def worst(self) -> float:
        """Largest error over all p(k given y)."""
        return max(abs(line.found - line.exact) for line in self.numbers)

    @property
    def rate_gap(self) -> float:
        """Largest relative error of the posterior mean rate on the grid."""
        truth = np.asarray(self.exact["posterior_mean_rate"]["averaged_over_k"])
        return float(np.max(np.abs(self.rate / truth - 1)))


def run(sizes: Sizes, seed: int) -> Result:
    """The whole demonstration, without files."""
    truth = exact()
    grid = np.asarray(truth["posterior_mean_rate"]["day"])
    chains = run_chains(
        sampler(),
        target(events()),
        jax.tree.map(jnp.asarray, starts(sizes.num_chains, seed)),
        see(grid),
        num_records=sizes.num_records,
        num_warmup=sizes.num_warmup,
        thin=sizes.thin,
        seed=seed,
    )
    k, s, rate = (chains.records[n] for n in ("k", "s", "rate"))
    share, error = number_table(k, MOST)
    numbers = [
        Line(f"p(k={i})", truth["posterior_k"].get(str(i), 0.0), float(share[i]), float(error[i]))
        for i in range(MOST + 1)
    ]
    moments = [Line("E[k]", truth["posterior_mean_k"], *map(float, mean_and_error(k)))]
    means = {1: [truth["change_point_given_k1"]["mean_day"]]}
    means |= {i: truth[f"change_point_means_given_k{i}_days"] for i in (2, 3)}
    for i, days in means.items():
        found, errors = mean_and_error(s[..., :i], k == i)
        moments += [Line(f"E[s{j + 1} | k={i}], day", days[j], float(found[j]), float(errors[j])) for j in range(i)]
    for day in truth["change_point_given_k1"]["quantile_days"]:
        below, error_below = mean_and_error((s[..., 0] <= day).astype(float), k == 1)
        moments.append(
            Line(f"P(s1 <= {day:g} | k=1)", probability_before(day, events()), float(below), float(error_below))
        )
    mean, mean_error = mean_and_error(rate)
    band = np.quantile(rate[:: max(1, len(rate) // 100)], [0.05, 0.95], axis=(0, 1))
    return Result(numbers, moments, mean, mean_error, band, truth, chains)


def report(result: Result) -> str:
    """The tables, as text."""
    lines = [f"{'quantity':<24}{'exact':>12}{'found':>12}{'± s.e.':>10}{'apart, s.e.':>13}"]
    for line in [*result.numbers[: max(SHOWN) + 3], *result.moments]:
        apart = abs(line.found - line.exact) / line.error if line.error > 0 else 0.0
        wide = abs(line.exact) > 100
        numbers = (
            f"{line.exact:>12.1f}{line.found:>12.1f}{line.error:>10.1f}"
            if wide
            else (f"{line.exact:>12.5f}{line.found:>12.5f}{line.error:>10.5f}")
        )
        lines.append(f"{line.name:<24}{numbers}{apart:>13.1f}")
    records, chains = result.chains.records["k"].shape
    lines += [
        "",
        f"largest error of p(k given y): {result.worst:.4f}; of the mean rate: {100 * result.rate_gap:.1f} %",
        f"{chains} chains, {records} states kept of each; {100 * result.chains.accepted:.0f} % of moves accepted; "
        f"compiled in {result.chains.compile_seconds:.1f} s, ran in {result.chains.run_seconds:.1f} s",
    ]
    return "\n".join(lines)


def figures(result: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw and save the pictures; their paths."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import style

    paths = []
    with style():
        figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        k = np.arange(10)
        found, error = (np.array([getattr(line, n) for line in result.numbers[:10]]) for n in ("found", "error"))
        ax.bar(k, found, width=0.7, color="#1f6f8b", alpha=0.75, label="reversible jump, ± 2 standard errors")
        ax.errorbar(k, found, 2 * error, fmt="none", ecolor="black", capsize=2)
        ax.plot(k, [line.exact for line in result.numbers[:10]], "o", color="#d1713a", label="exact")
        ax.set_xticks(k)
        ax.set_xlabel("number of change points k")
        ax.set_ylabel("p(k given y)")
        ax.legend()
        paths.append(out / "number_of_change_points.png")
        figure.savefig(paths[-1], dpi=130)
        plt.close(figure)

        figure, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
        truth = result.exact["posterior_mean_rate"]
        year, per_year = np.asarray(truth["year"]), 365.25
        ax.fill_between(
            year, *(per_year * result.band), color="#1f6f8b", alpha=0.2, lw=0, label="90 % band of the posterior"
        )
        ax.plot(year, per_year * result.rate, color="#1f6f8b", label="posterior mean, reversible jump")
        ax.plot(
            year, per_year * np.asarray(truth["averaged_over_k"]), ".", color="#d1713a", label="posterior mean, exact"
        )
        ax.plot(1851 + events() / per_year, np.zeros(len(events())), "|", color="black", ms=9, label="disasters")
        ax.set_xlim(1851, 1963)
        ax.set_ylim(-0.15, None)
        ax.set_xlabel("year")
        ax.set_ylabel("rate, disasters per year")
        ax.legend()
        paths.append(out / "rate_of_disasters.png")
        figure.savefig(paths[-1], dpi=130)
        plt.close(figure)
    return paths


def main(argv: list[str] | None = None) -> Result:
    """Run, print the tables, save the pictures and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("coal_mining"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few chains, few steps")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    result = run(Sizes.quick() if args.quick else Sizes(), args.seed)
    print(report(result))
    print("\nPictures:")
    for path in figures(result, args.out):
        print(f"  {path}")
    return result


if __name__ == "__main__":
    main()
