"""Programs as NumPyro models: the staged program is run again with statements that NumPyro's handlers understand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.contrib.control_flow
import numpyro.primitives

from probinf import _jax
from probinf.errors import ModelError
from probinf.language.distributions import standard_promotion
from probinf.language.evaluate import Evaluator, Handler, Records, Values
from probinf.language.primitives import Site
from probinf.language.sites import sites_of
from probinf.language.staging import Staged


def numpyro_model(staged: Staged, operands: Any) -> Callable[[], Any]:
    """A NumPyro model without arguments that has the same sites, values and log density.

    Raises:
        ModelError: a site stands inside a while loop, which NumPyro does not have.
    """
    for info in staged.sites:
        if None in info.loops:
            raise ModelError(
                f"Site {info.label} stands inside a while loop, for which NumPyro has no counterpart. Write the loop "
                "as lax.scan with a fixed length to export the model."
            )

    def model() -> Any:
        outs, _, _ = _Exporter(_Emit()).frame(
            staged.closed.jaxpr, staged.closed.consts, jax.tree.leaves(operands), (), {}
        )
        return jax.tree.unflatten(staged.results, outs)

    model.__name__ = model.__qualname__ = staged.name
    return model


class _Emit(Handler):
    """Statements as NumPyro's."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        with _plates(site, distribution), standard_promotion():
            return jnp.asarray(numpyro.sample(site.name, distribution)), state, {}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        with _plates(site, distribution), standard_promotion():
            numpyro.sample(site.name, distribution, obs=value)
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        numpyro.factor(site.name, jnp.sum(log_factor))
        return state, {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        numpyro.deterministic(site.name, value)
        return state, {}


@contextlib.contextmanager
def _plates(site: Site, distribution: Any) -> Iterator[None]:
    # The batch shape is complete already, so the plates only name its axes.
    with contextlib.ExitStack() as stack:
        for dim, name in zip(range(-len(site.dims), 0), site.dims, strict=True):
            if name is not None:
                stack.enter_context(numpyro.plate(name, distribution.batch_shape[dim], dim=dim))
        yield


class _Exporter(Evaluator):
    """Evaluation whose loops and branches are NumPyro's where they hold statements."""

    def scan(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        p = eqn.params
        (n_consts, n_carry), body = _jax.scan_counts(p), p["jaxpr"]
        consts, init, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]

        def step(carry: list, x: list) -> tuple[list, list]:
            outs, _, _ = self.frame(body.jaxpr, body.consts, [*consts, *carry, *x], (), {})
            new = [jnp.asarray(o, jnp.asarray(c).dtype) for o, c in zip(outs[:n_carry], carry, strict=True)]
            return new, outs[n_carry:]

        init = [_jax.as_strong(c) for c in init]
        out, ys = numpyro.contrib.control_flow.scan(
            step, init, list(xs), length=p["length"], reverse=p["reverse"], history=0
        )
        return [*out, *ys], state, {}

    def cond(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        index, *args = operands
        branches = eqn.params["branches"]
        if len(branches) != 2:
            names = sorted({s.label for b in branches for s in sites_of(b.jaxpr)})
            raise ModelError(
                f"Site {', '.join(names)} stands in a switch of {len(branches)} branches; NumPyro's cond has two. "
                "Write nested lax.cond to export the model."
            )
        otherwise, chosen = (lambda a, b=b: self.frame(b.jaxpr, b.consts, a, (), {})[0] for b in branches)
        # NumPyro annotates the condition as a bool; it takes arrays, as lax.cond does.
        condition: Any = jnp.asarray(index) != 0
        outs = numpyro.contrib.control_flow.cond(condition, chosen, otherwise, list(args))
        return list(outs), state, {}
