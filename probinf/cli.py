"""The command `probinf`: subcommands that the packages register under the entry point group "probinf.commands"."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

from probinf.errors import ProbinfError

GROUP = "probinf.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="probinf", description="Probabilistic programs, and inference to trust.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        command = entry.load()
        sub = commands.add_parser(entry.name, help=command.__doc__.splitlines()[0])
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except ProbinfError as error:
        print(f"probinf {args.command}: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
