"""The transition matrix of a kernel on a finite space, by enumeration of one step from every state."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from probinf.kernels.kernel import Kernel
from probinf.transformations.enumeration import enumerate_rows
from probinf.transformations.randomness import Ticks
from probinf.transformations.traces import Trace, Traced


@dataclasses.dataclass(frozen=True)
class Chain:
    """A kernel on a finite space.

    Attributes:
        target: (S,) unnormalised masses of the states.
        transitions: (S, S) probabilities; rows of states without mass are zero, kernels are not run there.
        kept: the largest relative error of the weight that the kernel reports for its new state.
    """

    target: np.ndarray
    transitions: np.ndarray
    kept: float

    @property
    def invariance(self) -> float:
        """Largest entry of |pi K - pi|, relative to the total mass."""
        pi = self.target / self.target.sum()
        return float(np.abs(pi @ self.transitions - pi).max())

    @property
    def asymmetry(self) -> float:
        """Largest entry of |pi_x K_xy - pi_y K_yx|: zero for reversible kernels."""
        flow = (self.target / self.target.sum())[:, None] * self.transitions
        return float(np.abs(flow - flow.T).max())

    @property
    def row_error(self) -> float:
        """Largest distance of a row's sum from one, over states with mass."""
        return float(np.abs(self.transitions[self.target > 0].sum(1) - 1).max())

    @property
    def is_irreducible(self) -> bool:
        """Whether every state with mass reaches every other."""
        alive = self.target > 0
        reach = (self.transitions[np.ix_(alive, alive)] > 0) | np.eye(alive.sum(), dtype=bool)
        for _ in range(int(np.ceil(np.log2(max(alive.sum(), 2))))):
            reach = (reach.astype(float) @ reach.astype(float)) > 0
        return bool(reach.all())


def all_slots(target: Traced) -> dict[str, np.ndarray]:
    """Every point of a finite target, stacked: ticks at places that hold units, supports at those that hold values."""
    assert isinstance(target.randomness, Ticks)
    columns = []
    for place in target.table.values():
        if place.holds == "unit":
            columns.append(target.randomness.all_units(place.loops))
        else:
            shape = (*place.loops, *place.event)
            rows = list(itertools.product(np.asarray(place.support), repeat=int(np.prod(shape, dtype=int))))
            columns.append(np.array(rows, place.info.dtype).reshape(len(rows), *shape))
    index = np.indices([len(c) for c in columns]).reshape(len(columns), -1)
    return {n: c[i] for n, c, i in zip(target.table, columns, index, strict=True)}


def transition_matrix(kernel: Kernel, target: Any, states: Any = None) -> Chain:
    """Enumerate a kernel from every state of a finite target.

    Args:
        kernel: its draws must have finite support.
        target: `Traced` with `Ticks`, or any target together with all its `states`.
        states: pytree of arrays with a leading axis over all states.
    """
    states = all_slots(target) if states is None else states
    leaves, structure = jax.tree.flatten(states)
    shapes = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    weigh = jax.make_jaxpr(lambda *rows: target.replay(jax.tree.unflatten(structure, list(rows))).log_weight)(*shapes)
    _, order, (found,) = enumerate_rows(weigh, [np.asarray(x) for x in leaves])  # on the host: nothing is compiled
    log_weights = np.empty(len(order))
    log_weights[order] = found
    size = len(log_weights)
    alive = np.flatnonzero(log_weights > -np.inf)
    if not alive.size:
        return Chain(np.zeros(size), np.zeros((size, size)), 0.0)

    def one(log_weight: jax.Array, *rows: jax.Array) -> Any:
        new, _ = kernel.step(target, Trace(jax.tree.unflatten(structure, list(rows)), log_weight))
        return jax.tree.leaves(new.slots), new.log_weight

    closed = jax.make_jaxpr(one)(jax.ShapeDtypeStruct((), log_weights.dtype), *shapes)
    rows = [log_weights[alive], *(np.asarray(x)[alive] for x in leaves)]
    log_p, origin, outs = enumerate_rows(closed, rows)
    *new, new_weights = outs
    names = {key: i for i, key in enumerate(_names(leaves))}
    where = np.array([names[key] for key in _names(new)], int)
    transitions = np.zeros((size, size))
    np.add.at(transitions, (alive[origin], where), np.exp(log_p))
    possible = (log_p > -np.inf) & (log_weights[where] > -np.inf)
    gap = np.abs(new_weights - np.where(possible, log_weights[where], 0.0))[possible]
    return Chain(np.exp(log_weights - log_weights.max()), transitions, float(gap.max()) if len(gap) else 0.0)


def _names(leaves: list[np.ndarray]) -> list[bytes]:
    flat = [np.round(np.asarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:]))), 9) for x in leaves]
    table = np.concatenate(flat, axis=1) + 0.0
    return [row.tobytes() for row in table]
