"""Errors of JAX and NumPyro inside a model, said again in the model's own words.

Python raises where the mistake is felt; these messages say at which line of the model and at which site it was made,
and what to write instead.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import os
import re
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import numpyro.primitives

from probinf import _jax
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, ProbinfError
from probinf.language import statements
from probinf.language.checks import impossible
from probinf.language.places import call_text, is_user_file

_MOST_CODE = 70  # characters of the user's line that are shown
_MOST_SITES = 6


@contextlib.contextmanager
def explain(model: str, *, final: bool) -> Iterator[None]:
    """Translate what users meet most; `final` is false while another way of staging is still to be tried."""
    try:
        yield
    except ProbinfError:
        raise
    except Exception as error:
        if not final:
            if isinstance(error, (jax.errors.ConcretizationTypeError, *_CONVERSIONS)):
                raise
            if "concrete values of integer type" in str(error):
                raise ConcreteNeeded from error
        said = _translate(model, error)
        if said is None:
            raise
        raise said from None


class ConcreteNeeded(Exception):  # a signal between stages of the library, never seen by users
    """A shape depends on an argument: stage once more with the arguments as constants."""


def shortened(error: ProbinfError) -> ProbinfError:
    """The error without the frames and notes that JAX adds: its message says where the mistake is."""
    if getattr(error, "__notes__", None):
        error.__notes__ = [note for note in error.__notes__ if not note.startswith("-----")]
    return error.with_traceback(None)


_CONVERSIONS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _translate(model: str, error: Exception) -> ProbinfError | None:
    place = _Place.of(error)
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return _python_branch(model, place)
    if isinstance(error, _CONVERSIONS) or (
        isinstance(error, jax.errors.ConcretizationTypeError) and re.match(r"(float|int|complex)\(", place.expression)
    ):
        return _numpy_function(model, place)
    if isinstance(error, jax.errors.ConcretizationTypeError):
        return _python_number(model, place)
    messenger = _local(error, "process_message", "self")
    if isinstance(messenger, numpyro.primitives.plate):
        return _numpyro_plate(place, messenger, error)
    if isinstance(error, AssertionError) and "size of plate" in str(error):
        return ArgumentError(f"plate {_local(error, '__init__', 'name')!r} ({place.at}): size must be at least 1.")
    if isinstance(error, ValueError) and "distribution got invalid" in str(error):
        return _parameter(place, error)
    if isinstance(error, TypeError) and "carry" in str(error) and "type" in str(error):
        return _carry(model, place, error)
    if "concrete values of integer type" in str(error):
        return _python_number(model, place)
    if isinstance(error, TypeError | ValueError) and not place.code.startswith("raise"):
        if data := place.not_numeric():
            return ArgumentTypeError(
                f"Model {model!r}, {place}: {data} Encode strings and categories as integers first."
            )
        if isinstance(error, TypeError) and (names := place.lists()):
            return ArgumentTypeError(
                f"Model {model!r}, {place}: {_listed(names)} is a Python list, which has no arithmetic. Pass an array: "
                f"np.asarray({names[0]})."
            )
        if "as an abstract array" in str(error) or "not a valid JAX" in str(error):
            return ArgumentTypeError(
                f"Model {model!r}, {place}: something here is not a number or an array of numbers. Encode strings and "
                "categories as integers first."
            )
        if re.search(r"shape|broadcast|dimension", str(error)):
            return _shapes(model, place, error)
    return None


# -- where -------------------------------------------------------------------------------------------------------------


class _Place:
    """The user's line in which an error arose, and the expression that was being evaluated."""

    def __init__(self, frame: types.FrameType | None, line: int, instruction: int) -> None:
        self.frame, self.line = frame, line
        self.expression = call_text(frame, instruction)

    @staticmethod
    def of(error: BaseException) -> _Place:
        found = _Place(None, 0, 0)
        traceback = error.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if is_user_file(frame.f_code.co_filename) and not frame.f_locals.get("__tracebackhide__"):
                found = _Place(frame, traceback.tb_lineno, traceback.tb_lasti)
            traceback = traceback.tb_next
        return found

    @property
    def file(self) -> str:
        return "" if self.frame is None else self.frame.f_code.co_filename

    @property
    def at(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}" if self.frame is not None else "unknown line"

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    @property
    def _site(self) -> list[tuple[str, str]]:
        pattern = r"\b(?:sample|observe|factor|deterministic)\(\s*(f?)[\"']([^\"']+)[\"']"
        return re.findall(pattern, _statement(self.file, self.line))

    @property
    def names_site(self) -> bool:
        """Whether the line belongs to a statement whose site's name can be read there."""
        return bool(self._site)

    @property
    def site(self) -> str:
        """The site whose statement this is: `Site 'y' (model.py:3)`, or only the line."""
        return f"Site {self._site[0][0]}{self._site[0][1]!r} ({self.at})" if self._site else f"Line {self}"

    def __str__(self) -> str:
        code = self.code
        code = code if len(code) <= _MOST_CODE else code[: _MOST_CODE - 3] + "..."
        return f"{self.at} `{code}`" if code else self.at

    def operands(self) -> dict[str, Any]:
        """The variables of the expression, by name as written."""
        if self.frame is None:
            return {}
        scope = {**self.frame.f_globals, **self.frame.f_locals}
        names = re.findall(r"(?<![\w.\"'])[A-Za-z_]\w*", self.expression or self.code)
        return {name: scope[name] for name in names if name in scope}

    def sites(self) -> str:
        """The latent sites on which the expression depends: " of site 'a'", as far as that can be seen."""
        values = [v for v in jax.tree.leaves(list(self.operands().values())) if isinstance(v, _jax.Tracer)]
        names = sorted({s.name for v in values for s in _jax.statements_behind(v) if s.name})
        if names:
            return f" that depends on site{'s' if len(names) > 1 else ''} {_listed(names)}"
        drawn = [site.name for site, _ in statements.sites_so_far()]
        return f" that depends on a draw (drawn so far: {_listed(drawn)})" if drawn else " that depends on an argument"

    def lists(self) -> list[str]:
        """Names of lists among the variables of the expression."""
        return [name for name, value in self.operands().items() if isinstance(value, list)]

    def not_numeric(self) -> str:
        """What is not a number among the variables of the expression."""
        for name, value in self.operands().items():
            if hasattr(value, "to_numpy"):
                value = value.to_numpy()
            if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
                return f"{name} has dtype {value.dtype}, expected numbers."
        return ""


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_SITES]))
    return shown if len(names) <= _MOST_SITES else f"{shown} and {len(names) - _MOST_SITES} more"


@functools.lru_cache(maxsize=64)
def _statement(file: str, line: int) -> str:
    """The source of the innermost statement around a line."""
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return "".join(lines[line - 1 : line])
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    if not around:
        return "".join(lines[line - 1 : line])
    inner = min(around, key=lambda n: (n.end_lineno or n.lineno) - n.lineno)
    return "".join(lines[inner.lineno - 1 : inner.end_lineno])


def _local(error: BaseException, function: str, name: str) -> Any:
    """A local variable of the last frame of a function on the way to an error."""
    found, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_name == function:
            found = traceback.tb_frame.f_locals.get(name, found)
        traceback = traceback.tb_next
    return found


# -- what and the remedy -----------------------------------------------------------------------------------------------


def _python_branch(model: str, place: _Place) -> ModelError:
    word = re.match(r"\s*(if|elif|while|assert)\b", place.code)
    what = f"a Python `{word.group(1)}`" if word else "a Python `if`, `and`, `or` or `not`"
    return ModelError(
        f"Model {model!r}, {place}: {what} looks at a value{place.sites()}, which is not known while the "
        "model is read. Use jnp.where, jax.lax.cond, jax.lax.while_loop or a mixture distribution; "
        "& and | in place of `and` and `or`."
    )


def _numpy_function(model: str, place: _Place) -> ModelError:
    called = re.match(r"([A-Za-z_][\w.]*)\(", place.expression)
    name = called.group(1) if called else ""
    root, _, attribute = name.partition(".")
    module = getattr(place.frame.f_globals.get(root), "__name__", "") if place.frame is not None else ""
    if attribute and module.split(".")[0] in ("numpy", "math", "scipy"):
        library = "jax.scipy" if module.startswith("scipy") else "jnp"
        instead = f"{library}.{attribute}"
        what = f"{name} needs the number itself, and is given a value"
    elif name in ("float", "int", "range", "complex"):
        what = f"{name}(...) needs a number, and is given a value"
        instead = "lax.fori_loop or lax.scan" if name == "range" else f"the value without {name}(...)"
    else:
        instead, what = (
            "jax.numpy (jnp), also for the array that is indexed",
            "NumPy or Python indexing is given a value",
        )
    return ModelError(
        f"Model {model!r}, {place}: {what}{place.sites()}, which is not known while the model is read. Use {instead}."
    )


def _python_number(model: str, place: _Place) -> ModelError:
    return ModelError(
        f"Model {model!r}, {place}: a plain Python number is needed, and is given a value{place.sites()}. Shapes "
        "and loop lengths must be fixed: pass them to the model as Python integers, "
        "or use jnp.where on arrays of fixed length."
    )


def _numpyro_plate(place: _Place, plate: Any, error: Exception) -> ModelError | None:
    from probinf.language.numpyro_unsupported import unsupported

    if isinstance(error, NotImplementedError):
        return unsupported("scan or cond inside a plate", f"plate {plate.name!r} ({place.at})")
    msg = _local(error, "process_message", "msg")
    if not isinstance(msg, dict) or "fn" not in msg:
        return None
    return ModelError(
        f"Site {msg['name']!r} ({place.at}): batch shape {tuple(msg['fn'].batch_shape)} does not fit plate "
        f"{plate.name!r} of size {plate.size} on axis {plate.dim}. Use .to_event(1) for dependent axes, or give the "
        "plate another size or dim."
    )


def _parameter(place: _Place, error: Exception) -> ModelError:
    distribution = _local(error, "validate_args", "self")
    parameter, value = _local(error, "validate_args", "param"), _local(error, "validate_args", "value")
    if not isinstance(distribution, dist.Distribution) or isinstance(value, _jax.Tracer):
        return ModelError(f"{place.site}: {error}")
    return impossible(place.site, distribution, parameter, value)


def _carry(model: str, place: _Place, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if "but the corresponding" in line or "whereas" in line]
    detail = f" ({lines[0].rstrip('.')})" if lines else ""
    return ModelError(
        f"Model {model!r}, {place}: what the loop carries comes back with another type or shape than it started with"
        f"{_clip(detail, 200)}. Start it as it goes on: 0.0, not 0; jnp.zeros(3), not 0.0."
    )


def _shapes(model: str, place: _Place, error: Exception) -> ModelError:
    lines = str(error).splitlines()
    sites = {site.name: f"{site.name!r} {shape}{_axes(site)}" for site, shape in statements.sites_so_far() if site.name}
    known = f" Sites so far: {', '.join(list(sites.values())[-_MOST_SITES:])}." if sites else ""
    values = {n: np.shape(v) for n, v in place.operands().items() if isinstance(v, jax.Array | np.ndarray)}
    here = ", ".join(f"{name} {shape}" for name, shape in list(values.items())[:_MOST_SITES])
    where = f"{place.site} of model {model!r}" if place.names_site else f"Model {model!r}, {place.at}"
    return ModelError(
        f"{where}: shapes do not fit in `{_clip(place.code, _MOST_CODE)}`: "
        f"{_clip(lines[0] if lines else '', 160).rstrip('.')}.{f' Here: {here}.' if here else ''}{known} Insert axes "
        "with x[:, None], or draw the sites in plates of the same name and size."
    )


def _axes(site: Any) -> str:
    named = [d for d in site.dims if d]
    return f" [{', '.join(named)}]" if named else ""


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
