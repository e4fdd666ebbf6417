"""What a filtering method must supply: pure functions on arrays. Clocks, checks and caching are the Filter's."""

from __future__ import annotations

import abc
import enum
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

if TYPE_CHECKING:
    from probinf.representations.mixture import GaussianMixture
    from probinf.streaming.system import System


class Fault(enum.IntFlag):
    """Reasons why a step could not be taken; the belief before it is kept."""

    NONE = 0
    PREDICTION = 1
    UPDATE = 2
    COLLAPSE = 4
    NAN_WEIGHTS = 8

    def explain(self) -> str:
        """What happened and what to do, one sentence per flag."""
        return " ".join(_REMEDIES[flag] for flag in Fault if flag and flag in self)


_REMEDIES = {
    Fault.PREDICTION: (
        "The predicted belief is not finite or has a negative variance: the motion's mean is not finite there, or its "
        "covariance is not positive definite. Pass a scale_tril (its diagonal may hold zeros) instead of a "
        "covariance_matrix, or enable 64-bit floats (jax_enable_x64)."
    ),
    Fault.UPDATE: (
        "The updated belief is not finite or has a negative variance: a covariance is not positive definite, or the "
        "sensor's mean is not finite at the predicted state. Enable 64-bit floats (jax_enable_x64), or add noise to "
        "the sensor."
    ),
    Fault.COLLAPSE: "Every particle has weight zero: the value is impossible under the sensor model (outlier?).",
    Fault.NAN_WEIGHTS: "The sensor's log density is NaN at some particles.",
}


class UpdateInfo(eqx.Module):
    """What one event did.

    Attributes:
        predictive_log_density: log p(value | past), nats; of the observed coordinates only; 0 where all are missing.
        innovation: value minus its prediction, flattened (on the circle for angles); NaN where missing or not computed.
        nis: innovation' S^-1 innovation; NaN for methods without a Gaussian prediction.
        ess: effective sample size after the update, before resampling; NaN for methods without particles.
        gated: whether the value was refused by the gate and the belief left as predicted.
        num_missing: number of coordinates that were missing.
        fault: bits of `Fault`; where non-zero the belief before the event was kept.
    """

    predictive_log_density: Float[Array, " *shape"]
    innovation: Float[Array, " *shape_of_innovation"]
    nis: Float[Array, " *shape"]
    ess: Float[Array, " *shape"]
    gated: Bool[Array, " *shape"]
    num_missing: Int[Array, " *shape"]
    fault: Int[Array, " *shape"]

    @classmethod
    def create(cls, predictive_log_density: Array, observed: Array, **given: Any) -> UpdateInfo:
        """Info of one update; what is not `given` gets the value that means "not computed"."""
        dtype = predictive_log_density.dtype
        nan = jnp.asarray(jnp.nan, dtype)
        fields = {
            "innovation": jnp.full(observed.size, jnp.nan, dtype),
            "nis": nan,
            "ess": nan,
            "gated": jnp.zeros((), bool),
            "num_missing": jnp.sum(~observed).astype(jnp.int32),
            "fault": jnp.zeros((), jnp.int32),
        }
        return cls(predictive_log_density=predictive_log_density, **(fields | given))


class AbstractFilterMethod(eqx.Module):
    """A way to filter: fields are settings, methods are pure functions of arrays that run inside compiled code.

    `state` is a pytree of arrays and the method's own affair. `system` gives the model as distributions. `sensor` is a
    Python string, known at trace time. Nothing here sees a clock: `dt` is a positive scalar in seconds (a step of zero
    never reaches the method).
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, system: System) -> Any:
        """The state that stands for the system's prior; whatever is random later rides in it."""

    @abc.abstractmethod
    def predict(self, state: Any, system: System, dt: Array, control: Array | None) -> Any:
        """The state a time `dt` > 0 later, of the same structure, shapes and dtypes."""

    @abc.abstractmethod
    def update(
        self, state: Any, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[Any, UpdateInfo]:
        """Condition on a value of `sensor`; `value` and `observed` have the sensor's event shape.

        `value` is finite everywhere: missing coordinates hold 0 and `observed` is False there.
        """

    @abc.abstractmethod
    def mean(self, state: Any) -> Array:
        """Shape (d,)."""

    @abc.abstractmethod
    def cov(self, state: Any) -> Array:
        """Shape (d, d)."""

    @abc.abstractmethod
    def sample(self, state: Any, key: jax.Array, n: int) -> Array:
        """Shape (n, d)."""

    @abc.abstractmethod
    def log_prob(self, state: Any, x: Array) -> Array:
        """Log density at x of shape (..., d)."""

    @abc.abstractmethod
    def as_mixture(self, state: Any, k: int) -> GaussianMixture:
        """At most `k` components."""

    @abc.abstractmethod
    def claim(self, system: System) -> str:
        """`exact`, `unbiased`, `consistent` or `approximate`: how the result relates to the filtering distribution."""

    def reason(self, system: System) -> str:
        """Why the claim is what it is, in a few words."""
        return ""

    def notes(self, system: System) -> tuple[str, ...]:
        """Things about this method on this system that a user should know; shown with every run."""
        return ()

    def check(self, state: Any) -> Array:
        """Bits of `Fault` for a state after `predict`; 0 if it is sound."""
        return jnp.zeros((), jnp.int32)

    def smooth(self, system: System, states: Any, dts: Array, controls: Array | None) -> Any:
        """Means (n, d), covariances (n, d, d) and a fault flag given all events, from the filtered states (stacked).

        `dts[k]` is the time from event k - 1 to event k. Methods without a smoother leave this as it is.
        """
        raise NotImplementedError
