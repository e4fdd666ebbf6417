"""Networks written in Flax NNX, wherever a dense network would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from continual.strategies.architecture import AbstractNetwork, Outputs, Parameters
from probinf.errors import ArgumentError, InferenceError


class FlaxNetwork(AbstractNetwork):
    """A network in Flax NNX.

    Args:
        make: takes `nnx.Rngs` and returns an `nnx.Module`, which maps rows (examples, numbers) to outputs (examples,
            outputs); one that works on images reshapes the rows itself. It has parameters (`nnx.Param`) and no other
            state: a belief is a function of its parameters, so batch statistics and dropout are refused.

    Raises:
        InferenceError: Flax is not installed.
        ArgumentError: `make` does not return a module, or the module has other state or another number of outputs.

    Example:
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer = nnx.Linear(64, 10, rngs=rngs)
        ...
        ...     def __call__(self, x):
        ...         return self.layer(x)
        >>> learner = continual.FineTuning(10, continual.Training(network=continual.FlaxNetwork(Net)))
    """

    make: Callable[[Any], Any] = eqx.field(static=True)

    def initial(self, key: Array, width: int, outputs: int, dtype: Any) -> Parameters:
        nnx = _nnx()
        module = self.make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise ArgumentError(f"make: expected a flax.nnx.Module, found {type(module).__name__}.")
        _, parameters, rest = nnx.split(module, nnx.Param, ...)
        if jax.tree.leaves(rest):
            names = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)})
            raise ArgumentError(f"make: expected a module with parameters alone, found state of kind {names}.")
        parameters = jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.to_pure_dict(parameters))
        found = jax.eval_shape(self.__call__, parameters, jax.ShapeDtypeStruct((1, width), dtype)).shape
        if found != (1, outputs):
            raise ArgumentError(f"make: one row gives outputs of shape {found}, expected (1, {outputs}).")
        return parameters

    def __call__(self, parameters: Parameters, x: Float[Array, "n width"]) -> Outputs:
        nnx = _nnx()
        # The structure without the numbers: costs a trace, and nothing in compiled code.
        structure, state = nnx.split(nnx.eval_shape(lambda: self.make(nnx.Rngs(0))))
        nnx.replace_by_pure_dict(state, parameters)
        return nnx.merge(structure, state)(x)


def _nnx() -> Any:
    try:
        from flax import nnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InferenceError("FlaxNetwork needs Flax: pip install 'probinf[networks]'.") from error
    return nnx
