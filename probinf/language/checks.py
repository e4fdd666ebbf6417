"""Checks of data and parameters that are known: shapes, NaN, supports, domains. Messages name the site."""

from __future__ import annotations

import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf._jax import Tracer, x64_enabled
from probinf.errors import ArgumentTypeError, DataError, ModelError, ProbinfWarning
from probinf.language.primitives import Site


def check_parameters(name: str, where: str, distribution: Any) -> None:
    """Refuse parameters known to be impossible (a negative scale, weights that do not sum to one)."""
    label = f"Site {name!r} ({where})"
    for parameter, constraint in distribution.arg_constraints.items():
        value = distribution.__dict__.get(parameter)  # absent: lazily computed twins of the parameter that was given
        if not _is_known(value):
            continue
        try:
            legal = np.asarray(constraint(value))
        except (NotImplementedError, ValueError, TypeError, jax.errors.JAXTypeError):  # depends on other parameters
            legal = np.asarray(True)
        if not legal.all():
            raise impossible(label, distribution, parameter, value)
    low, high = distribution.__dict__.get("low"), distribution.__dict__.get("high")
    if _is_known(low) and _is_known(high):
        # A discrete interval may hold one value, a continuous one may not.
        empty = np.asarray(low) > np.asarray(high) if distribution.support.is_discrete else np.asarray(low) >= high
        if empty.any():
            raise ModelError(
                f"{label}: {family_name(distribution)} needs low < high, found low = {_shown(low)} and "
                f"high = {_shown(high)}."
            )
    inner = getattr(distribution, "base_dist", None)
    if isinstance(inner, dist.Distribution):
        check_parameters(name, where, inner)


def _is_known(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | float | int) or (
        isinstance(value, jax.Array) and not isinstance(value, Tracer)
    )


def impossible(label: str, distribution: Any, parameter: str, value: Any) -> ModelError:
    """The error for a parameter outside its domain."""
    constraint, value = distribution.arg_constraints[parameter], np.asarray(value)
    detail = ""
    if constraint is dist.constraints.simplex and value.ndim:
        detail = f" (they sum to {_shown(value.sum(-1))})"
    elif constraint_text(constraint).startswith("positive definite") and value.ndim >= 2 and np.isfinite(value).all():
        if not np.allclose(value, np.swapaxes(value, -1, -2)):
            detail = " (it is not symmetric)"
        else:
            detail = f" (smallest eigenvalue {np.linalg.eigvalsh(value).min():.6g})"
    return ModelError(
        f"{label}: {family_name(distribution)} got an impossible {parameter} = {_shown(value)}{detail}; expected "
        f"{constraint_text(constraint)}."
    )


def family_name(distribution: dist.Distribution) -> str:
    """The family as users write it: the class below expansions and masks, without NumPyro's suffixes."""
    while isinstance(distribution, dist.ExpandedDistribution | dist.MaskedDistribution | dist.Independent):
        distribution = distribution.base_dist
    return re.sub(r"(?<=\w)(Probs|Logits)$", "", type(distribution).__name__)


def _shown(value: Any) -> str:
    if np.size(value) == 1:
        return f"{np.asarray(value).item():.6g}"
    text = np.array2string(np.asarray(value), threshold=6, precision=6, max_line_width=400)
    return re.sub(r"\s+", " ", text)


_IN_WORDS = {
    "simplex": "probabilities that are not negative and sum to one",
    "positive_definite": "positive definite, that is symmetric with positive eigenvalues",
    "real": "a real number",
    "real_vector": "real numbers",
    "positive": "a positive number",
    "nonnegative": "a number that is not negative",
    "unit_interval": "a number from 0 to 1",
    "lower_cholesky": "lower triangular with a positive diagonal",
    "nonnegative_integer": "an integer 0, 1, 2, ...",
    "boolean": "0 or 1",
}


def constraint_text(constraint: Any) -> str:
    """A constraint in words: 'a positive number', 'integer interval [0, 3]'."""
    if isinstance(constraint, dist.constraints.independent):
        return constraint_text(constraint.base_constraint)
    for name, words in _IN_WORDS.items():
        if constraint is getattr(dist.constraints, name, None) or constraint == getattr(dist.constraints, name, None):
            return words
    text = str(constraint)
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    kind = "integers" if constraint.is_discrete else "numbers"
    if low is not None and high is not None:
        return f"{kind} from {_shown(low)} to {_shown(high)}"
    if low is not None:
        return f"{kind} above {_shown(low)}" if not constraint.is_discrete else f"integers from {_shown(low)}"
    if high is not None:
        return f"{kind} below {_shown(high)}"
    return text.replace("_", " ").split("(")[0].strip().lower() or text


def observed_value(site: Site, distribution: Any, obs: Any, *, broadcast: bool = False) -> jax.Array:
    """Check an observed value against its site and return it as an array of the site's shape and dtype."""
    expected = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    value = as_data(f"Site {site.label}", obs)
    if value.size == 0 and 0 not in expected:
        raise empty(f"Site {site.label}", value.shape)
    if tuple(value.shape) != expected:
        try:
            fits = np.broadcast_shapes(value.shape, expected) == expected
        except ValueError:
            fits = False
        if not (fits and (broadcast or value.ndim == 0)):
            raise DataError(
                f"Site {site.label}: the observed value has shape {tuple(value.shape)}, the distribution "
                f"({site.family}) has batch shape {tuple(distribution.batch_shape)} and event shape "
                f"{tuple(distribution.event_shape)}, so {expected} is expected{_axes(site)}. "
                + shape_remedy(tuple(value.shape), expected, fits=fits)
            )
        value = jnp.broadcast_to(value, expected)
    if not isinstance(value, Tracer):
        check_values(site, np.asarray(value))
    return jnp.asarray(value)


def empty(label: str, shape: tuple[int, ...]) -> DataError:
    """The error for data without rows."""
    return DataError(
        f"{label}: the observed value is empty, shape {tuple(shape)}: there is nothing to learn from. Pass data, or "
        "allow_empty=True to pi.infer or .given, which gives the prior."
    )


def shape_remedy(found: tuple[int, ...], expected: tuple[int, ...], *, fits: bool = False) -> str:
    """What to do about data of another shape; `fits`: they broadcast to the expected one."""
    if fits:
        return "Pass broadcast=True to repeat the value on purpose."
    try:
        joined = np.broadcast_shapes(found, expected)
    except ValueError:
        return "Pass data of that shape, or change the arguments of the model that set it."
    call = f": value.reshape({expected})" if np.prod(found) == np.prod(expected) else ""
    return (
        f"The two would broadcast to {joined}, an outer product, so this is refused. "
        f"Reshape the data{call}, or open a pi.plate around the site."
    )


def _axes(site: Site) -> str:
    named = [d for d in site.dims if d]
    return f" (axes {', '.join(map(repr, named))})" if named else ""


def as_data(what: str, obs: Any) -> Any:
    """Data as a numeric array, or an error that names what it is for."""
    if isinstance(obs, jax.Array | Tracer):
        return obs
    if hasattr(obs, "to_numpy"):  # pandas and xarray
        obs = obs.to_numpy()
    try:
        array = np.asarray(obs)
    except ValueError:
        raise ArgumentTypeError(
            f"{what}: expected a rectangular numeric array, found a ragged {type(obs).__name__}. Pad it, and mask or "
            "leave out the padding."
        ) from None
    if array.dtype.kind not in "biufc":
        raise ArgumentTypeError(
            f"{what}: expected numbers, found dtype {array.dtype} ({type(obs).__name__}). "
            "Encode strings and categories as integers first."
        )
    check_precision(what, array)
    return jnp.asarray(array)


_SHARE = 1e-4  # of the spread of the data: rounding above it changes results
_said: set[str] = set()


def check_precision(what: str, array: np.ndarray) -> None:
    """Say, once for each `what`, that 64-bit data lose what matters when JAX keeps 32 bits.

    The rounding of ordinary measurements is far below their spread; that of time stamps, coordinates on the Earth and
    large counts is not.

    Raises:
        DataError: integers that do not fit in 32 bits at all.
    """
    if x64_enabled() or array.size == 0:
        return
    remedy = "Subtract an offset first, or call jax.config.update('jax_enable_x64', True) at the start."
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        largest = max(abs(int(array.max())), abs(int(array.min())))
        if largest >= 2**31:
            raise DataError(f"{what}: the integer {largest} does not fit in 32 bits. {remedy}")
        if largest > 2**24:
            _say_once(what, f"integers up to {largest} cannot all be told apart as 32-bit floats. {remedy}")
    elif array.dtype == np.float64:
        finite = array[np.isfinite(array)]
        if not finite.size:
            return
        if np.abs(finite).max() > np.finfo(np.float32).max:
            raise DataError(f"{what}: {np.abs(finite).max():.3g} does not fit in 32 bits. {remedy}")
        spread = float(finite.max() - finite.min())
        lost = float(np.abs(finite - finite.astype(np.float32).astype(np.float64)).max())
        if lost > _SHARE * spread > 0.0:
            _say_once(
                what,
                f"float64 data are cut to float32, which moves them by up to {lost / spread:.2g} of their "
                f"spread. {remedy}",
            )


def _say_once(what: str, text: str) -> None:
    if what not in _said:
        _said.add(what)
        warnings.warn(f"{what}: {text}", ProbinfWarning, stacklevel=2)


def check_values(site: Site, value: np.ndarray) -> None:
    """Refuse NaN, infinities and values outside a support known while staging."""
    if value.dtype.kind == "f":
        for bad, word in ((np.isnan(value), "NaN"), (np.isinf(value), "infinite")):
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                raise DataError(
                    f"Site {site.label}: {int(bad.sum())} of {value.size} observed values are {word}, the first at "
                    f"index {index}. Leave them out, or draw missing entries at a latent "
                    "site of their own."
                )
    if site.support is None:
        return
    try:
        inside = np.asarray(site.support(value))  # on the host: nothing is compiled for a check
    except (NotImplementedError, TypeError, ValueError):
        return
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        raise DataError(
            f"Site {site.label}: the observed value {value[index]} at index {index} lies outside the support of "
            f"{site.family} ({constraint_text(site.support)}); {int((~inside).sum())} of {inside.size} do."
        )
