"""Reversible jump on the two reference problems: change points of a Poisson process, mixtures of unknown size.

python -m benchmarks.trans_dimensional --json benchmarks/results/trans_dimensional.json
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import record
from benchmarks.record import Row, rows_of
from examples import coal_mining, mixture_moves, richardson_green


def coal_rows(quick: bool, seed: int) -> Iterator[Row]:
    """p(k given y), change-point moments and mean rate against the exact posterior; time with compilation."""
    sizes = coal_mining.Sizes.quick() if quick else coal_mining.Sizes()
    begin = time.perf_counter()
    result = coal_mining.run(sizes, seed)
    seconds = time.perf_counter() - begin
    steps = sizes.num_chains * (sizes.num_records + sizes.num_warmup) * sizes.thin
    detail = f"{sizes.num_chains} chains, {3 * steps:.1e} moves, {100 * result.chains.accepted:.0f} % accepted"
    error = max(line.error for line in result.numbers)
    yield Row(
        "coal mining: largest error of p(k given y)",
        result.worst,
        "probability",
        0.005,
        peer=f"exact table; largest standard error {error:.4f}; {detail}",
        n=steps,
        seconds=seconds,
    )
    apart = [abs(line.found - line.exact) / line.error for line in result.moments]
    worst = result.moments[int(np.argmax(apart))]
    yield Row(
        "coal mining: E[k], change-point means and probabilities for k = 1, 2, 3, largest distance from exact",
        max(apart),
        "standard errors",
        4.0,
        peer=f"{len(apart)} moments; the farthest is {worst.name}: {worst.found:.6g}, exact {worst.exact:.6g}",
        n=steps,
        seconds=seconds,
    )
    yield Row(
        "coal mining: largest relative error of the posterior mean rate, 56 days",
        result.rate_gap,
        "ratio",
        0.02,
        peer="exact means",
        n=steps,
        seconds=seconds,
    )
    yield Row(
        "coal mining: time, compilation included",
        seconds,
        "s",
        60.0,
        peer=f"compiling {result.chains.compile_seconds:.1f} s, running {result.chains.run_seconds:.1f} s; {detail}",
        seconds=seconds,
    )


def mixture_row(name: str, quick: bool, seed: int) -> Row:
    """p(k given y) of one data set against the partition sampler."""
    sizes = richardson_green.Sizes.quick() if quick else richardson_green.Sizes()
    begin = time.perf_counter()
    fit = richardson_green.fit(name, sizes, seed)
    steps = sizes.num_chains * (sizes.num_records + sizes.num_warmup) * sizes.thin
    return Row(
        f"mixture, {name}: largest difference of p(k given y)",
        fit.worst,
        "probability",
        0.015,
        peer=f"partition sampler; largest standard error of it {fit.reference_error.max():.4f}, of ours "
        f"{fit.error.max():.4f}; {sizes.num_chains} chains, {mixture_moves.MOVES_PER_STEP * steps:.1e} moves; "
        f"compiling {fit.chains.compile_seconds:.1f} s, running {fit.chains.run_seconds:.1f} s",
        n=steps,
        seconds=time.perf_counter() - begin,
    )


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write the rows."""
    parser = record.parser(__doc__.splitlines()[0])
    names = ("coal_mining", *richardson_green.SETS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="problems")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    rows: list[Row] = []
    for name in args.only:
        if name == "coal_mining":
            rows += rows_of("coal mining", "probability", 0.005, lambda: coal_rows(args.quick, args.seed))
        else:
            rows += rows_of(
                f"mixture, {name}", "probability", 0.015, lambda name=name: mixture_row(name, args.quick, args.seed)
            )
        record.write(args.json, "trans_dimensional", args.quick, rows)  # what is done is not lost
    return rows


if __name__ == "__main__":
    main()
