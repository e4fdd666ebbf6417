"""The command `probinf`: subcommands that the packages register under the entry point group "probinf.commands".

A subcommand is a module with `arguments(parser)` and `run(args) -> exit status`; its docstring is its help. Only the
one that is called is imported, so `probinf --help` answers at once.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from probinf.entry_points import entry_points
from probinf.errors import ArgumentError, CheckpointError, InferenceError, ProbinfError, UnknownNameError
from probinf.version import VERSION

GROUP = "probinf.commands"

#: Exit statuses, beside 0. A shell's own for Ctrl-C is the last.
NOT_TO_BE_TRUSTED, WRONG_USE, INTERRUPTED = 1, 2, 130

_EPILOG = """\
exit status:
  0    done, and nothing found that speaks against the result
  1    a result that is not to be trusted (its summary says why), a claim that does not hold, or a run that broke down
  2    wrong use: an argument, a file, the data or the model
  130  interrupted

probinf COMMAND --help shows an example of each.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = entry_points(GROUP)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    debug = "--debug" in argv
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            if chosen is not None and chosen not in commands:
                raise UnknownNameError(chosen, commands, "command", "probinf")
            parser, sub = _parser(commands, chosen)
            args, unknown = parser.parse_known_args(argv)
            if unknown:
                raise _unknown(unknown[0], sub or parser)
            return int(args.run(args))
        except KeyboardInterrupt:
            _say("probinf: interrupted")
            return INTERRUPTED
        except BrokenPipeError:  # whoever read the output has had enough
            sys.stdout = None
            return 0
        except Exception as error:
            if debug:
                raise
            _say(f"probinf{'' if chosen is None else ' ' + chosen}: {_message(error)}")
            return _status(error)


def _parser(
    commands: dict[str, EntryPoint], chosen: str | None
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The parser, and that of the subcommand which is called."""
    called = None
    parser = argparse.ArgumentParser(
        prog="probinf",
        description="Probabilistic programs, and inference to trust.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"probinf {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, entry in commands.items():
        text = _docstring(entry.module)
        sub = parsers.add_parser(
            name,
            help=text.partition("\n")[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            module = entry.load()
            sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            module.arguments(sub)
            sub.set_defaults(run=module.run)
            called = sub
    return parser, called


def _unknown(word: str, parser: argparse.ArgumentParser) -> ArgumentError:
    """What to say of a word that the command has no use for."""
    if not word.startswith("-"):
        return ArgumentError(f"{word!r}: one argument too many; {parser.prog} --help shows what is expected.")
    options = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ArgumentError(f"{word} is not an option.{hint} Known options: {', '.join(options)}.")


def _docstring(module: str) -> str:
    """The docstring of a module, read from its file: importing it may take seconds."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "(not found: is its package installed?)"
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _status(error: Exception) -> int:
    if isinstance(error, InferenceError | CheckpointError) or not isinstance(error, ProbinfError | OSError):
        return NOT_TO_BE_TRUSTED
    return WRONG_USE


def _message(error: Exception) -> str:
    if isinstance(error, ProbinfError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    where = next((f" ({frame.filename}, line {frame.lineno})" for frame in _frames(error)), "")
    return f"{type(error).__name__}: {error}{where}\nprobinf --debug ... shows the traceback."


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """Frames of the user's own files, the innermost first."""
    home = Path(__file__).resolve().parents[1]  # of all packages, in a checkout
    ours = (home / name for name in ("probinf", "smc", "continual", "transformers_gmm"))
    others = [*ours, *(Path(p).resolve() for p in sysconfig.get_paths().values())]
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return [f for f in frames if Path(f.filename).is_file() and not _is_below(Path(f.filename).resolve(), others)]


def _is_below(path: Path, folders: list[Path]) -> bool:
    return any(folder in path.parents for folder in folders)


def _show_warning(message: Warning | str, *_: object) -> None:
    _say(f"warning: {message}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
