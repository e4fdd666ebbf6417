"""An exchange rate and its volatility: the continuous HGF on 614 daily values of the Swiss franc in US dollars.

    python -m examples.hgf_exchange_rate [--out FOLDER]

The noise and both tonic volatilities are set by the maximum of the posterior on the first 400 days; the last 214 are
predicted one day ahead, and scored beside a random walk with a fixed variance learnt from the same days.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist

from probinf import predictive_coding as hgf

DATA = pathlib.Path(__file__).parent / "data" / "hgf" / "usd_chf.csv"
TRAINING = 400


class Result(NamedTuple):
    """The beliefs over the whole series, and both mean log scores of the held-out days."""

    run: hgf.NetworkRun
    score: float
    baseline: float


def run(seed: int) -> Result:
    """Fit on the first days, filter all, score the rest."""
    rate = 100.0 * np.log(np.loadtxt(DATA, delimiter=",", skiprows=1))  # a step of 1 is one per cent
    network = hgf.continuous_hgf(2, start=float(rate[0]), noise=0.05, tonic_volatility=-1.0, update=hgf.MomentMatched())
    priors = {
        "u.precision": dist.LogNormal(3.0, 1.0),
        "x1.tonic_volatility": dist.Normal(-1.5, 1.0),
        "x2.tonic_volatility": dist.Normal(-3.0, 1.0),
    }
    program = hgf.subject_program(network, None, priors, rate[:TRAINING])
    mode = hgf.maximum_a_posteriori(program, seed=seed, num_starts=2)
    fitted = network.replace({name: float(value) for name, value in mode.values.items()})
    found = fitted.filter(rate)
    steps = np.diff(rate)
    variance = steps[: TRAINING - 1].var()
    baseline = -0.5 * (np.log(2 * np.pi * variance) + steps[TRAINING - 1 :] ** 2 / variance)
    return Result(found, float(np.asarray(found.log_densities)[TRAINING:].mean()), float(baseline.mean()))


def main(argv: list[str] | None = None) -> Result:
    """Run, print the scores, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    result = run(args.seed)
    print(f"mean log score of one-day predictions, {len(result.run) - TRAINING} held-out days")
    print(f"  HGF, two levels      {result.score:.4f}")
    print(f"  random walk          {result.baseline:.4f}")
    for name in ("u.precision", "x1.tonic_volatility", "x2.tonic_volatility"):
        print(f"  {name:<22}{result.run.network.parameters()[name]:.3f}")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "hgf_exchange_rate.png"
    hgf.plot_beliefs(result.run, time_unit="day")[0].get_figure().savefig(path, dpi=140)
    print(f"Picture: {path}")
    return result


if __name__ == "__main__":
    main()
