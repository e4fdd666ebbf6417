"""Models and programs: a model is a function with statements, a program is a model with its arguments and data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf._jax import Tracer
from probinf.errors import ArgumentTypeError, DataError, ModelError, ProbinfError, UnknownNameError
from probinf.language.checks import as_data, check_values, empty, shape_remedy
from probinf.language.door import check_operands, check_rows
from probinf.language.graph import Graph, graph_of
from probinf.language.handlers import Forward, Score
from probinf.language.mistakes import shortened
from probinf.language.sites import SiteInfo
from probinf.language.staging import Arguments, Staged, stage
from probinf.language.statements import is_staging
from probinf.language.unnamed import unnamed_reaches_scores
from probinf.native import in_one_piece
from probinf.random import as_key
from probinf.unrolled_threefry import unrolled


class Model:
    """A function with statements. Calling it binds arguments: the result is a `Program`.

    Called while another model is being staged, it runs inline: a sub-model whose sites belong to the outer program.
    """

    __name__: str

    def __init__(self, function: Callable) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_staging():
            return self.function(*args, **kwargs)
        return Program(self.__name__, self.function, Arguments.split(args, kwargs))

    @property
    def staged(self) -> Any:
        """Not for models: whatever needs a program asks for this first.

        Raises:
            ArgumentTypeError: always, with what to do.
        """
        raise ArgumentTypeError(
            f"Expected a program, found the model {self.__name__!r}: call it with its arguments and data, "
            f"{self.__name__}(...)."
        )

    def __repr__(self) -> str:
        return f"<model {self.__name__}>"


def model(function: Callable) -> Model:
    """Make a model of a Python function whose body draws and observes.

    Array and float arguments are traced (new values of the same shape compile nothing); all others are static.
    """
    if not callable(function):
        raise ArgumentTypeError(f"@model: expected a function, found {type(function).__name__}.")
    return Model(function)


@dataclasses.dataclass(frozen=True)
class Program:
    """A model with its arguments, and possibly with values or other priors for some of its sites.

    It denotes an unnormalised measure: draws of the latent sites, weighted by the densities of the observed ones and
    by the factors.
    """

    name: str
    function: Callable
    arguments: Arguments
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    priors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allow_empty: bool = False

    @functools.cached_property
    def _staged(self) -> tuple[Staged, Any]:
        try:
            staged, operands = stage(self.name, self.function, self.arguments, self.values, self.priors)
            if not self.allow_empty:
                check_rows(self.name, staged)
            check_operands(self, staged, operands)
        except ProbinfError as error:
            raise shortened(error) from None
        return staged, operands

    @property
    def staged(self) -> Staged:
        """The jaxpr and the table of sites.

        Raises:
            ModelError: a mistake in the model that is found while it is read, or an impossible parameter.
            DataError: NaN, infinite or unsupported values at an observed site.
        """
        return self._staged[0]

    @property
    def operands(self) -> Any:
        """The arrays that the staged program takes: arguments and data."""
        return self._staged[1]

    @property
    def sites(self) -> tuple[SiteInfo, ...]:
        """The table of sites in program order."""
        return self.staged.sites

    def given(self, *, allow_empty: bool = False, **values: Any) -> Program:
        """Observe sites: the same program with these sites' values known.

        A site inside a `lax.scan` takes its values stacked along the loop. Names, shapes, NaN and supports are checked
        here, before anything is compiled. `allow_empty` accepts data without rows.

        Raises:
            UnknownNameError: no such site; the nearest name is suggested.
            DataError: wrong shape, NaN, infinite, outside the support, or without rows.
        """
        if allow_empty:
            return dataclasses.replace(self, allow_empty=True).given(**values)
        latent = {s.name: s for s in self.sites if s.kind == "sample"}
        checked = {}
        for name, value in values.items():
            if name not in latent:
                already = [s for s in self.sites if s.name == name and s.kind == "observe"]
                if already:
                    raise DataError(f"Site {already[0].label} of model {self.name!r} is observed already.")
                raise UnknownNameError(name, latent, "site", f"model {self.name!r}")
            if value is None:
                raise DataError(
                    f"Site {name!r} of model {self.name!r}: expected a value, found None. Leave the name out to keep "
                    "the site latent."
                )
            checked[name] = _checked(self.name, latent[name], value)
        program = dataclasses.replace(self, values={**self.values, **checked})
        program.staged  # noqa: B018  staging is the dry run
        return program

    def with_prior(self, **beliefs: Any) -> Program:
        """Replace the distribution of latent sites: a NumPyro distribution or a belief (an earlier posterior).

        Raises:
            UnknownNameError: no such latent site.
            DataError: the new prior's shape is not the site's.
        """
        latent = {s.name: s for s in self.sites if s.kind == "sample"}
        priors = {}
        for name, belief in beliefs.items():
            if name not in latent:
                raise UnknownNameError(name, latent, "site", f"model {self.name!r}")
            prior = (
                belief if hasattr(belief, "log_prob") and hasattr(belief, "batch_shape") else belief.as_distribution()
            )
            shape = tuple(prior.batch_shape) + tuple(prior.event_shape)
            if shape != latent[name].shape:
                raise DataError(f"with_prior: {name!r} has shape {latent[name].shape}, the new prior {shape}.")
            priors[name] = prior
        return dataclasses.replace(self, priors={**self.priors, **priors})

    def with_operands(self, operands: Any) -> Program:
        """The same program with other arrays of the same shapes for its arguments and data; they are not checked."""
        other = dataclasses.replace(self)
        other.__dict__["_staged"] = (self.staged, operands)
        return other

    def graph(self) -> Graph:
        """Which sites depend on which; `pi.plots.plot_program(program)` draws it."""
        return graph_of(self.name, self.staged.closed.jaxpr)

    def unconstrained(self, *, non_centred: Iterable[str] = ()) -> Any:
        """The log density of the latent sites on unconstrained space, for gradient methods.

        Args:
            non_centred: names of Normal or MultivariateNormal sites to be seen through their standardised value.

        Raises:
            UnknownNameError: no such latent site.
            ModelError: a site of another family.
        """
        from probinf.language.density import Unconstrained

        refuse_unnamed(self)
        names = frozenset(non_centred)
        latent = {s.name for s in self.staged.latent()}
        for name in sorted(names - latent):
            raise UnknownNameError(name, latent, "latent site", f"model {self.name!r}")
        return Unconstrained(self.name, self.staged, self.operands, names)

    def to_numpyro(self) -> Callable[[], Any]:
        """The same model for NumPyro: a function without arguments, data included, with equal log density.

        Raises:
            ModelError: a site inside a while loop or a switch of more than two branches.
        """
        from probinf.language.numpyro_export import numpyro_model

        return numpyro_model(self.staged, self.operands)

    def simulate(self, seed: Any = 0, num_draws: int | None = None) -> dict[str, jax.Array]:
        """Draw from the prior predictive: every latent site, a replicate of every observed one, named values.

        Args:
            seed: an integer or a key.
            num_draws: number of independent draws along a new first axis; None for one draw without that axis.
        """
        key = as_key(seed)
        try:
            if num_draws is None:
                return _simulate(self.staged, self.operands, key)
            return _simulate_many(self.staged, self.operands, jax.random.split(key, num_draws))
        except ProbinfError as error:
            raise shortened(error) from None

    def run(self, seed: Any = 0) -> tuple[Any, jax.Array]:
        """Run forward once: the return value, and the log weight of the observations and factors met."""
        return _run(self.staged, self.operands, as_key(seed))

    def log_density(self, values: Mapping[str, Any]) -> jax.Array:
        """Log density of an assignment of every latent site (observations and factors included), in nats."""
        names = {s.name for s in self.staged.latent()}
        for name in values:
            if name not in names:
                raise UnknownNameError(name, names, "site", f"model {self.name!r}")
        missing = sorted(names - set(values))
        if missing:
            raise DataError(f"log_density of model {self.name!r}: no value for {', '.join(map(repr, missing))}.")
        refuse_unnamed(self)
        return _log_density(self.staged, self.operands, {n: jnp.asarray(v) for n, v in values.items()})

    def __repr__(self) -> str:
        lines = [f"program {self.name}"]
        for s in self.sites:
            mark = {"sample": "~", "observe": "observed ~", "factor": "factor", "deterministic": "="}[s.kind]
            lines.append(
                f"  {s.name} {mark} {s.site.family if s.kind in ('sample', 'observe') else ''} {s.shape}".rstrip()
            )
        return "\n".join(lines)


def refuse_unnamed(program: Program) -> None:
    """Refuse the log density of a program in which something scored depends on a draw without a name.

    Raises:
        ModelError: it does.
    """
    if unnamed_reaches_scores(program.staged.closed.jaxpr):
        raise ModelError(
            f"Program {program.name!r} makes draws of its own (an algorithm's, or a summed-out part's) that its scores "
            "depend on, so an assignment of its named sites has no density. Run it by particles or "
            "pi.MCMC(pi.redraw()); or keep what depends on a summed-out part inside of it."
        )


def _checked(model_name: str, info: SiteInfo, value: Any) -> jax.Array:
    value = as_data(f"Site {info.label}", value)
    if value.size == 0 and 0 not in info.shape:
        raise empty(f"Site {info.label} of model {model_name!r}", value.shape)
    if tuple(value.shape) != info.shape:
        loops = len([n for n in info.loops if n is not None])
        names = ["loop" if i < loops else d or "axis" for i, d in enumerate(info.dims)]
        axes = [f"{n} ({name})" for n, name in zip(info.shape, names, strict=True)]
        raise DataError(
            f"Site {info.label} of model {model_name!r}: the value given has shape {tuple(value.shape)}, expected "
            f"{info.shape}"
            + (f", that is {' x '.join(axes)}. " if axes else ". ")
            + shape_remedy(tuple(value.shape), info.shape)
        )
    if not isinstance(value, Tracer):
        check_values(info.site, np.asarray(value))
    if np.issubdtype(value.dtype, np.floating) and info.discrete:
        return value  # kept: 2.5 under a Poisson is found by the support check, 2.0 is harmless
    return value.astype(info.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _run(staged: Staged, operands: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    def forward(operands: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        handler = Forward()
        value, state, _ = staged.run(operands, handler, handler.start(key), {})
        return value, state["log_weight"]

    # The same numbers, drawn in half the time on a CPU.
    return in_one_piece(forward)(operands, unrolled(key))


@functools.partial(jax.jit, static_argnums=0)
def _simulate(staged: Staged, operands: Any, key: jax.Array) -> dict:
    handler = Forward(predict=True)
    return staged.run(operands, handler, handler.start(key), {})[2]


@functools.partial(jax.jit, static_argnums=0)
def _simulate_many(staged: Staged, operands: Any, keys: jax.Array) -> dict:
    return jax.vmap(lambda key: _simulate(staged, operands, key))(keys)


@functools.partial(jax.jit, static_argnums=0)
def _log_density(staged: Staged, operands: Any, values: dict) -> jax.Array:
    return staged.run(operands, Score(), Score().start(), values)[1]
