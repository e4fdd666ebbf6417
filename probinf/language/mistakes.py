"""JAX's errors inside a model, said again in the model's own words."""

from __future__ import annotations

import contextlib
import linecache
import os
import traceback
from collections.abc import Iterator

import jax

from probinf.errors import ModelError, ProbinfError


@contextlib.contextmanager
def explain(model: str, *, final: bool) -> Iterator[None]:
    """Translate what users meet most; `final` is false while another way of staging is still to be tried."""
    try:
        yield
    except ProbinfError:
        raise
    except jax.errors.TracerBoolConversionError as error:
        if not final:
            raise
        raise ModelError(
            f"Model {model!r}, {_line(error)}: a Python `if`, `while` or `and` looks at a value that depends on a draw."
            " Use jnp.where, jax.lax.cond or jax.lax.while_loop, or a mixture distribution."
        ) from None
    except (jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError) as error:
        if not final:
            raise
        raise ModelError(
            f"Model {model!r}, {_line(error)}: a NumPy function or a Python index is applied to a value that depends on a "
            "draw. Use the jax.numpy function of the same name."
        ) from None
    except jax.errors.ConcretizationTypeError as error:
        if not final:
            raise
        raise ModelError(
            f"Model {model!r}, {_line(error)}: a plain Python number is needed where the value depends on a draw. "
            "Shapes and loop lengths must be fixed; pass them to the model as Python integers."
        ) from None


def _line(error: BaseException) -> str:
    """The user's line in which it happened."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(package) and "site-packages" not in frame.filename:
            code = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f"{os.path.basename(frame.filename)}:{frame.lineno} `{code}`"
    return "unknown line"
