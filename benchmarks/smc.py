"""The claims of package `smc`: filters, resampling, smoothers, samplers and the fast generator, beside their peers.

python -m benchmarks.smc --json benchmarks/results/smc.json

Peers come from an environment of their own: `make peers`. A peer that is not installed is a row that misses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

from benchmarks import record
from benchmarks.record import Row, rows_of

GROUPS = {
    "filters": "benchmarks.filter_peers",
    "programs": "benchmarks.program_filters",
    "resampling": "benchmarks.resampling_speed",
    "smoothing": "benchmarks.smoothing_speed",
    "random": "benchmarks.random_quality",
    "samplers": "benchmarks.samplers",
    "ensembles": "benchmarks.ensembles",
    "pmmh": "benchmarks.pmmh_speed",
    "smc2": "benchmarks.smc2_peers",
    "memory": "benchmarks.filter_memory",
    "scaling": "benchmarks.filter_scaling",
}


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure the groups asked for, print and write the rows."""
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of rows")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    for group in args.only:
        make: Callable[[bool, int], Iterable[Row]] = importlib.import_module(GROUPS[group]).rows
        rows.extend(rows_of(group, "", 0.0, lambda make=make: make(args.quick, args.seed)))
        record.write(args.json, "smc", args.quick, rows)
    met = [row.met for row in rows]
    print(f"{met.count(True)} met, {met.count(False)} missed, {met.count(None)} shown")
    return rows


if __name__ == "__main__":
    main()
