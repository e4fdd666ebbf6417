"""Look at a run while it goes on.

Reads its checkpoint folder and prints the summary of what there is so far; the run is not
disturbed. The exit status is 0 once nothing speaks against the result, so that a script can wait
for it.

Example:
  probinf infer model.py:line --data data.csv --checkpoint run &
  probinf look run
"""

from __future__ import annotations

import argparse

from probinf.commands.shared.result import check_writable, report


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf look`."""
    parser.add_argument("folder", metavar="DIR", help="what the run was given as --checkpoint")
    parser.add_argument("--out", metavar="NPZ", help="also save what there is to this file")


def run(args: argparse.Namespace) -> int:
    """Print, perhaps save."""
    if args.out is not None:
        check_writable(args.out, ".npz")
    from probinf.inference.look import look

    return report(look(args.folder), args.out)
