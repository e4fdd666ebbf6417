"""`BlackBox`: the adapter between a generator with its judge and every method of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from probinf.errors import ArgumentTypeError


class BlackBox(eqx.Module):
    """A generator that can be sampled and a judge that can be asked; neither needs a density.

    Functions see the whole population at once: a pytree of arrays with a leading particle axis (traced executor), or a
    list of Python objects (host executor). There they may be coroutines, and may answer with an awaitable, a future or
    an exception in the place of a particle.

    ```python
    box = smc.BlackBox(start="Question: ...", propose=client.extend, score=client.judge, finished=client.ended)
    guide = smc.Potential("odds", "difference")
    run = smc.steer(box, 0, num_particles=8, max_steps=40, potential=guide, executor="host")
    ```

    Args:
        start: the state before the first step (the prompt): one pytree of arrays, or one Python object.
        propose: `propose(states, keys)` or `propose(states)`, every state one step further. Keys are (n,) typed JAX
            keys; `seeds_of(keys)` turns them into integers for clients that want those.
        score: `score(states)`, the judge's opinion of each, (n,) floats.
        finished: `finished(states)`, (n,) booleans: a finished state stays as it is. None: only `max_steps` ends a run.
        greedy: like `propose`, but the likeliest next step; for the greedy baseline only.

    Raises:
        ArgumentTypeError: `propose`, `score`, `finished` or `greedy` cannot be called.
    """

    start: Any
    propose: Callable[..., Any]
    score: Callable[..., Any]
    finished: Callable[..., Any] | None = None
    greedy: Callable[..., Any] | None = None

    def __check_init__(self) -> None:
        for name in ("propose", "score", "finished", "greedy"):
            function = getattr(self, name)
            if function is None and name in ("finished", "greedy"):
                continue
            if not callable(function):
                raise ArgumentTypeError(f"{name}: expected a function of the states, found {function!r}.")

    def extend(self, states: Any, keys: jax.Array) -> Any:
        """Call `propose`, with keys if it takes them."""
        return self.propose(states, keys) if takes_keys(self.propose) else self.propose(states)


def takes_keys(function: Callable[..., Any]) -> bool:
    """Whether a proposal wants keys beside the states: it does unless it takes exactly one argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in callables have no signature
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters) or (
        sum(p.kind in kinds for p in parameters) >= 2
    )


def seeds_of(keys: jax.Array) -> list[int]:
    """One integer below 2**63 for each key, for clients that take seeds."""
    words = np.asarray(jax.random.key_data(keys), np.uint64).reshape(len(keys), -1)
    return [int(((a << np.uint64(32)) | b) >> np.uint64(1)) for a, b in zip(words[:, 0], words[:, -1], strict=True)]
