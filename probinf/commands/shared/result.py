"""What happens to a posterior in the end: it is saved, and read out with its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from probinf.errors import ArgumentError

if TYPE_CHECKING:
    from probinf.inference.posterior import Posterior


def check_writable(path: str, ending: str = "") -> None:
    """Refuse a file that could not be written in the end, before long work starts.

    Raises:
        ArgumentError: its folder does not exist, it is a folder itself, or its name has not the `ending`.
    """
    if not Path(path).parent.is_dir():
        raise ArgumentError(f"--out: no folder {Path(path).parent}; make it, or name another file.")
    if Path(path).is_dir():
        raise ArgumentError(f"--out: {path} is a folder; name a file in it.")
    if not path.endswith(ending):
        raise ArgumentError(
            f"--out: expected a name that ends in {ending}, found {path!r}; probinf export makes CSV of it."
        )


def report(posterior: Posterior, path: str | None) -> int:
    """Save a posterior and print its summary; the exit status: 0 when nothing speaks against it."""
    if path is not None:
        posterior.save(path)
    summary = posterior.summary()
    print(summary)  # noqa: T201
    if path is not None:
        print(f"saved to {path}")  # noqa: T201
    return 0 if summary.is_trustworthy and not posterior.is_partial else 1
