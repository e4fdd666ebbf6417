"""Layered HGF networks: inference in closed form, one sweep down and one up, with a precision for every unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import ArgumentTypeError, UnknownNameError
from probinf.predictive_coding.couplings import apply, coupling_function, curvature, slope
from probinf.predictive_coding.deep.checks import as_rows, positive_number
from probinf.predictive_coding.deep.network import AbstractNetwork, checked_sizes
from probinf.predictive_coding.learning import MAX_PRECISION
from probinf.predictive_coding.prediction import PROBABILITY_CLIP
from probinf.predictive_coding.rules import AbstractUpdate, Evidence, VolatilityEvidence
from probinf.predictive_coding.unbounded import Unbounded
from probinf.random import as_key

LEAVES = ("continuous", "binary", "categorical")
MODES = ("relaxed", "mean-field")


class LayerBelief(NamedTuple):
    """What a hidden layer carries from one example to the next, each (units,).

    Attributes:
        precision: of the values.
        log_volatility: mean of the volatility level.
        volatility_precision: precision of the volatility level.
    """

    precision: Float[Array, " units"]
    log_volatility: Float[Array, " units"]
    volatility_precision: Float[Array, " units"]


class LayerPosterior(NamedTuple):
    """One layer after the sweeps of one example; of the leaf, precisions are those of the noise.

    Attributes:
        expected_mean: predicted mean.
        expected_precision: predicted precision, marginal.
        mean: posterior mean; of the leaf, the value.
        precision: posterior precision.
        value_error: delta; of a binary leaf, the residual over its variance.
        belief: what is carried on; None for the leaf.
    """

    expected_mean: Array
    expected_precision: Array
    mean: Array
    precision: Array
    value_error: Array
    belief: LayerBelief | None


class LayeredHGF(AbstractNetwork):
    r"""Layers of volatile units between known inputs and clamped outputs.

    Down: $\hat\mu = W g(\hat\mu_{above}) + b$ with predicted precisions from each unit's own volatility. Up: posteriors
    in closed form from the errors below, then the volatility levels. The inputs are known and enter as they are.

    Attributes:
        weights: of the layers 1..L, (units, units above).
        biases: of the layers 1..L, (units,).
        beliefs: of the hidden layers 1..L-1.

    References:
        Baskakovs et al. (2026), arXiv 2605.20293; Weber et al. (2026), eLife RP110174.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array | None, ...]
    beliefs: tuple[LayerBelief, ...]
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    coupling: Callable[[Any], Any] | None = eqx.field(static=True)
    leaf: str = eqx.field(static=True)
    mode: str = eqx.field(static=True)
    pass_uncertainty: bool = eqx.field(static=True)
    update: AbstractUpdate = eqx.field(static=True)
    noise_precision: float = eqx.field(static=True)
    tonic_volatility: float = eqx.field(static=True)
    volatility_drift: float = eqx.field(static=True)

    @property
    def dtype(self) -> Any:
        return self.weights[0].dtype

    def trained_spec(self) -> LayeredHGF:
        where = lambda n: (n.weights, n.biases)  # noqa: E731
        spec = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(where, spec, jax.tree.map(lambda _: True, where(self)))

    def __call__(self, inputs: Any) -> Float[Array, "examples units"]:
        """Expected outputs: the sweep down.

        Raises:
            DataError: the inputs have another shape, or are not finite.
        """
        return _expected(self, as_rows("inputs", inputs, self.shapes[0], self.dtype))

    def infer(self, inputs: Any, outputs: Any) -> tuple[LayerPosterior, ...]:
        """Posteriors of the layers 1..L for each example, all from the present beliefs.

        Raises:
            DataError: data of another shape, or not finite.
        """
        x = as_rows("inputs", inputs, self.shapes[0], self.dtype)
        return _posteriors(self, x, as_rows("outputs", outputs, self.shapes[-1], self.dtype))


def layered_hgf(
    sizes: Sequence[int],
    *,
    key: Any,
    coupling: str | Callable[[Any], Any] | None = "tanh",
    leaf: str = "continuous",
    mode: str = "relaxed",
    pass_uncertainty: bool = False,
    update: AbstractUpdate | None = None,
    noise_precision: float = 1.0,
    tonic_volatility: float = 0.0,
    volatility_drift: float = -4.0,
    bias: bool = True,
) -> LayeredHGF:
    """A network with weights normal of variance 1 / (units above), biases 0, and beliefs of precision 1.

    Args:
        sizes: units of each layer, inputs first.
        key: a seed or key.
        coupling: g, which acts on hidden units above: a name (`"tanh"`, `"relu"`, ...), a function, or None for the
            identity.
        leaf: outputs are `"continuous"` with known noise, `"binary"` (0 or 1, logits predicted) or `"categorical"`
            (one-hot, logits predicted).
        mode: `"relaxed"`: the uncertainty of the volatility and the evidence that a unit received count;
            `"mean-field"`: they do not.
        pass_uncertainty: hidden units add the uncertainty of their values to the predicted variance below.
        update: rule of the volatility levels; `Unbounded()` by default.
        noise_precision: of continuous outputs.
        tonic_volatility: omega, added to the log variance gained in a step.
        volatility_drift: omega_v, log variance gained by the volatility level in a step.
        bias: whether layers have biases.

    Raises:
        UnknownNameError: no leaf or mode has this name.
        ArgumentError: an impossible size or precision.
        ArgumentTypeError: `update` is no update rule.
    """
    sizes = checked_sizes(sizes)
    for argument, value, known in (("leaf", leaf, LEAVES), ("mode", mode, MODES)):
        if value not in known:
            raise UnknownNameError(value, known, argument, "layered_hgf")
    update = Unbounded() if update is None else update
    if not isinstance(update, AbstractUpdate):
        raise ArgumentTypeError(f"update: expected a rule such as Unbounded(), found {update!r}.")
    keys = jax.random.split(as_key(key, argument="key"), len(sizes) - 1)
    weights = tuple(
        jax.random.normal(one, (below, above)) * above**-0.5
        for one, above, below in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )
    return LayeredHGF(
        weights=weights,
        biases=tuple(jnp.zeros(size) if bias else None for size in sizes[1:]),
        beliefs=tuple(LayerBelief(jnp.ones(size), jnp.zeros(size), jnp.ones(size)) for size in sizes[1:-1]),
        shapes=tuple((size,) for size in sizes),
        coupling=coupling_function(coupling),
        leaf=leaf,
        mode=mode,
        pass_uncertainty=bool(pass_uncertainty),
        update=update,
        noise_precision=positive_number("noise_precision", noise_precision),
        tonic_volatility=float(tonic_volatility),
        volatility_drift=float(volatility_drift),
    )


class _Predicted(NamedTuple):
    """A layer on the way down."""

    mean: Array
    precision: Array
    conditional: Array
    gained: Array
    volatility_precision: Array


def _down(network: LayeredHGF, x: Array) -> list[_Predicted]:
    """Predictions of the hidden layers, from the top."""
    found: list[_Predicted] = []
    above, passed = x, None
    for belief, weight, bias in zip(network.beliefs, network.weights[:-1], network.biases[:-1], strict=True):
        volatility_precision = 1.0 / (1.0 / belief.volatility_precision + jnp.exp(network.volatility_drift))
        exponent = network.tonic_volatility + belief.log_volatility
        if network.mode == "relaxed":  # the mean of the exponential of a Gaussian
            exponent = exponent + 0.5 / volatility_precision
        gained = jnp.exp(exponent)
        conditional = 1.0 / (1.0 / belief.precision + gained)
        mean = weight @ above if bias is None else weight @ above + bias
        precision = conditional if passed is None else 1.0 / (1.0 / conditional + weight**2 @ passed)
        found.append(_Predicted(mean, precision, conditional, gained, volatility_precision))
        above = apply(network.coupling, mean)
        if network.pass_uncertainty:
            passed = jnp.broadcast_to(slope(network.coupling, mean) ** 2 / precision, mean.shape)
    return found


def _drive(network: LayeredHGF, hidden: list[_Predicted], x: Array) -> Array:
    """What the last weights make of the layer above."""
    above = apply(network.coupling, hidden[-1].mean) if hidden else x
    weight, bias = network.weights[-1], network.biases[-1]
    return weight @ above if bias is None else weight @ above + bias


def _link(network: LayeredHGF, drive: Array) -> Array:
    """The expected outputs."""
    if network.leaf == "binary":
        return jnp.clip(jax.nn.sigmoid(drive), PROBABILITY_CLIP, 1.0 - PROBABILITY_CLIP)
    return jax.nn.softmax(drive) if network.leaf == "categorical" else drive


def sweeps(network: LayeredHGF, x: Array, y: Array) -> tuple[LayerPosterior, ...]:
    """Both sweeps for one example: posteriors of the layers 1..L."""
    hidden = _down(network, x)
    expected = _link(network, _drive(network, hidden, x))
    residual = y - expected
    precision = jnp.ones_like(expected)
    if network.leaf == "continuous":
        precision = precision * network.noise_precision
    elif network.leaf == "binary":
        precision = expected * (1.0 - expected)
        residual = residual / precision
    found = [LayerPosterior(expected, precision, y, precision, residual, None)]
    weight_of, gain_of = precision, precision  # w and G of the layer below
    for i in reversed(range(len(hidden))):
        below, here = found[-1], hidden[i]
        matrix = network.weights[i + 1]
        first, second = slope(network.coupling, here.mean), curvature(network.coupling, here.mean)
        wanted = here.precision + first**2 * (weight_of @ matrix**2)
        wanted = wanted - second * ((weight_of * below.value_error) @ matrix)
        precision = jnp.clip(wanted, here.precision, MAX_PRECISION)
        error = first * ((gain_of * below.value_error) @ matrix) / precision
        belief = _volatility(network, network.beliefs[i], here, precision, error)
        found.append(LayerPosterior(here.mean, here.precision, here.mean + error, precision, error, belief))
        if network.mode == "mean-field":
            weight_of = gain_of = here.precision
        else:
            evidence = precision - here.precision
            weight_of = here.conditional * evidence / (here.conditional + evidence)
            gain_of = here.conditional * precision / (here.conditional + evidence)
    return tuple(reversed(found))


def _volatility(
    network: LayeredHGF, before: LayerBelief, here: _Predicted, precision: Array, error: Array
) -> LayerBelief:
    """The carried belief after a step: the volatility level learns from the volatility prediction error."""
    spread = 1.0 / precision + error**2
    evidence = VolatilityEvidence(
        1.0,
        here.gained * here.precision,
        here.precision * spread - 1.0,
        jnp.full_like(precision, network.tonic_volatility),
        1.0 / before.precision,
        spread,
        here.precision,
        None,
    )
    mean, wanted = network.update.posterior(
        Evidence(before.log_volatility, here.volatility_precision, before.log_volatility, (), (evidence,))
    )
    sound = (wanted > 0.0) & jnp.isfinite(wanted) & jnp.isfinite(mean)
    return LayerBelief(
        precision,
        jnp.where(sound, mean, before.log_volatility),
        jnp.minimum(jnp.where(sound, wanted, here.volatility_precision), MAX_PRECISION),
    )


@eqx.filter_jit
def _expected(network: LayeredHGF, inputs: Array) -> Array:
    return jax.vmap(lambda x: _link(network, _drive(network, _down(network, x), x)))(inputs)


@eqx.filter_jit
def _posteriors(network: LayeredHGF, inputs: Array, outputs: Array) -> tuple[LayerPosterior, ...]:
    return jax.vmap(lambda x, y: sweeps(network, x, y))(inputs, outputs)
