"""Filters, resampling, streaming and networks on a GPU, beside plain JAX on the same device and its memory's speed.

python -m benchmarks.accelerator --json benchmarks/results/accelerator.json

It runs on whatever device JAX finds first; the file says which. The memory's bound is the bytes that have to be read
and written, at the speed of a large copy in the same run. Rows are written after every group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import accelerator_filters, accelerator_networks, accelerator_resampling, record
from benchmarks.record import Row, rows_of

GROUPS: dict[str, Callable[[bool, int], Iterator[Row]]] = {
    "check": accelerator_resampling.check,
    "resampling": accelerator_resampling.one_population,
    "lanes": accelerator_resampling.populations,
    "linear_gaussian": accelerator_filters.linear_gaussian,
    "streaming": accelerator_filters.streaming,
    "networks": accelerator_networks.rows,
    "radar": accelerator_filters.radar,
    "large": accelerator_resampling.large_population,
    "kalman": accelerator_filters.kalman,
}


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure the groups asked for, print and write the rows."""
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of rows")
    args = parser.parse_args(argv)
    print(record.machine(), record.versions(), flush=True)
    rows: list[Row] = []
    for group in args.only:
        rows.extend(rows_of(group, "", 0.0, lambda make=GROUPS[group]: make(args.quick, args.seed)))
        record.write(args.json, "accelerator", args.quick, rows)
    met = [row.met for row in rows]
    print(f"{met.count(True)} met, {met.count(False)} missed, {met.count(None)} shown")
    return rows


if __name__ == "__main__":
    main()
