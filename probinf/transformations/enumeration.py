"""The exact measure of a program with finitely many executions.

Applied to a model it gives the model's measure; applied to an algorithm (`population(model)`) it gives the exact law of
the algorithm, ancestors included. Every world (one execution so far) is a row; a draw splits every row over its
support, which re-indexes all live values. Loops are unrolled, so keep enumerated programs small.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.errors import ModelError
from probinf.language.distributions import log_density
from probinf.language.evaluate import unsupported
from probinf.language.primitives import STATEMENTS, deterministic_p, observe_p, sample_p
from probinf.language.sites import has_statements
from probinf.transformations.host_arithmetic import on_host

_MOST_WORLDS = 1_000_000
_UNROLLED = 8  # loops without statements up to this length are cheaper on the host than compiled
_MERGE_FROM = 128  # fewer worlds are not worth comparing


@dataclasses.dataclass(frozen=True)
class FiniteMeasure:
    """A measure with finitely many atoms.

    Attributes:
        log_weights: (W,) unnormalised log weights, one per world.
        values: pytree of arrays with a leading world axis: the program's result in each world.
    """

    log_weights: np.ndarray
    values: Any

    @property
    def log_evidence(self) -> float:
        """Log of the total mass."""
        return float(np.logaddexp.reduce(self.log_weights)) if len(self.log_weights) else -np.inf

    def expectation(self, function: Callable[[Any], Any]) -> np.ndarray:
        """Integral of a function of the result against the unnormalised measure."""
        total: Any = 0.0
        for i, log_weight in enumerate(self.log_weights):
            total = total + np.exp(log_weight) * np.asarray(function(jax.tree.map(lambda v, i=i: v[i], self.values)))
        return np.asarray(total)

    def aggregate(self) -> FiniteMeasure:
        """The same measure with equal results merged, their weights added. Claim: exact."""
        leaves, structure = jax.tree.flatten(self.values)
        columns = [np.asarray(x).reshape(len(self.log_weights), int(np.prod(np.shape(x)[1:]))) for x in leaves]
        rows = np.concatenate([np.zeros((len(self.log_weights), 1)), *(c.astype(float) for c in columns)], axis=1)
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        merged = np.full(len(first), -np.inf)
        np.logaddexp.at(merged, inverse.reshape(-1), self.log_weights)
        return FiniteMeasure(merged, jax.tree.unflatten(structure, [np.asarray(x)[first] for x in leaves]))

    def table(self, key: Callable[[Any], Any] | None = None) -> dict[Any, float]:
        """Mass of every distinct result (or of every distinct `key(result)`)."""
        masses: dict[Any, float] = {}
        for i, log_weight in enumerate(self.log_weights):
            value = jax.tree.map(lambda v, i=i: v[i], self.values)
            name = key(value) if key else tuple(_plain(x) for x in jax.tree.leaves(value))
            masses[name] = masses.get(name, 0.0) + float(np.exp(log_weight))
        return masses


def _plain(x: Any) -> Any:
    x = np.asarray(x)
    return x.item() if x.ndim == 0 else tuple(map(_plain, x))


def enumerate_worlds(closed: _jax.ClosedJaxpr, operands: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """All worlds of a staged program: log weights (W,) and results, each with a leading world axis.

    Raises:
        ModelError: a draw without finite support, or too many worlds.
    """
    worlds = _Worlds(np.zeros(1))
    args = [np.asarray(x) for x in jax.tree.leaves(operands)]
    outs = worlds.frame(closed.jaxpr, closed.consts, args)
    return worlds.log_weight, [worlds.rows(o) for o in outs]


def enumerate_rows(closed: _jax.ClosedJaxpr, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """All worlds of a staged program from each of several rows of operands.

    Args:
        closed: the program.
        rows: its operands, each with a leading axis over starting points.

    Returns:
        Log weights (W,) (of each start: probabilities and scores), the start that each world belongs to, and results.
    """
    worlds = _Worlds(np.zeros(len(rows[0])))
    origin = _Row(np.arange(len(rows[0])), worlds)
    outs = worlds.frame(closed.jaxpr, closed.consts, [_Row(x, worlds) for x in rows])
    return worlds.log_weight, origin.array, [worlds.rows(o) for o in outs]


class _Row:
    """A value that differs between worlds: rows along the first axis, re-indexed whenever worlds split."""

    __slots__ = ("__weakref__", "array")

    def __init__(self, array: Any, worlds: _Worlds) -> None:
        self.array = np.asarray(array)
        worlds.live.add(self)


class _Worlds:
    def __init__(self, log_weight: np.ndarray) -> None:
        self.log_weight = log_weight
        self.live: weakref.WeakSet[_Row] = weakref.WeakSet()
        self.merged_size = _MERGE_FROM

    @property
    def size(self) -> int:
        return len(self.log_weight)

    def reindex(self, index: np.ndarray, log_weight: np.ndarray) -> None:
        for row in list(self.live):
            row.array = row.array[index]
        self.log_weight = log_weight

    def rows(self, value: Any) -> np.ndarray:
        if isinstance(value, _Row):
            return value.array
        value = np.asarray(value)
        return np.broadcast_to(value, (self.size, *value.shape))

    # -- evaluation -----------------------------------------------------------------------------------------------

    def frame(self, jaxpr: Any, consts: Any, args: list) -> list:
        env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        args.clear()  # what is not needed any more must not keep worlds apart (see `merge`)
        last = _last_uses(jaxpr)

        def read(v: Any) -> Any:
            return _jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v]

        for position, eqn in enumerate(jaxpr.eqns):
            operands = [read(v) for v in eqn.invars]
            for v in {v for v in eqn.invars if not isinstance(v, _jax.Literal)}:
                if last[v] == position:
                    del env[v]
            if eqn.primitive in STATEMENTS:
                self.merge()
            results = self.equation(eqn, operands)
            operands.clear()
            env.update((v, r) for v, r in zip(eqn.outvars, results, strict=True) if v in last)
            del results
            if eqn.primitive in STATEMENTS:
                self.merge()
        return [read(v) for v in jaxpr.outvars]

    def merge(self) -> None:
        """Add up worlds that agree on everything that is still to be used."""
        if self.size < 2 * self.merged_size:
            return
        live = list(self.live)
        columns = [np.ascontiguousarray(row.array).reshape(self.size, -1).view(np.uint8) for row in live]
        columns = [c.reshape(self.size, -1) for c in columns if c.size]
        if not columns:
            index, inverse = np.zeros(1, int), np.zeros(self.size, int)
        else:
            table = np.ascontiguousarray(np.concatenate(columns, axis=1))
            _, index, inverse = np.unique(
                table.view(np.dtype((np.void, table.shape[1]))).reshape(-1), return_index=True, return_inverse=True
            )
        if len(index) < self.size:
            top = max(self.log_weight.max(), np.finfo(float).min)  # also where all worlds have weight zero
            mass = np.bincount(inverse.reshape(-1), weights=np.exp(self.log_weight - top), minlength=len(index))
            with np.errstate(divide="ignore"):
                self.reindex(index, np.log(mass) + top)
        self.merged_size = max(_MERGE_FROM, self.size)

    def equation(self, eqn: Any, operands: list) -> list:
        primitive = eqn.primitive
        if primitive in STATEMENTS:
            return self.statement(eqn, operands)
        if not has_statements(eqn):
            return self.plain(eqn, operands)
        if primitive is _jax.scan_p:
            return self.scan(eqn, operands)
        if primitive is _jax.cond_p:
            branches = [lambda w, *a, b=b: w.frame(b.jaxpr, b.consts, list(a)) for b in eqn.params["branches"]]
            return self.choose(operands[0], branches, operands[1:])
        if primitive is _jax.while_p:
            return self.while_loop(eqn, operands)
        if primitive in _jax.CALLS:
            inner = _jax.callee(eqn)
            return self.frame(inner.jaxpr, inner.consts, operands)
        raise unsupported(eqn)

    def plain(self, eqn: Any, operands: list) -> list:
        """An equation without statements: on the host where that is possible, by JAX otherwise."""
        if eqn.primitive in _jax.CALLS:
            inner = _jax.callee(eqn)
            return self.frame(inner.jaxpr, inner.consts, operands)
        if eqn.primitive is _jax.scan_p and eqn.params["length"] <= _UNROLLED:
            return self.scan(eqn, operands)
        batched = [isinstance(x, _Row) for x in operands]
        if not any(isinstance(x, jax.Array) and not _plain_array(x) for x in operands):
            arrays = [x.array if isinstance(x, _Row) else np.asarray(x) for x in operands]
            result = on_host(eqn.primitive.name, eqn.params, arrays, batched)
            if result is not None:
                return [_Row(result, self) if any(batched) else np.asarray(result)]
        return self.each(lambda *xs: _jax.bind_equation(eqn, xs), operands)

    def each(self, function: Callable, operands: list, compiled: Callable | None = None) -> list:
        """Apply a function in every world; the world axis is padded so that few sizes are ever compiled."""
        if not any(isinstance(x, _Row) for x in operands):
            return [np.asarray(r) for r in function(*operands)]
        if self.size == 0:
            ones = [np.zeros(x.array.shape[1:], x.array.dtype) if isinstance(x, _Row) else x for x in operands]
            return [_Row(np.zeros((0, *s.shape), s.dtype), self) for s in jax.eval_shape(function, *ones)]
        padded = _padded(self.size)
        index = np.minimum(np.arange(padded), self.size - 1)
        arrays = [x.array[index] if isinstance(x, _Row) else x for x in operands]
        axes = [0 if isinstance(x, _Row) else None for x in operands]
        mapped = jax.vmap(function, in_axes=axes, axis_size=padded) if compiled is None else compiled(tuple(axes))
        results = mapped(*arrays)
        return [_Row(np.asarray(r)[: self.size], self) for r in results]

    def statement(self, eqn: Any, operands: list) -> list:
        p = eqn.params
        if eqn.primitive is deterministic_p:
            return [operands[0]]
        if eqn.primitive is sample_p:
            return [self.split(p, operands[: p["count"]])]
        if eqn.primitive is observe_p:

            def score(*xs: Any) -> list:
                return [log_density(jax.tree.unflatten(p["structure"], list(xs[:-1])), xs[-1])]

            (log_factor,) = self.each(score, operands, lambda axes: _density(p["structure"], axes))
        else:
            (log_factor,) = self.each(lambda x: [jnp.sum(x)], operands)
        # Worlds of weight zero keep it, whatever the score of an impossible parameter is.
        self.log_weight = np.where(self.log_weight == -np.inf, -np.inf, self.log_weight + self.rows(log_factor))
        return []

    def split(self, params: dict, leaves: list) -> _Row:
        """Split every world over the support of a draw, dropping impossible ones."""
        site, structure = params["site"], params["structure"]
        values, log_probs, index = [], [], []
        same = not any(isinstance(x, _Row) for x in leaves)
        cached = None
        tables = None if same else self._tables(params, leaves)
        known: dict[Any, Any] = {}  # worlds often agree on the parameters, ancestors' weights above all
        for w in range(self.size):
            if same:
                cached = cached or _support(site, structure, leaves, params["shape"])
                support, lp = cached
            elif tables is not None:
                support, lp = tables[0], tables[1][w]
            else:
                one = [x.array[w] if isinstance(x, _Row) else x for x in leaves]
                bits = tuple(np.asarray(x).tobytes() for x in one)
                if bits not in known:
                    known[bits] = _support(site, structure, one, params["shape"])
                support, lp = known[bits]
            possible = lp > -np.inf
            values.append(support[possible])
            log_probs.append(lp[possible])
            index.append(np.full(int(possible.sum()), w))
        if sum(map(len, index)) > _MOST_WORLDS:
            raise ModelError(f"Site {site.label}: enumeration reached more than {_MOST_WORLDS} worlds.")
        where = np.concatenate(index) if index else np.zeros(0, int)
        self.reindex(where, self.log_weight[where] + (np.concatenate(log_probs) if log_probs else np.zeros(0)))
        stacked = np.concatenate(values) if values else np.zeros((0, *params["shape"]), params["dtype"])
        return _Row(stacked.astype(params["dtype"]), self)

    def _tables(self, params: dict, leaves: list) -> tuple[np.ndarray, np.ndarray] | None:
        """Support common to all worlds and log probabilities (W, S), in one vectorised call.

        None for ancestors, and for families whose support may differ between worlds (DiscreteUniform, Binomial).
        """
        if self.size == 0:
            return None
        one = jax.tree.unflatten(params["structure"], [x.array[0] if isinstance(x, _Row) else x for x in leaves])
        if hasattr(one, "enumerate") or not isinstance(base_of(one), _FIXED_SUPPORT):
            return None
        support = combinations(params["site"], one, params["shape"])

        def log_probs(*xs: Any) -> list:
            law = jax.tree.unflatten(params["structure"], list(xs[:-1]))
            return [jax.vmap(lambda v: log_density(law, v))(xs[-1])]

        table = self.each(log_probs, [*leaves, support], lambda axes: _table(params["structure"], axes))
        return support, self.rows(table[0])

    # -- control flow ---------------------------------------------------------------------------------------------

    def scan(self, eqn: Any, operands: list) -> list:
        p = eqn.params
        (n_consts, n_carry), length, body = _jax.scan_counts(p), p["length"], p["jaxpr"]
        consts, carry, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
        operands.clear()
        collected: list[list] = []
        for t in reversed(range(length)) if p["reverse"] else range(length):
            row = [_Row(x.array[:, t], self) if isinstance(x, _Row) else np.asarray(x)[t] for x in xs]
            args = [*consts, *carry, *row]
            del carry, row
            outs = self.frame(body.jaxpr, body.consts, args)
            carry = outs[:n_carry]
            collected.append(outs[n_carry:])
            del outs
        if p["reverse"]:
            collected.reverse()
        stacked: list[Any] = []
        if length == 0:
            stacked = [np.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[n_carry:]]
        for ys in zip(*collected, strict=True):
            if any(isinstance(y, _Row) for y in ys):
                stacked.append(_Row(np.stack([self.rows(y) for y in ys], axis=1), self))
            else:
                stacked.append(np.stack([np.asarray(y) for y in ys]))
        return [*carry, *stacked]

    def choose(self, index: Any, branches: list[Callable], args: list) -> list:
        """Run each world through the branch that it takes."""
        if not isinstance(index, _Row):
            return branches[int(np.clip(int(index), 0, len(branches) - 1))](self, *args)
        choice = np.clip(index.array.astype(int), 0, len(branches) - 1)
        parents, weights, results = [], [], []
        for k, branch in enumerate(branches):
            chosen = np.flatnonzero(choice == k)
            part = _Worlds(self.log_weight[chosen])
            inner = [_Row(a.array[chosen], part) if isinstance(a, _Row) else a for a in args]
            parent = _Row(chosen, part)
            outs = branch(part, *inner)
            parents.append(parent.array)
            weights.append(part.log_weight)
            results.append([part.rows(o) for o in outs])
        self.reindex(np.concatenate(parents).astype(int), np.concatenate(weights))
        return [_Row(np.concatenate(parts), self) for parts in zip(*results, strict=True)]

    def while_loop(self, eqn: Any, operands: list) -> list:
        p = eqn.params
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        test, body = p["cond_jaxpr"], p["body_jaxpr"]

        def loop(worlds: _Worlds, *everything: Any) -> list:
            consts, carry = list(everything[: n_cond + n_body]), list(everything[n_cond + n_body :])
            if worlds.size == 0:
                return carry
            (again,) = worlds.frame(test.jaxpr, test.consts, [*consts[:n_cond], *carry])

            def once_more(w: _Worlds, *inner: Any) -> list:
                outs = w.frame(body.jaxpr, body.consts, [*inner[n_cond : n_cond + n_body], *inner[n_cond + n_body :]])
                return loop(w, *inner[: n_cond + n_body], *outs)

            return worlds.choose(
                again, [lambda w, *inner: list(inner[n_cond + n_body :]), once_more], [*consts, *carry]
            )

        return loop(self, *operands)


@functools.lru_cache(maxsize=8192)
def _last_uses(jaxpr: Any) -> dict[Any, int]:
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if not isinstance(v, _jax.Literal)}
    last.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if not isinstance(v, _jax.Literal))
    return last


def _padded(size: int) -> int:
    """The world axis grows in steps of 16: compiling tiny kernels for new sizes costs far more than running them."""
    return next((n for n in (16, 256, 4096, 65536) if size <= n), 1 << (size - 1).bit_length())


def _support(site: Any, structure: Any, leaves: list, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    law = jax.tree.unflatten(structure, list(leaves))
    if hasattr(law, "enumerate"):
        return law.enumerate()
    support = combinations(site, law, shape)
    one = _density(structure, (*(None,) * len(leaves), 0))
    return support, np.asarray(one(*leaves, support)[0])


# Compiled once per structure of a distribution, for all programs.
@functools.lru_cache(maxsize=1024)
def _density(structure: Any, axes: tuple[int | None, ...]) -> Callable:
    def one(*xs: Any) -> list:
        return [log_density(jax.tree.unflatten(structure, list(xs[:-1])), xs[-1])]

    return jax.jit(jax.vmap(one, in_axes=axes))


@functools.lru_cache(maxsize=1024)
def _table(structure: Any, axes: tuple[int | None, ...]) -> Callable:
    def one(*xs: Any) -> list:
        law = jax.tree.unflatten(structure, list(xs[:-1]))
        return [jax.vmap(lambda v: log_density(law, v))(xs[-1])]

    return jax.jit(jax.vmap(one, in_axes=axes))


def _plain_array(x: Any) -> bool:
    return not jnp.issubdtype(x.dtype, jax.dtypes.extended)


#: Families whose support follows from the shapes of their parameters.
_FIXED_SUPPORT = (dist.BernoulliProbs, dist.BernoulliLogits, dist.CategoricalProbs, dist.CategoricalLogits)


def has_fixed_support(law: Any) -> bool:
    """Whether the finite support of a law follows from the shapes of its parameters."""
    return isinstance(base_of(law), _FIXED_SUPPORT)


def base_of(law: Any) -> Any:
    """The family under expansions, reinterpreted axes and lanes."""
    while isinstance(law, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        law = law.base_dist
    if hasattr(law, "structure"):  # Lanes
        return base_of(law._one(tuple(x if a is None else x[0] for x, a in zip(law.leaves, law.axes, strict=True))))
    return law


def combinations(site: Any, law: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Every value of a draw with finite support: all combinations over its batch."""
    base = base_of(law)
    if not base.has_enumerate_support or base.event_shape:
        raise ModelError(
            f"Site {site.label}: {type(base).__name__} has no finite support to enumerate. Exact enumeration takes "
            "Bernoulli, Categorical, Binomial, DiscreteUniform and the like."
        )
    atoms = np.asarray(base.enumerate_support(expand=False)).reshape(-1)
    count = int(np.prod(shape, dtype=int))
    if len(atoms) ** count > _MOST_WORLDS:
        raise ModelError(f"Site {site.label}: {len(atoms)}^{count} values are too many to enumerate.")
    rows = list(itertools.product(atoms, repeat=count))
    return np.array(rows, atoms.dtype).reshape(len(rows), *shape)
