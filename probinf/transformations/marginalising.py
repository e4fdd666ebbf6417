"""Sum a finite sub-program out: its draws replaced by one weight and one draw from its exact conditional law."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentTypeError, ModelError
from probinf.language.handlers import Score
from probinf.language.primitives import Site, bind_factor, bind_sample
from probinf.language.program import Model
from probinf.language.staging import Arguments, Staged, restage
from probinf.transformations.traces import support_of

_MOST = 100_000


def marginalise(part: Model) -> Model:
    """The same model with all its sites summed out. Claim: exact.

    Use it for a part of a model: `z = pi.marginalise(component)(weights)`. The scores inside the part become one
    factor, the log of their sum over all assignments, and the result is one draw from the conditional law. What is left
    has no discrete sites there, so gradient methods apply, and a population loses no particle to an unlucky draw.

    Args:
        part: a model whose sites are Bernoulli or Categorical, outside of branches and while loops.

    Raises:
        ArgumentTypeError: not a model, as `@pi.model` makes it.
        ModelError: a site without fixed finite support, in a branch or a while loop, or too many assignments.
    """
    if not isinstance(part, Model):
        raise ArgumentTypeError(f"part: expected a model (a function under @pi.model), found {type(part).__name__}.")

    def summed(*args: Any, **kwargs: Any) -> Any:
        arguments = Arguments.split(args, kwargs)

        def function(dynamic: Any) -> Any:
            args, kwargs = arguments.join(dynamic)
            return part.function(*args, **kwargs)

        staged = restage(part.__name__, function, arguments.dynamic)
        assignments = _assignments(staged)

        def one(values: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            result, log_weight, _ = staged.run(arguments.dynamic, Score(), Score().start(), values)
            return log_weight, result

        log_weights, results = jax.vmap(one)({n: jnp.asarray(v) for n, v in assignments.items()})
        total = jax.nn.logsumexp(log_weights)
        bind_factor(Site(""), total)
        alive = jnp.where(total > -jnp.inf, log_weights, jnp.zeros_like(log_weights))
        (index,) = bind_sample(Site(""), dist.CategoricalProbs(jax.nn.softmax(alive)))
        return jax.tree.map(lambda x: x[index], results)

    functools.update_wrapper(summed, part.function)
    return Model(summed)


def _assignments(staged: Staged) -> dict[str, np.ndarray]:
    """All assignments of the sites, stacked."""
    choices: list[list[np.ndarray]] = []
    names = []
    for info in staged.latent():
        if info.branches or None in info.loops:
            raise ModelError(
                f"marginalise: site {info.label} stands in a branch or a while loop, so its assignments cannot be "
                "listed."
            )
        support = support_of(staged.closed.jaxpr, info)
        size = int(np.prod(info.shape, dtype=int))
        if len(support) ** size > _MOST:
            raise ModelError(f"marginalise: site {info.label} has {len(support)}^{size} values, too many to sum over.")
        names.append(info.name)
        rows = list(itertools.product(support, repeat=size))
        choices.append([np.array(r, info.dtype).reshape(info.shape) for r in rows])
    if not names:
        raise ModelError(f"marginalise: model {staged.name!r} draws nothing.")
    total = int(np.prod([len(c) for c in choices], dtype=float))
    if total > _MOST:
        raise ModelError(f"marginalise: model {staged.name!r} has {total} assignments, too many to sum over.")
    combined = list(itertools.product(*choices))
    return {n: np.stack([c[i] for c in combined]) for i, n in enumerate(names)}
