"""Split one component into two and merge two into one: a pair of reversible jumps on a list of components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.involutive import Auxiliary, InvolutiveKernel
from probinf.kernels.reversible_jump import reversible_jump
from probinf.language.statements import sample, scope

Component = dict[str, jax.Array]
State = dict[str, Any]


def split_merge(
    split: Callable[[Component, Auxiliary], tuple[Component, Component]],
    merge: Callable[[Component, Component], tuple[Component, Auxiliary]],
    *,
    auxiliary: Callable[[Component], Any],
    components: Mapping[str, Any],
    number: str = "k",
    splits: Callable[[State], Any] | None = None,
    pairs: Callable[[State], Any] | None = None,
    probabilities: Callable[[State], tuple[Any, Any]] | None = None,
    log_jacobian: Callable[[Component, Auxiliary], Any] | None = None,
    name: str = "split_merge",
) -> InvolutiveKernel:
    r"""Split a component by auxiliary draws u, or merge two (Green 1995; Richardson & Green 1997). Claim: reversible.

    A state is a dict: `number` is how many components there are, and each entry of `components` is an array
    (capacity, ...) whose first so many rows are the components; the others hold one constant. Entries of other names
    are left alone. The components are a list: a density over it counts every order of the same components.

    For a split of component i of k into components that then stand at places a and b,

    $$r = \frac{\pi(x')\, j_\downarrow(x')\, P(a, b \mid x')}
               {\pi(x)\, j_\uparrow(x)\, P(i \mid x)\, \frac{1}{k+1}\, q(u)}
    \left|\frac{\partial(\text{first}, \text{second})}{\partial(\text{component}, u)}\right|,$$

    1 / (k + 1) for the place of the second half. The Jacobian is computed by forward-mode differentiation unless given.
    Splits whose halves `pairs` would never merge are rejected and counted (`info["impossible"]`).

    Args:
        split: (component, u) to the two halves; (component, u) and (first, second) have equally many numbers.
        merge: its inverse, (first, second) to (component, u).
        auxiliary: program of the component that draws the named values u.
        components: names of the entries that have one row for each component, and the constant of rows not in use.
        number: name of the entry that counts components.
        splits: state to (capacity,) weights of components to split; all equal by default.
        pairs: state to (capacity, capacity) weights of ordered pairs (first, second) to merge; all equal by default.
            What is not in use, and the diagonal, never counts.
        probabilities: state to the probabilities of trying to split and to merge; 1/2 each by default, and 0 where
            there is no room or nothing to merge, whatever is given.
        log_jacobian: log |d(first, second) / d(component, u)| as a function of (component, u), for speed.
        name: readable.

    Raises:
        ArgumentTypeError: an argument is not a function.
        ArgumentError: `components` is empty.
        ModelError: when run: the state has no such entry, their capacities differ, or `split` or `merge` returns other
            names or shapes than the components' and `auxiliary`'s.
    """
    for argument, value in {"split": split, "merge": merge, "auxiliary": auxiliary}.items():
        if not callable(value):
            raise ArgumentTypeError(f"{argument}: expected a function, found {type(value).__name__}.")
    for argument, value in {"splits": splits, "pairs": pairs, "probabilities": probabilities}.items():
        if value is not None and not callable(value):
            raise ArgumentTypeError(f"{argument}: expected a function or None, found {type(value).__name__}.")
    if not components:
        raise ArgumentError("components: expected the names of at least one entry of the state, found none.")
    rows = _Rows(dict(components), number, name)

    def up(x: State) -> None:
        alive = rows.alive(x, x[number])
        weights = alive if splits is None else alive * jnp.asarray(splits(x), alive.dtype)
        i = sample("split", _choice(weights))
        sample("place", _choice(rows.alive(x, x[number] + 1)))
        with scope("u"):
            auxiliary(rows.component(x, i))

    def down(x: State) -> None:
        weights = rows.pair_weights(x, pairs)
        a = sample("first", _choice(jnp.sum(weights, axis=1)))
        sample("second", _choice(weights[a]))

    def forward(x: State, drawn: Auxiliary) -> tuple[State, Auxiliary]:
        i, place = drawn["split"], drawn["place"]
        one = rows.component(x, i)
        first, second = split(one, _inside(drawn))
        for half, found in (("first", first), ("second", second)):
            rows.check_component(f"split: its {half} half", one, found)
        new = rows.insert(rows.overwrite(x, i, first), place, second)
        # The owner of the place moves to the end of the list; it may be the first half.
        return new, {"first": jnp.where(place == i, x[number].astype(i.dtype), i), "second": place}

    def inverse(x: State, drawn: Auxiliary) -> tuple[State, Auxiliary]:
        a, b = drawn["first"], drawn["second"]
        first = rows.component(x, a)
        one, u = merge(first, rows.component(x, b))
        rows.check_component("merge: the component", first, one)
        new = rows.remove(rows.overwrite(x, a, one), b)
        i = jnp.where(a == x[number].astype(a.dtype) - 1, b, a)
        return new, {"split": i, "place": b, **{f"u/{n}": v for n, v in u.items()}}

    def tries(x: State) -> tuple[Any, Any]:
        rows.check(x)
        rise, fall = (0.5, 0.5) if probabilities is None else probabilities(x)
        return (
            jnp.where((x[number] >= 1) & (x[number] < rows.capacity(x)), rise, 0.0),
            jnp.where(x[number] >= 2, fall, 0.0),
        )

    def given(x: State, drawn: Auxiliary) -> Any:
        assert log_jacobian is not None
        return log_jacobian(rows.component(x, drawn["split"]), _inside(drawn))

    return reversible_jump(
        forward,
        inverse,
        up=up,
        down=down,
        probabilities=tries,
        log_jacobian=None if log_jacobian is None else given,
        dimension=rows.dimension,
        name=name,
    )


def _inside(drawn: Auxiliary) -> Auxiliary:
    return {n.removeprefix("u/"): v for n, v in drawn.items() if n.startswith("u/")}


def _choice(weights: jax.Array) -> dist.Distribution:
    """An index by weight; where all are zero the move is not tried, and nothing may be NaN."""
    return dist.CategoricalProbs(weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny))


class _Rows:
    """Lists of components in arrays of fixed capacity."""

    def __init__(self, pinned: dict[str, Any], number: str, name: str) -> None:
        self.pinned, self.number, self.name = pinned, number, name

    def check(self, x: State) -> None:
        """Refuse states without the entries."""
        known = sorted(x) if isinstance(x, dict) else []
        for entry in (self.number, *self.pinned):
            if entry not in known:
                raise ModelError(
                    f"{self.name}: the state has no entry {entry!r}; it has {', '.join(map(repr, known))}."
                )
        if not jnp.issubdtype(jnp.result_type(x[self.number]), jnp.integer) or jnp.shape(x[self.number]) != ():
            raise ModelError(
                f"{self.name}: expected entry {self.number!r} to be one integer, found shape "
                f"{jnp.shape(x[self.number])} and dtype {jnp.result_type(x[self.number])}."
            )
        sizes = {n: jnp.shape(x[n])[:1] for n in self.pinned}
        if len(set(sizes.values())) > 1 or () in sizes.values():
            raise ModelError(f"{self.name}: expected one number of rows for all components' entries, found {sizes}.")

    def check_component(self, what: str, expected: Component, found: Any) -> None:
        """Refuse other names or shapes than those of a component."""
        shapes = {n: jnp.shape(v) for n, v in expected.items()}
        other = {n: jnp.shape(v) for n, v in found.items()} if isinstance(found, Mapping) else found
        if other != shapes:
            raise ModelError(f"{self.name}, {what}: expected entries of shapes {shapes}, found {other}.")

    def capacity(self, x: State) -> int:
        return int(jnp.shape(x[next(iter(self.pinned))])[0])

    def index(self, x: State, dtype: Any) -> jax.Array:
        return jnp.arange(self.capacity(x), dtype=dtype)

    def alive(self, x: State, count: jax.Array) -> jax.Array:
        return (self.index(x, count.dtype) < count).astype(float)

    def pair_weights(self, x: State, pairs: Callable[[State], Any] | None) -> jax.Array:
        alive = self.alive(x, x[self.number])
        both = alive[:, None] * alive[None, :] * (1.0 - jnp.eye(self.capacity(x), dtype=alive.dtype))
        return both if pairs is None else both * jnp.asarray(pairs(x), both.dtype)

    def component(self, x: State, place: jax.Array) -> Component:
        return {n: x[n][place] for n in self.pinned}

    def _where(self, x: State, place: jax.Array, new: Component) -> State:
        def one(values: jax.Array, row: Any) -> jax.Array:
            mine = (self.index(x, place.dtype) == place).reshape(-1, *(1,) * (values.ndim - 1))
            return jnp.where(mine, jnp.asarray(row, values.dtype)[None], values)

        return {**x, **{n: one(x[n], new[n]) for n in self.pinned}}

    def overwrite(self, x: State, place: jax.Array, new: Component) -> State:
        """Other values for one component."""
        return self._where(x, place, new)

    def insert(self, x: State, place: jax.Array, new: Component) -> State:
        """One component more, at `place`, whose owner moves to the end."""
        moved = self._where(x, x[self.number].astype(place.dtype), self.component(x, place))
        return {**self._where(moved, place, new), self.number: x[self.number] + 1}

    def remove(self, x: State, place: jax.Array) -> State:
        """One component less; the last one takes its place."""
        last = x[self.number].astype(place.dtype) - 1
        filled = self._where(x, place, self.component(x, last))
        constant = {n: jnp.full(x[n].shape[1:], c, x[n].dtype) for n, c in self.pinned.items()}
        return {**self._where(filled, last, constant), self.number: x[self.number] - 1}

    def dimension(self, x: State) -> Any:
        """Continuous coordinates that carry a density."""

        def size(entry: Any, shape: tuple[int, ...]) -> int:
            return int(np.prod(shape)) if jnp.issubdtype(jnp.result_type(entry), jnp.floating) else 0

        each = sum(size(x[n], jnp.shape(x[n])[1:]) for n in self.pinned)
        others = sum(size(v, jnp.shape(v)) for n, v in x.items() if n not in self.pinned)
        return each * x[self.number] + others
