"""Meanings of statements in one world: draw forward, score an assignment, condition, constrain."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import DataError, ModelError
from probinf.language.distributions import draw, draw_type, log_density, stand_in, standard_promotion
from probinf.language.evaluate import Handler, Records
from probinf.language.primitives import Site, bind_factor, bind_observe, bind_sample, deterministic_p


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.result_type(float))


def _weighed(log_weight: jax.Array, log_factor: jax.Array) -> jax.Array:
    """Add a score. An execution of weight zero keeps it: parameters met later may be impossible and their score NaN."""
    dead = log_weight == -jnp.inf
    return jnp.where(dead, log_weight, log_weight + log_factor.astype(log_weight.dtype))


def _shape(distribution: Any) -> tuple[int, ...]:
    return (*distribution.batch_shape, *distribution.event_shape)


def _total(log_factor: Any) -> jax.Array:
    return jnp.sum(jnp.asarray(log_factor)).astype(jnp.result_type(float))


class Forward(Handler):
    """Draw latent sites that have no value; keep the log weight of observations and factors.

    Args:
        predict: draw a replicate of every observed site instead of scoring it, and record it.
        only: record these sites only; all of them by default.
    """

    def __init__(self, *, predict: bool = False) -> None:
        self.predict = predict
        self._count = 0

    def start(self, key: jax.Array) -> Any:
        """The state at the start of a run."""
        return {"key": key, "log_weight": _zero()}

    def _key(self, state: Any) -> jax.Array:
        # One static number per statement: a key is spent once, and draws do not depend on how calls are nested.
        self._count += 1
        return jax.random.fold_in(state["key"], self._count)

    def _weigh(self, state: Any, log_weight: Any) -> Any:
        return {**state, "log_weight": _weighed(state["log_weight"], log_weight)}

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None:
            value = self.draw(site, distribution, state)
        return value, state, _record(site, value)

    def draw(self, site: Site, distribution: Any, state: Any) -> Any:
        """A new value for a site.

        Raises:
            ModelError: the site's distribution is improper.
        """
        try:
            return draw(distribution, self._key(state))
        except NotImplementedError:
            raise ModelError(
                f"Site {site.label}: {site.family} cannot be drawn from, and particles and simulation draw every "
                "latent site. Use a proper prior, or a method that needs the density only, such as pi.NUTS()."
            ) from None

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        if self.predict:
            return state, _record(site, draw(distribution, self._key(state)))
        return self._weigh(state, log_density(distribution, value)), {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return self._weigh(state, _total(log_factor)), {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, _record(site, value)

    def loop(self, state: Any, length: int) -> tuple[Any, Any]:
        # All the keys of a loop in one call, outside of it.
        return state["log_weight"], jax.random.split(self._key(state), length)

    def iteration(self, carried: Any, own: Any) -> Any:
        return {"key": own, "log_weight": carried}

    def after_iteration(self, state: Any) -> Any:
        return state["log_weight"]

    def after_loop(self, before: Any, carried: Any) -> Any:
        return {**before, "log_weight": carried}

    def renew(self, state: Any) -> Any:
        return {**state, "key": self._key(state)}


class Score(Handler):
    """Log density of an assignment of all latent sites, on the scale of the values themselves."""

    vectorise_loops = True

    def start(self) -> jax.Array:
        """The state at the start of a run."""
        return _zero()

    def assign(self, site: Site, distribution: Any, value: Any) -> tuple[Any, Any]:
        """The site's value and its contribution to the log density."""
        expected = _shape(distribution)
        if jnp.shape(value) != expected:
            raise DataError(
                f"Site {site.label}: the value has shape {jnp.shape(value)} where the site is drawn, expected "
                f"{expected}. A value that broadcasts would be counted several times."
            )
        return value, log_density(distribution, value)

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None and not site.name:
            # Nothing that is scored looks at it (`refuse_unnamed`), so any legal value will do.
            return stand_in_value(distribution), state, {}
        if value is None:
            raise DataError(f"Site {site.label} needs a value: the log density is of a full assignment.")
        value, log_weight = self.assign(site, distribution, value)
        return value, _weighed(state, log_weight), _record(site, value)

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return _weighed(state, log_density(distribution, value)), {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return _weighed(state, _total(log_factor)), {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, _record(site, value)

    def assigned(self, params: dict) -> bool:
        return True

    def silent(self) -> Handler:
        return _Silent(self)

    def fresh(self, state: Any) -> Any:
        return jnp.zeros_like(state)

    def join(self, state: Any, states: Any) -> Any:
        dead = jnp.any(states == -jnp.inf)
        return _weighed(state, jnp.where(dead, jnp.asarray(-jnp.inf, states.dtype), jnp.sum(states)))


class ScoreUnconstrained(Score):
    """Log density on unconstrained space: NumPyro's bijections, log Jacobians included.

    Args:
        non_centred: names of Gaussian sites whose unconstrained value is the standardised one, z = (x - loc) / scale.
    """

    def __init__(self, non_centred: frozenset[str] = frozenset()) -> None:
        self.non_centred = non_centred

    def assign(self, site: Site, distribution: Any, value: Any) -> tuple[Any, Any]:
        with standard_promotion():
            if site.name in self.non_centred:
                constrained = standardisation(site, distribution)[0](value)
                return constrained, jnp.sum(dist.Normal(0.0, 1.0).log_prob(value))
            transform = dist.biject_to(distribution.support)
            constrained = transform(value)
            jacobian = jnp.sum(transform.log_abs_det_jacobian(value, constrained))
            return constrained, jnp.sum(distribution.log_prob(constrained)) + jacobian

    def assigned(self, params: dict) -> bool:
        # A bijection whose bounds are random (Uniform(0, previous)) makes the value depend on the parameters.
        return params["site"].support is not None and params["site"].name not in self.non_centred


def stand_in_value(distribution: Any) -> Any:
    """Some value of a draw's shape and type."""
    if hasattr(distribution, "draw_dtype"):
        return jnp.zeros(distribution.shape(), distribution.draw_dtype)
    with standard_promotion():
        leaves, structure = jax.tree.flatten(distribution)
        shape, dtype = draw_type(leaves, structure)
        return jnp.zeros(shape, dtype)


def standardisation(site: Site, distribution: Any) -> tuple[Any, Any]:
    """The maps from standardised to actual values of a Gaussian site, and back.

    Raises:
        ModelError: the site's distribution is not a Normal or a MultivariateNormal.
    """
    base = distribution
    while isinstance(base, dist.Independent):
        base = base.base_dist
    if isinstance(base, dist.ExpandedDistribution) and isinstance(
        base.base_dist, dist.Normal | dist.MultivariateNormal
    ):
        base = base.base_dist
    if isinstance(base, dist.Normal):
        return (lambda z: base.loc + base.scale * z), (lambda x: (x - base.loc) / base.scale)
    if isinstance(base, dist.MultivariateNormal):
        lower = jnp.asarray(base.scale_tril)

        def forward(z: Any) -> Any:
            return base.loc + jnp.einsum("...ij,...j->...i", lower, z)

        def back(x: Any) -> Any:
            gap = x - base.loc
            factor = jnp.broadcast_to(lower, (*gap.shape, gap.shape[-1]))
            return jax.scipy.linalg.solve_triangular(factor, gap[..., None], lower=True)[..., 0]

        return forward, back
    raise ModelError(
        f"non_centred: site {site.label} is a {type(distribution).__name__}; only Normal and MultivariateNormal sites "
        "can be standardised."
    )


class SiteScores(ScoreUnconstrained):
    """Records each site's own log density instead of its value: the table shown when no legal start is found."""

    vectorise_loops = False

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if not site.name:
            return stand_in_value(distribution), state, {}
        value, log_weight = self.assign(site, distribution, value)
        return value, state, _record(site, log_weight)

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return state, _record(site, log_density(distribution, value))

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return state, _record(site, _total(log_factor))

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class _Silent(Handler):
    """The same values as another scoring handler, and nothing else."""

    def __init__(self, scorer: Score) -> None:
        self.scorer = scorer

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None and not site.name:
            return stand_in_value(distribution), state, {}
        return self.scorer.assign(site, distribution, value)[0], state, {}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class Unconstrain(Forward):
    """Run forward (or with given values) and record every latent value on unconstrained space."""

    def __init__(self, non_centred: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.non_centred = non_centred

    def draw(self, site: Site, distribution: Any, state: Any) -> Any:
        try:
            return draw(distribution, self._key(state))
        except NotImplementedError:  # a start of some kind: an improper prior has no draws
            return stand_in(distribution)

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        value, state, _ = super().sample(site, distribution, value, state)
        if not site.name:
            return value, state, {}
        with standard_promotion():
            if site.name in self.non_centred:
                return value, state, _record(site, standardisation(site, distribution)[1](value))
            return value, state, _record(site, dist.biject_to(distribution.support).inv(value))

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class Condition(Handler):
    """Emit the program again: sites with a value become observations, sites with a prior draw from it.

    Args:
        priors: distributions that replace a site's own.
        record: keep latent and deterministic values as results.
        freeze: leave out the density of sites that have a value, and the sites with it.
    """

    def __init__(self, priors: dict[str, Any] | None = None, *, record: bool = False, freeze: bool = False) -> None:
        self.priors = priors or {}
        self.record = record
        self.freeze = freeze

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is not None:
            if not self.freeze:
                bind_observe(site, distribution, value)
            return value, state, {}
        prior = self.priors.get(site.name, distribution)
        if _shape(prior) != _shape(distribution):
            raise DataError(
                f"with_prior: site {site.label} stands inside a loop, where its shape is {_shape(distribution)}; the "
                f"new prior has shape {_shape(prior)}. Pass parameters that vary along the loop as the loop's inputs."
            )
        (value,) = bind_sample(site, prior)
        return value, state, (_record(site, value) if self.record else {})

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        bind_observe(site, distribution, value)
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        bind_factor(site, log_factor)
        return state, {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        deterministic_p.bind(jnp.asarray(value), site=site)
        return state, (_record(site, value) if self.record else {})


def _record(site: Site, value: Any) -> Records:
    return {site.name: value} if site.name else {}
