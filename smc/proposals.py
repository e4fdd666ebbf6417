"""Where particles go next: blindly, by a law of the user's, or towards the observation; and look-ahead weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ArgumentTypeError, ModelError, UnknownNameError
from probinf.language.distributions import log_density, standard_promotion
from probinf.language.primitives import Site, bind_factor, bind_sample
from smc.gaussian_approximation import moments
from smc.small_normal import SmallNormal, cholesky, solve_lower
from smc.state_space_model import StateSpaceModel
from smc.unscented import sigma_points


class Proposal(eqx.Module):
    """How a filter draws the next state. The weights make up for it: every proposal is unbiased.

    A proposal may also look ahead: before the population resamples, weights are multiplied by a guess of how well each
    particle will explain the next observation, and divided by it afterwards (auxiliary particle filter; Pitt & Shephard
    1999, in the form of Johansen & Doucet 2008).
    """

    def initial(self, model: StateSpaceModel, y: Any) -> dist.Distribution | None:
        """The law that x_0 is drawn from; None for the model's own."""
        return None

    def law(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> dist.Distribution | None:
        """The law that x_t is drawn from, given x_{t-1} and y_t; None for the transition."""
        return None

    def log_lookahead(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> jax.Array | None:
        """Log of the guess at p(y_t | x_{t-1}), a scalar, nats; None for no look-ahead."""
        return None

    def propose(self, model: StateSpaceModel, t: Any, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> jax.Array:
        """Draw x_t, (*state), given x_{t-1} = x, and score it: the statements of one step (x_0 where `x` is None)."""
        with standard_promotion():
            prior = model.initial() if x is None else model.transition(t, x)
            law = self.initial(model, y) if x is None else self.law(model, t, x, y)
        (new,) = bind_sample(Site(names[0]), prior if law is None else law)
        score = model.log_observation(t, new, y)
        if law is not None:
            score = score + log_density(prior, new) - log_density(law, new)
        bind_factor(Site(names[1]), score)
        return new


class Bootstrap(Proposal):
    """Particles move by the transition, blind to the observation (Gordon, Salmond & Smith 1993)."""


class Guided(Proposal):
    """A law of the user's own.

    Args:
        law: (model, t, x_{t-1}, y_t) to the distribution of x_t.
        initial: (model, y_0) to the distribution of x_0; the model's own by default.
        log_lookahead: (model, t, x_{t-1}, y_t) to a guess of log p(y_t | x_{t-1}).
    """

    draw_from: Callable[..., Any] = eqx.field(static=True)
    first: Callable[..., Any] | None = eqx.field(static=True)
    guess: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(
        self,
        law: Callable[..., Any],
        *,
        initial: Callable[..., Any] | None = None,
        log_lookahead: Callable[..., Any] | None = None,
    ) -> None:
        for name, function in (("law", law), ("initial", initial), ("log_lookahead", log_lookahead)):
            if not callable(function) and not (function is None and name != "law"):
                raise ArgumentTypeError(f"{name}: expected a function, found {type(function).__name__}.")
        self.draw_from, self.first, self.guess = law, initial, log_lookahead

    def initial(self, model: StateSpaceModel, y: Any) -> dist.Distribution | None:
        return None if self.first is None else _checked("initial", self.first(model, y))

    def law(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> dist.Distribution | None:
        return _checked("law", self.draw_from(model, t, x, y))

    def log_lookahead(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> jax.Array | None:
        return None if self.guess is None else jnp.asarray(self.guess(model, t, x, y))


class Linearised(Proposal):
    """Each particle's own Gaussian update: its transition as a Gaussian, conditioned on the observation.

    For a Gaussian transition and an observation that is linear in the state with Gaussian noise this is the optimal
    proposal p(x_t | x_{t-1}, y_t) (Doucet, Godsill & Andrieu 2000); otherwise an approximation that weights correct.

    Args:
        rule: "extended" takes the derivative of the observation's mean, "unscented" sigma points.
        adapted: also look ahead with the Gaussian predictive density. In the linear-Gaussian case the filter is then
            fully adapted (all weights equal); elsewhere an auxiliary filter, whose guess can be too narrow: watch the
            effective sample size.
    """

    rule: Literal["extended", "unscented"] = eqx.field(static=True)
    adapted: bool = eqx.field(static=True)

    def __init__(self, rule: Literal["extended", "unscented"] = "extended", *, adapted: bool = False) -> None:
        if rule not in ("extended", "unscented"):
            raise UnknownNameError(rule, ("extended", "unscented"), "rule", "Linearised")
        self.rule, self.adapted = rule, bool(adapted)

    def initial(self, model: StateSpaceModel, y: Any) -> dist.Distribution | None:
        return self._update(model, model.initial(), jnp.asarray(0), y)[0]

    def law(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> dist.Distribution | None:
        return self._update(model, model.transition(t, x), t, y)[0]

    def log_lookahead(self, model: StateSpaceModel, t: Any, x: Any, y: Any) -> jax.Array | None:
        return self._update(model, model.transition(t, x), t, y)[1] if self.adapted else None

    def _update(self, model: StateSpaceModel, motion: Any, t: Any, y: Any) -> tuple[dist.Distribution, jax.Array]:
        """The Gaussian N(x; motion) conditioned on y, and the log density of y that it predicts."""
        shape = motion.event_shape
        mean, cov = moments(motion, "nominal")
        flat = jnp.reshape(y, (-1,))
        seen = ~jnp.isnan(flat) if model.missing == "nan" else jnp.ones(flat.shape, bool)

        def observed_moments(x: Any) -> tuple[jax.Array, jax.Array]:
            return moments(model.observation(t, jnp.reshape(x, shape)), "nominal")

        predicted, noise = observed_moments(mean)
        if self.rule == "extended":
            slope = jax.jacfwd(lambda x: observed_moments(x)[0])(mean)
            cross = slope @ cov
            spread = cross @ slope.T
        else:
            third = [jnp.asarray(v, mean.dtype) for v in (1.0, 0.0, 3.0 - mean.size)]
            points = sigma_points(cov, *third)
            images = jax.vmap(lambda d: observed_moments(mean + d)[0])(points.deviations)
            predicted = points.mean_weights @ images
            gaps = images - predicted[None]
            cross = (points.cov_weights[:, None] * gaps).T @ points.deviations
            spread = (points.cov_weights[:, None] * gaps).T @ gaps
        residual = jnp.where(seen, flat - predicted, 0)
        cross = jnp.where(seen[:, None], cross, 0)
        both = seen[:, None] & seen[None, :]
        total = jnp.where(both, spread + noise, jnp.eye(flat.size, dtype=cov.dtype))
        factor = cholesky(total)
        white = solve_lower(factor, residual)
        white_cross = solve_lower(factor, cross)
        centre = mean + white_cross.T @ white
        tightened = cholesky(cov - white_cross.T @ white_cross)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
        count = jnp.sum(seen, dtype=jnp.int32).astype(cov.dtype)
        log_predictive = -0.5 * jnp.sum(white**2) - log_det - 0.5 * count * jnp.log(2 * jnp.pi).astype(cov.dtype)
        if shape == ():
            return dist.Normal(centre[0], tightened[0, 0]), log_predictive
        return SmallNormal(centre, tightened), log_predictive


def _checked(name: str, law: Any) -> dist.Distribution:
    if not isinstance(law, dist.Distribution):
        raise ModelError(f"Guided.{name}: expected a distribution, found {type(law).__name__}.")
    return law
