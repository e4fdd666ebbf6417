"""Infer the posterior of a model in a file.

Data are the columns of a CSV file. The model is a function decorated with `@pi.model`, a NumPyro
model, or a program that is bound already. A column whose name is that of an argument is passed as
that argument; one whose name is that of a latent site is observed there. The posterior is saved,
and its summary printed with a verdict.

Example:
  probinf infer model.py:line --data data.csv --set num_draws=500 --out line.npz

  where data.csv has the columns x and y, and model.py holds

    import numpyro.distributions as dist
    import probinf as pi

    @pi.model
    def line(x, y):
        slope = pi.sample("slope", dist.Normal(0.0, 5.0))
        with pi.plate("obs", len(x)):
            pi.sample("y", dist.Normal(slope * x, 1.0), obs=y)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from probinf.commands.shared import model_file, settings, table
from probinf.commands.shared.result import check_writable, report
from probinf.entry_points import entry_points
from probinf.errors import ArgumentError, InferenceError, UnknownNameError

if TYPE_CHECKING:
    from probinf.language.program import Program


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf infer`."""
    names = ", ".join(entry_points(settings.METHODS))
    parser.add_argument("model", metavar="FILE.py:NAME", help="the file, and the name of the model in it")
    parser.add_argument("--data", metavar="CSV", help="a CSV file with a header")
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the model that is no column"
    )
    parser.add_argument("--method", default="auto", metavar="METHOD", help=f"{names} (default auto)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same draws (default 0)")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="keep the run's state there; the same command then continues it"
    )
    parser.add_argument(
        "--out", default="posterior.npz", metavar="NPZ", help="file for the posterior, replaced (default posterior.npz)"
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a bar where standard error is a terminal",
    )


def run(args: argparse.Namespace) -> int:
    """Infer, print, save; the exit status is 0 when the summary finds nothing to say against the result."""
    check_writable(args.out, ".npz")
    method = settings.method(settings.METHODS, args.method, settings.pairs("--set", args.set))
    found = model_file.load(args.model)
    program = bind(found, args.data, settings.pairs("--arg", args.arg))
    from probinf.inference.infer import infer
    from probinf.inference.posterior import Posterior

    try:
        posterior = infer(program, method, seed=args.seed, progress=args.progress, checkpoint=args.checkpoint)
    except InferenceError as error:
        if isinstance(error.partial, Posterior):
            report(error.partial, args.out)
        raise
    return report(posterior, args.out)


def bind(found: model_file.Found, path: str | None, extra: Mapping[str, Any]) -> Program:
    """The program of a model with the columns of a file as its arguments and data.

    Raises:
        UnknownNameError: an argument that is no column, or `extra` that is no argument.
        ArgumentError: nothing in the file is used.
    """
    from probinf.language.numpyro_models import as_program
    from probinf.language.program import Program

    data = None if path is None else table.read(path)
    columns = () if data is None else data.names
    if isinstance(found.value, Program):
        known, needed = (), ()
    elif callable(found.value):
        known, needed = model_file.arguments_of(found.value)
    else:
        raise ArgumentError(
            f"model: {found.name!r} is of type {type(found.value).__name__}; expected a function decorated with "
            "@pi.model, a NumPyro model or a program. For a state-space system use probinf filter."
        )
    for name in extra:
        if name not in known:
            raise UnknownNameError(name, known, "argument", f"model {found.name!r}")
    given: dict[str, Any] = dict(extra)
    for name in known:
        if data is not None and name in columns and name not in given:
            given[name] = data.numbers(name)
    for name in needed:
        if name not in given:
            source = "the data (there is no --data)" if path is None else path
            where = f"{source}, and model {found.name!r} needs it (else: --arg {name}=VALUE)"
            raise UnknownNameError(name, columns, "column", where)
    with model_file.blamed(found.path):
        program = as_program(found.value, **given)
        program.sites  # noqa: B018 - looking runs the model once
    if data is None:
        return program
    latent = {site.name for site in program.sites if site.kind == "sample"}
    observed = {name: data.numbers(name) for name in columns if name in latent and name not in given}
    unused = [name for name in columns if name not in given and name not in observed]
    if len(unused) == len(columns):
        raise ArgumentError(
            f"--data: no column of {path} ({', '.join(columns)}) has the name of an argument "
            f"({', '.join(known) or 'none'}) or a latent site ({', '.join(sorted(latent)) or 'none'}) of model "
            f"{found.name!r}."
        )
    if unused:
        print(f"not used: {', '.join(unused)}", file=sys.stderr)  # noqa: T201
    return program.given(**observed) if observed else program
