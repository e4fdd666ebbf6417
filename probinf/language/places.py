"""Where in the user's source a statement stands."""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import types

from probinf import _jax

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def caller() -> str:
    """File and line of the nearest frame outside of this package and of installed libraries."""
    frame = caller_frame()
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def caller_frame() -> types.FrameType | None:
    """The nearest frame outside of this package and of installed libraries."""
    frame = sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def made_at(eqn: _jax.JaxprEqn) -> str:
    """File and line of the user's nearest frame when an equation was staged."""
    lines = ((name, line) for name, line in _jax.source_lines(eqn) if is_user_file(name))
    return next((f"{os.path.basename(name)}:{line}" for name, line in lines), "")


def is_user_file(name: str) -> bool:
    """Whether a source file belongs to the user."""
    if name.startswith((_PACKAGE, "<frozen", "<@beartype")):
        return False
    return "site-packages" not in name and "contextlib" not in name and not name.endswith("functools.py")


def call_text(frame: types.FrameType | None, instruction: int | None = None) -> str:
    """The source of the call that a frame is executing, all of its lines."""
    if frame is None:
        return ""
    at = frame.f_lasti if instruction is None else instruction
    first, last, start, end = next(itertools.islice(frame.f_code.co_positions(), at // 2, None), (None,) * 4)
    if first is None or last is None:
        return ""
    lines = [linecache.getline(frame.f_code.co_filename, n).rstrip("\n") for n in range(first, last + 1)]
    if end is not None:
        lines[-1] = lines[-1].encode()[:end].decode(errors="ignore")
    if start is not None:
        lines[0] = lines[0].encode()[start:].decode(errors="ignore")
    return " ".join(line.strip() for line in lines)
