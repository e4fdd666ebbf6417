"""Checks of a program at the door: what can be said about it before anything is compiled or drawn."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

from probinf.errors import DataError, ModelError, ProbinfWarning
from probinf.language.checks import check_parameters, check_precision, check_values, constraint_text, empty, family_name
from probinf.language.known import Findings, Range, Stacked, bounds_of, findings
from probinf.language.places import made_at
from probinf.language.primitives import factor_p, observe_p, sample_p


def check_operands(program: Any, staged: Any, operands: Any) -> None:
    """Refuse data and parameters that are impossible whatever is drawn.

    Everything that follows from the arguments and the data alone is worked out with NumPy: one pass over the data.

    Raises:
        DataError: NaN, infinite or unsupported values at an observed site, a NaN factor, or an index beyond its axis.
        ModelError: a parameter outside its domain.
    """
    for name, value in arguments_of(program):
        if isinstance(value, np.ndarray):
            check_precision(f"Argument {name!r} of model {program.name!r}", value)
    found = findings(staged.closed, jax.tree.leaves(operands))
    for eqn, indices, size in found.stray:
        _refuse_indices(program, eqn, indices, size)
    for eqn, values in found.statements:
        site = eqn.params["site"]
        if not site.name:
            continue
        if eqn.primitive is factor_p:
            if isinstance(values[0], np.ndarray) and np.isnan(values[0]).any():
                raise DataError(f"Site {site.label}: the factor is NaN. A log factor is a number, or -inf for a zero.")
            continue
        if eqn.primitive not in (sample_p, observe_p):
            continue
        leaves = [_array(x) for x in values[: eqn.params["count"]]]
        distribution = jax.tree.unflatten(eqn.params["structure"], leaves)
        _check_factor(site, distribution, found)
        check_parameters(site.name, site.where, distribution)
        if eqn.primitive is observe_p and (value := _array(values[eqn.params["count"]])) is not None:
            if site.support is None and all(isinstance(x, np.ndarray) for x in values):
                site = dataclasses.replace(site, support=distribution.support)
            check_values(site, np.asarray(value))


def check_rows(model: str, staged: Any) -> None:
    """Refuse data without rows, and plates of size 0.

    Raises:
        DataError: a site has none.
    """
    for info in staged.sites:
        if info.kind == "observe" and 0 in info.shape:
            raise empty(f"Site {info.label} of model {model!r}", info.shape)
        names = [name for name, size in zip(info.dims, info.shape, strict=False) if name is not None and size == 0]
        if names:
            raise DataError(
                f"Site {info.label} of model {model!r}: plate {names[0]!r} has size 0. Give it at least one "
                "repetition, or pass allow_empty=True to pi.infer or .given."
            )


def without_rows(staged: Any) -> str:
    """A note about observed sites without rows; empty where there are none."""
    observed = [info for info in staged.sites if info.kind == "observe"]
    bare = [info.name for info in observed if 0 in info.shape]
    if not bare:
        return ""
    names = ", ".join(map(repr, bare[:6]))
    if len(bare) == len(observed) and not any(info.kind == "factor" for info in staged.sites):
        return f"There are no data ({names}: no rows): this is the prior."
    return f"No rows at {names}: what depends on them alone has its prior."


def check_reachable(program: Any) -> None:
    """Warn of parameters that some draw of a parent site can make impossible.

    Bounds are followed from the supports of the sites through arithmetic; what cannot be followed is not reported.
    """
    sites = {info.name: info for info in program.sites}
    for eqn, values in findings(program.staged.closed, jax.tree.leaves(program.operands)).statements:
        if eqn.primitive not in (sample_p, observe_p) or not eqn.params["site"].name:
            continue
        distribution = jax.tree.unflatten(eqn.params["structure"], values[: eqn.params["count"]])
        for family, parameter, constraint, reached in _escapes(distribution):
            parents = [
                f"{name!r} ({sites[name].site.family}: {constraint_text(sites[name].site.support)})"
                for name in sorted(reached.sites)
            ]
            bounds = bounds_of(constraint)
            side = "below" if bounds is not None and reached.low < bounds[0] else "above"
            who, them = ("sites", "them") if len(parents) > 1 else ("site", "it")
            warnings.warn(
                f"Site {eqn.params['site'].label}: the {parameter} of {family} must be {constraint_text(constraint)}, "
                f"but {who} {', '.join(parents)} can take it {side} that. Such draws are rejected. Give {them} a prior "
                "on the right domain (HalfNormal, LogNormal, Beta), or use jnp.exp, jax.nn.softplus or jax.nn.sigmoid.",
                ProbinfWarning,
                stacklevel=2,
            )


def warn_none_arguments(program: Any) -> None:
    """Warn when an argument of the model is None and sites became latent because they were given obs=None."""
    missing = [name for name, value in arguments_of(program) if value is None]
    latent = [info.label for info in program.sites if info.kind == "sample" and info.site.is_unset]
    if missing and latent:
        names = ", ".join(map(repr, missing))
        which = f"site {latent[0]} is" if len(latent) == 1 else f"sites {', '.join(latent[:6])} are"
        warnings.warn(
            f"Model {program.name!r}: argument {names} is None, so {which} latent: drawn, not observed. Pass the data, "
            "or observe with .given(...); without data the result is the prior.",
            ProbinfWarning,
            stacklevel=2,
        )


def arguments_of(program: Any) -> list[tuple[str, Any]]:
    """The arguments of a model by name, defaults included."""
    args, kwargs = program.arguments.join(program.arguments.dynamic)
    try:
        bound = inspect.signature(program.function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # built-in callables; wrong calls are reported when the model is staged
        return [(str(i), a) for i, a in enumerate(args)] + list(kwargs.items())
    bound.apply_defaults()
    return list(bound.arguments.items())


def _refuse_indices(program: Any, eqn: Any, indices: np.ndarray, size: int) -> None:
    wrong = (indices < 0) | (indices >= size)
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    value = int(indices[first])
    value = value - size if value < 0 else value  # as it was written
    place = made_at(eqn)
    name = next(
        (repr(n) for n, a in arguments_of(program) if isinstance(a, np.ndarray) and _holds(a, first, value)), ""
    )
    raise DataError(
        f"Model {program.name!r}{f', {place}' if place else ''}: index {value}{f' of {name}' if name else ''} at "
        f"position {first} is beyond an axis of size {size}; {int(wrong.sum())} of {wrong.size} are. Expected 0 to "
        f"{size - 1}, or -1 to -{size} from the end. To take the last entry instead: x.at[i].get(mode='clip')."
    )


def _holds(array: np.ndarray, place: tuple[int, ...], value: int) -> bool:
    return array.ndim == len(place) and all(map(int.__lt__, place, array.shape)) and array[place] == value


def _check_factor(site: Any, distribution: Any, found: Findings) -> None:
    """NumPyro keeps the Cholesky factor of a covariance, which is NaN where there is none."""
    factor = distribution.__dict__.get("scale_tril")
    if isinstance(factor, np.ndarray) and np.isnan(factor).any() and found.indefinite:
        matrix = found.indefinite[-1]
        if not np.isfinite(matrix).all():
            why = "it holds NaN or infinite entries"
        elif not np.allclose(matrix, np.swapaxes(matrix, -1, -2)):
            why = "it is not symmetric"
        else:
            why = f"smallest eigenvalue {np.linalg.eigvalsh(matrix).min():.6g}"
        raise ModelError(
            f"Site {site.label}: the covariance of {family_name(distribution)} is not symmetric and positive definite: "
            f"{why}. Average it with its transpose, and add a small multiple of the identity if it is singular."
        )


def _array(value: Any) -> Any:
    if isinstance(value, Stacked):
        return value.array
    return value if isinstance(value, np.ndarray) else None


def _escapes(distribution: Any) -> Iterator[tuple[str, str, Any, Range]]:
    """Parameters whose range leaves their domain."""
    for parameter, constraint in distribution.arg_constraints.items():
        reached = distribution.__dict__.get(parameter)
        domain = bounds_of(constraint) if not dist.constraints.is_dependent(constraint) else None
        if not isinstance(reached, Range) or not reached.sites or domain is None:
            continue
        if reached.low < domain[0] or reached.high > domain[1]:
            yield family_name(distribution), parameter, constraint, reached
    inner = getattr(distribution, "base_dist", None)
    if isinstance(inner, dist.Distribution):
        yield from _escapes(inner)
