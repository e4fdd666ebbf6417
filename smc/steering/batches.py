"""One interface to a black box for methods that pick states one by one: lists in, lists out, calls counted."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import UnknownNameError
from smc.steering.box import BlackBox
from smc.steering.calls import call_batch, copies
from smc.steering.traced import ends, propose, scores_of


class Batches:
    """Calls on lists of states, whatever the executor.

    Args:
        box: generator and judge.
        executor: "traced": states are pytrees of arrays, stacked and compiled (once for each number of states);
            "host": Python objects.

    Raises:
        UnknownNameError: no such executor.
    """

    def __init__(self, box: BlackBox, executor: str) -> None:
        if executor not in ("traced", "host"):
            raise UnknownNameError(executor, ("traced", "host"), "executor", "search")
        self.box, self.is_traced = box, executor == "traced"
        self.generator_calls = self.judge_calls = 0

    def start(self, num: int) -> list[Any]:
        """The start, `num` times."""
        if self.is_traced:
            return [jax.tree.map(jnp.asarray, self.box.start)] * num
        return copies([self.box.start] * num)

    def propose(self, states: list[Any], keys: jax.Array) -> list[Any]:
        """Every state one step further."""
        self.generator_calls += len(states)
        if self.is_traced:
            return _unstack(_propose_jit(self.box, _stack(states), keys), len(states))
        return self._ask(
            "propose",
            lambda rows: self.box.extend(copies([states[i] for i in rows]), keys[np.asarray(rows)]),
            len(states),
        )

    def score(self, states: list[Any]) -> np.ndarray:
        """Scores, (n,)."""
        self.judge_calls += len(states)
        if self.is_traced:
            return np.asarray(_score_jit(self.box, _stack(states)))
        return np.array(
            [float(v) for v in self._ask("score", lambda rows: self.box.score([states[i] for i in rows]), len(states))]
        )

    def finished(self, states: list[Any]) -> np.ndarray:
        """Which are finished, (n,)."""
        if self.box.finished is None:
            return np.zeros(len(states), bool)
        if self.is_traced:
            return np.asarray(_ends_jit(self.box, _stack(states)))
        return np.array([bool(v) for v in self.box.finished(states)])

    def _ask(self, name: str, function: Any, num: int) -> list[Any]:
        from probinf.errors import InferenceError

        outcome = call_batch(name, function, num, timeout=None, retries=0)
        if outcome.lost:
            reason, _ = next(iter(outcome.lost.values()))
            raise InferenceError(f"{name}: {len(outcome.lost)} of {num} calls failed, the first with {reason}.")
        return outcome.values


_propose_jit, _score_jit, _ends_jit = eqx.filter_jit(propose), eqx.filter_jit(scores_of), eqx.filter_jit(ends)


def _stack(states: list[Any]) -> Any:
    return jax.tree.map(lambda *rows: jnp.stack(rows), *states)


def _unstack(states: Any, num: int) -> list[Any]:
    host = jax.tree.map(np.asarray, states)
    return [jax.tree.map(lambda a, i=i: a[i], host) for i in range(num)]
