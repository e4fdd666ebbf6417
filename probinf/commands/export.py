"""Export a saved posterior to ArviZ files or CSV.

The ending of the output says which: .nc, .zarr or .csv. The first two hold the whole ArviZ tree
with names, dimensions, coordinates, weights and sample statistics; the table has a row for each
draw and a column for each scalar.

Example:
  probinf export posterior.npz posterior.nc
  probinf export posterior.npz draws.csv
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probinf.commands.shared.result import check_writable
from probinf.errors import ArgumentError

if TYPE_CHECKING:
    from probinf.inference.posterior import Posterior

#: Ending -> packages that write it: any one of these groups.
_ENGINES = {".nc": (("netCDF4",), ("h5netcdf", "h5py")), ".zarr": (("zarr",),)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf export`."""
    parser.add_argument("posterior", metavar="NPZ", help="a file written by probinf infer or Posterior.save")
    parser.add_argument("out", metavar="OUT", help="the file to write: .nc, .zarr or .csv")


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""
    ending = Path(args.out).suffix.lower()
    if ending not in (*_ENGINES, ".csv"):
        raise ArgumentError(f"out: expected a name that ends in .nc, .zarr or .csv, found {args.out!r}.")
    if ending != ".zarr":
        check_writable(args.out)
    engines = _ENGINES.get(ending, ())
    if engines and not any(all(map(has_package, group)) for group in engines):
        raise ArgumentError(f"out: writing {ending} needs another package: pip install {engines[0][0]}")
    from probinf.inference.posterior import Posterior

    posterior = Posterior.load(args.posterior)
    if ending == ".csv":
        write_table(posterior, args.out)
    elif ending == ".nc":
        posterior.to_arviz().to_netcdf(args.out)
    else:
        posterior.to_arviz().to_zarr(args.out, mode="w")
    print(f"saved to {args.out}")  # noqa: T201
    return 0


def has_package(name: str) -> bool:
    """Whether a package is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


def write_table(posterior: Posterior, path: str) -> None:
    """A row for each draw: chain, draw, log_weight where there are weights, and every scalar by its name."""
    matrix, names = posterior.matrix()
    chains, draws = np.indices((posterior.num_chains, posterior.num_draws)).reshape(2, -1)
    weights = [] if posterior.log_weights is None else [posterior.log_weights.reshape(-1)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["chain", "draw", *(["log_weight"] if weights else []), *names])
        for chain, draw, *numbers in zip(chains, draws, *weights, *matrix.T, strict=True):
            rows.writerow([chain, draw, *(repr(float(x)) for x in numbers)])
