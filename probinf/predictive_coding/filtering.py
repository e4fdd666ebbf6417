"""The compiled filter: one scan over time for every graph of one shape."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from probinf.native import as_native, primitives_of
from probinf.predictive_coding import composites, faults
from probinf.predictive_coding.blocks import over_blocks
from probinf.predictive_coding.door import Data, prepare
from probinf.predictive_coding.forward_mode import value_and_slopes
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry
from probinf.predictive_coding.run import NetworkRun
from probinf.predictive_coding.step import Outcome, step
from probinf.representations.concrete import is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


#: Axes of numbers, data, response models and responses without a batch.
_OWN_AXES = (0, 1, 0, 1)
#: What the native emitter does not take of large arrays, and gains nothing with.
_NOT_ELEMENTWISE = frozenset({
    "argmax", "argmin", "conv_general_dilated", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dot_general",
    "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum",
})  # fmt: skip


class Traces:
    """Counts how often the filter was traced, which is how often something was compiled."""

    count = 0


def filter_network(
    network: Network,
    data: Any,
    *,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
    on_fault: str = "nan",
) -> NetworkRun:
    """Beliefs of all nodes after every step of a series; see `Network.filter`."""
    plan, numbers, given = network.plan(), network.numbers(), prepare(network, data, time_steps, observed)

    def run(given: Data) -> NetworkRun:
        return NetworkRun.assemble(network, plan, given, *scan(plan, numbers, given))

    choice = faults.checked(on_fault)
    return faults.acted_on(run(given), choice, run)


def log_likelihood(
    network: Network, data: Any, *, time_steps: Any = None, observed: Mapping[str, Any] | None = None
) -> jax.Array:
    """Log predictive density of a series, nats, shape (*batch,); see `Network.log_likelihood`."""
    return total(network.plan(), network.numbers(), prepare(network, data, time_steps, observed))


def value_and_gradient(
    network: Network,
    names: Sequence[str],
    data: Any,
    *,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Log likelihood and its derivatives by name; see `Network.value_and_gradient`."""
    places = network.places(names)
    given = prepare(network, data, time_steps, observed)
    value, gradient = total_and_gradient(network.plan(), places, network.numbers(), given)
    return value, dict(zip(names, gradient, strict=True))


@functools.partial(jax.jit, static_argnames=("plan",))
def scan(plan: Plan, numbers: Numbers, data: Data) -> tuple[Carry, Outcome]:
    """The belief after the last step, and what every step showed, stacked over time."""
    Traces.count += 1
    numbers, carry = begin(plan, numbers, data)
    batch = batch_shape(plan, numbers, data)

    def one(carry: Carry, row: Data) -> tuple[Carry, Outcome]:
        carry, outcome = advance(plan, numbers, carry, row, flagged=True)
        nodes, log_density, flag = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, batch), (outcome.nodes, outcome.log_density, outcome.flag)
        )
        return carry, outcome._replace(nodes=nodes, log_density=log_density, flag=flag)

    return jax.lax.scan(one, carry, data)


def total(
    plan: Plan,
    numbers: Numbers,
    data: Data,
    response: Any = None,
    rows: Any = None,
    names: tuple[str, ...] = (),
) -> jax.Array:
    """Sum over time of the log predictive densities, or of the log probabilities of responses; shape (*batch,).

    Called with arrays on a CPU, the whole scan is one native function, through which a batch goes in blocks: as
    separate calls its few dozen operations would take many times as long. Inside other traced code it stays an ordinary
    scan.

    Args:
        plan: shape of the network.
        numbers: its numbers.
        data: the series.
        response: a response model, or None.
        rows: responses and flags (None: all given), (T,) or (T, B).
        names: of the nodes, for the response model.
    """
    arrays = (numbers, data, response, rows)
    return _native(_accumulate, plan, names, *arrays) if may_be_native(plan, arrays) else _total(plan, names, *arrays)


def total_and_gradient(
    plan: Plan, places: tuple[tuple[int, str], ...], numbers: Numbers, data: Data
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The log likelihood and its derivatives with respect to chosen numbers, by forward mode in the same scan.

    A place is a node's index with a field, or an edge's index with `""`. Batch entries are independent, so one tangent
    for each place gives the gradients of a whole batch, each of shape (*batch,).
    """
    arrays = (numbers, data)
    if may_be_native(plan, arrays):
        return _native(_differentiate, plan, places, *arrays)
    return _gradient(plan, places, *arrays)


def may_be_native(plan: Plan, arrays: Any) -> bool:
    """Whether this is plain arithmetic, which the native emitter is known to compile, on a CPU.

    Inside traced code it is not tried: the emitter refuses constants.
    """
    return jax.default_backend() == "cpu" and not plan.composites and is_concrete(arrays)


def _accumulate(
    plan: Plan, names: tuple[str, ...], numbers: Numbers, data: Data, response: Any = None, rows: Any = None
) -> jax.Array:
    Traces.count += 1
    numbers, carry = begin(plan, numbers, data)
    batch = _joint_batch(plan, numbers, data, response, rows)

    def one(carry: tuple[Carry, jax.Array], row: tuple[Data, Any]) -> tuple[tuple[Carry, jax.Array], None]:
        belief, outcome = advance(plan, numbers, carry[0], row[0])
        term = outcome.log_density
        if response is not None:
            value, flag = row[1]
            beliefs = {names[i]: node for i, node in outcome.nodes.items()}
            told = response.log_prob(beliefs, value)
            # A step that broke down has no beliefs to decide by.
            term = jnp.where(term > -jnp.inf, told if flag is None else jnp.where(flag, told, 0.0), -jnp.inf)
        return (belief, carry[1] + jnp.broadcast_to(term, batch)), None

    return jax.lax.scan(one, (carry, jnp.zeros(batch, data.dtype)), (data, rows))[0][1]


def _differentiate(
    plan: Plan, places: tuple[tuple[int, str], ...], numbers: Numbers, data: Data
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    numbers = jax.tree.map(lambda x: jnp.asarray(x, data.dtype), numbers)

    def value(chosen: tuple) -> jax.Array:
        return _accumulate(plan, (), _with(numbers, places, chosen), data)

    at = tuple(numbers.nodes[i][field] if field else numbers.strengths[i] for i, field in places)
    return value_and_slopes(value, at)


def _with(numbers: Numbers, places: tuple, chosen: tuple) -> Numbers:
    nodes, strengths = [dict(own) for own in numbers.nodes], list(numbers.strengths)
    for (i, field), value in zip(places, chosen, strict=True):
        if field:
            nodes[i][field] = value
        else:
            strengths[i] = value
    return Numbers(tuple(nodes), tuple(strengths))


_total = functools.partial(jax.jit, static_argnums=(0, 1))(_accumulate)
_gradient = functools.partial(jax.jit, static_argnums=(0, 1))(_differentiate)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _native(function: Callable, plan: Plan, chosen: tuple, *arrays: Any) -> Any:
    """`function(plan, chosen, *arrays)` as one native function; a batch goes through it block by block."""

    def run(*inner: Any) -> Any:
        return function(plan, chosen, *inner)

    batch = _joint_batch(plan, *arrays)
    if not batch:
        return as_native(run)(*arrays)
    if primitives_of(jax.make_jaxpr(run)(*arrays).jaxpr) & _NOT_ELEMENTWISE:
        return run(*arrays)
    return over_blocks(as_native(run), batch[0], arrays, _OWN_AXES[: len(arrays)])


def _joint_batch(plan: Plan, numbers: Numbers, data: Data, response: Any = None, rows: Any = None) -> tuple[int, ...]:
    """() or (B,), from the response model and the responses too."""
    beside = [jnp.shape(leaf)[1:] for leaf in jax.tree.leaves(rows)] + [jnp.shape(x) for x in jax.tree.leaves(response)]
    return jnp.broadcast_shapes(batch_shape(plan, numbers, data), *beside)


def advance(plan: Plan, numbers: Numbers, carry: Carry, row: Data, *, flagged: bool = False) -> tuple[Carry, Outcome]:
    """`step` on one row of the data, with a carry whose dtypes and shapes stay what they were."""
    values = dict(zip(plan.fed, row.values, strict=True))
    flags = dict(zip(plan.fed, row.flags, strict=True))
    new, outcome = step(plan, numbers, carry, values, flags, row.time_step, flagged=flagged)
    new = jax.tree.map(lambda a, b: jnp.broadcast_to(jnp.asarray(a, b.dtype), b.shape), new, carry)
    return new, outcome


def begin(plan: Plan, numbers: Numbers, data: Data) -> tuple[Numbers, Carry]:
    """The numbers in the dtype of the data, and the belief before the first step with the batch axes of both."""
    dtype = data.dtype
    numbers = jax.tree.map(lambda x: jnp.asarray(x, dtype), numbers)
    batch = batch_shape(plan, numbers, data)
    states = [numbers.nodes[i] for i in plan.states]
    carry = Carry(
        tuple(jnp.broadcast_to(own["mean"], batch) for own in states),
        tuple(jnp.broadcast_to(own["precision"], batch) for own in states),
        tuple(composites.start(plan, numbers, i, batch, dtype) for i in plan.composites),
    )
    return numbers, carry


def batch_shape(plan: Plan, numbers: Numbers, data: Data) -> tuple[int, ...]:
    """() or (B,): the trailing axis that numbers and data have beyond their own."""
    shapes = [jnp.shape(s) for s in numbers.strengths]
    for node, own in zip(plan.nodes, numbers.nodes, strict=True):
        for name, value in own.items():
            shapes.append(jnp.shape(value)[1:] if name == "statistics" and node.family else jnp.shape(value))
    for i, value, flag in zip(plan.fed, data.values, data.flags, strict=True):
        family = plan.nodes[i].family
        shapes.append(value.shape[1 + len(family.event_shape if family else ()) :])
        shapes.append(() if flag is None else flag.shape[1:])
    if data.time_step is not None:
        shapes.append(data.time_step.shape[1:])
    return jnp.broadcast_shapes(*shapes)
