"""Errors and warnings: one base class, messages that name the argument, what was found and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProbinfError(Exception):
    """Base of every error that probinf raises on purpose.

    Attributes:
        partial: whatever was finished before the fault (draws, particles, weights), or `None`.
    """

    partial: object = None


class ModelError(ProbinfError, ValueError):
    """The model itself is wrong: duplicate sites, a shape clash, an impossible parameter."""


class DataError(ProbinfError, ValueError):
    """Data that the model cannot have produced: NaN, outside the support, of another shape."""


class ArgumentError(ProbinfError, ValueError):
    """An argument of a public function has a value that cannot be used."""


class ArgumentTypeError(ProbinfError, TypeError):
    """An argument of a public function is of the wrong kind."""


class InferenceError(ProbinfError, RuntimeError):
    """A run that cannot start or cannot go on: no legal start, all particles dead."""


class CheckpointError(ProbinfError, RuntimeError):
    """A checkpoint that cannot be written, or cannot be continued: damaged, or of another run."""


class UnknownNameError(ProbinfError, KeyError):
    """A name that does not exist; the message gives the nearest one and the full list."""

    def __init__(self, name: object, known: Iterable[str], what: str, where: str) -> None:
        """Describe the unknown `name` of a `what` (say "site") looked up in `where` (say "model 'line'")."""
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        if not near:  # difflib is case sensitive
            near = [k for k in known if k.lower() == str(name).lower()][:1]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listing = ", ".join(map(repr, known)) or "none"
        article = "an" if what[0] in "aeiou" else "a"
        self.message = f"{name!r} is not {article} {what} of {where}.{hint} Known {what}s: {listing}."
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the repr, quotes and escapes included
        return self.message


class ProbinfWarning(UserWarning):
    """A legal call whose result should be looked at before it is trusted."""
