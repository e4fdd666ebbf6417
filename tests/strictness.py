"""Where the strict settings stop: inside third-party code that was not written for them, and in tests of bad input.

Under `jax_numpy_rank_promotion="raise"` and `jax_numpy_dtype_promotion="strict"`, NumPyro 0.22 cannot draw a batch from
a multivariate normal or evaluate a Bernoulli, BlackJAX 1.7 cannot adapt, and optax's Adam cannot take a step. Our own
code can, so the rules stay on and are lifted only there:

- NumPyro's distributions, bijections and constraints: always, while one of their methods runs. They are leaves and
  never call back into our code.
- whatever calls back into our code (BlackJAX's window adaptation, NumPyro's own MCMC, optax): by the marker
  `@pytest.mark.relaxed_promotion("BlackJAX window adaptation")` on one test, or by `with relaxed_promotion(reason):`
  around a few lines.

The type hook would refuse a wrong argument before the library can say what is wrong with it. Tests of those messages
carry `@pytest.mark.bad_input` (or `pytestmark = pytest.mark.bad_input` for a file), which leaves types unchecked.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jaxtyping

_METHODS = (
    "__init__",
    "__call__",
    "_inverse",
    "cdf",
    "component_cdf",
    "component_log_probs",
    "component_sample",
    "entropy",
    "enumerate_support",
    "icdf",
    "log_abs_det_jacobian",
    "log_prob",
    "rsample",
    "sample",
    "sample_with_intermediates",
)
_PROPERTIES = ("mean", "variance", "covariance_matrix", "precision_matrix")


@contextlib.contextmanager
def relaxed_promotion(reason: str) -> Iterator[None]:
    """Lift the strict promotion rules; `reason` names the third-party code that needs it."""
    if not isinstance(reason, str) or not reason:
        raise ValueError("relaxed_promotion: give the reason, the third-party code that needs the ordinary rules.")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@contextlib.contextmanager
def types_not_enforced() -> Iterator[None]:
    """Let calls through that contradict the type hints, so that the library's own checks answer."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def relax_numpyro_distributions() -> None:
    """Let the methods of NumPyro's own distributions, bijections and constraints run under the ordinary rules."""
    import numpyro.distributions
    from numpyro.distributions import constraints, transforms

    roots = (numpyro.distributions.Distribution, transforms.Transform, constraints.Constraint)
    for cls in {c for root in roots for c in _family(root) if c.__module__.startswith("numpyro.")}:
        for name, member in list(vars(cls).items()):
            if name in _METHODS and inspect.isfunction(member) and not hasattr(member, "_is_relaxed"):
                setattr(cls, name, _relax(member))
            elif name in _PROPERTIES and isinstance(member, property) and member.fget is not None:
                setattr(cls, name, property(_relax(member.fget), doc=member.__doc__))


def _family(cls: type) -> Iterator[type]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


def _relax(function: Any) -> Any:
    @functools.wraps(function)
    def relaxed(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # messages about a model's line look past this frame
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    relaxed._is_relaxed = True
    return relaxed
