"""The Distribution Transformer on its tasks, beside exact answers, particle filters and published numbers.

    python -m benchmarks.distribution_transformer --json benchmarks/results/distribution_transformer.json

Networks are the shipped ones; `--weights` names a folder with others.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from benchmarks.distribution_transformer import (
    calibration,
    corrected,
    prior_change,
    recordings,
    recurrent,
    static,
    throughput,
)
from benchmarks.record import Row, parser, write
from transformers_gmm.pretrained import load, trained

GROUPS = {
    "static": static.rows,
    "recurrent": recurrent.rows,
    "prior_change": prior_change.rows,
    "corrected": corrected.rows,
    "throughput": throughput.rows,
    "calibration": calibration.rows,
    "recordings": recordings.rows,
}


def networks_in(folder: pathlib.Path | None) -> dict[str, Any]:
    """Name of the task -> network, of the shipped ones and of those in `folder`, which go before."""
    found = {name: load(name).network for name in trained()}
    if folder is not None:
        found |= {path.stem: load(path.stem, path).network for path in sorted(folder.glob("*.safetensors"))}
    return found


def main() -> None:
    """Measure all groups, or those named."""
    options = parser(__doc__ or "")
    options.add_argument("--group", nargs="+", choices=sorted(GROUPS))
    options.add_argument("--weights", type=pathlib.Path, help="folder with networks to use instead of the shipped ones")
    options.add_argument("--out", type=pathlib.Path, help="folder for the pictures of the group `calibration`")
    options.add_argument("--folder", type=pathlib.Path, help="folder of the recording that `recordings` reads")
    options.add_argument("--tasks", nargs="+", help="only these of `calibration` and `prior_change`")
    args = options.parse_args()
    groups = GROUPS | {"calibration": functools.partial(calibration.rows, out=args.out, tasks=args.tasks)}
    groups |= {"prior_change": functools.partial(prior_change.rows, tasks=args.tasks)}
    groups |= {"recordings": functools.partial(recordings.rows, folder=args.folder)}
    networks = networks_in(args.weights)
    rows: list[Row] = []
    for name in args.group or GROUPS:
        rows += groups[name](networks, quick=args.quick)
        write(args.json, "distribution_transformer", args.quick, rows)
    print(f"{len(rows)} rows, {sum(row.met is False for row in rows)} missed")


if __name__ == "__main__":
    main()
