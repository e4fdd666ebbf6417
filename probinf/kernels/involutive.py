r"""Metropolis-Hastings-Green in involutive form: draw auxiliary values, apply an involution, accept or stay.

For a target pi, auxiliary draws v ~ q(x, .) and a map Phi with Phi(Phi(x, v)) = (x, v),

    log r = log pi(x') + log q(x', v') - log pi(x) - log q(x, v) + log |det D_c Phi(x, v)|,   (x', v') = Phi(x, v),

where D_c differentiates the continuous outputs with respect to the continuous inputs, discrete parts held fixed
(Green 1995; Tierney 1998; Neklyudov, Welling, Egorov & Vetrov 2020; Cusumano-Towner, Lew & Mansinghka 2020).

Shapes are static, so a coordinate that means nothing here (the third height of a state with two) keeps its place.
Pin it to a constant, or swap it with another such coordinate: both leave the determinant of the others unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ModelError
from probinf.kernels.kernel import Info, Kernel, accept
from probinf.language.distributions import standard_promotion
from probinf.language.evaluate import Handler, Records
from probinf.language.handlers import Condition, Score
from probinf.language.primitives import Site, bind_sample
from probinf.language.program import Program
from probinf.language.sites import check_unique
from probinf.language.staging import Staged, restage
from probinf.language.statements import staging
from probinf.transformations.traces import Trace

Position = Any
Auxiliary = dict[str, jax.Array]


class _Propose(Handler):
    """Draw the auxiliary values: statements without names, so that kernels can be combined freely."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        (value,) = bind_sample(Site(""), distribution)
        return value, state, {site.name: value}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        raise ModelError(f"Site {site.label}: an auxiliary program only draws; scores belong to the target.")

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        raise ModelError(f"Site {site.label}: an auxiliary program only draws; scores belong to the target.")


class _Density(Score):
    """The language's score, except that what cannot be drawn has probability zero, not NumPyro's smallest float."""

    def assign(self, site: Site, distribution: Any, value: Any) -> tuple[Any, Any]:
        value, total = super().assign(site, distribution, value)
        if jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value, total
        return value, jnp.where(_is_impossible(distribution, value), -jnp.inf, total)


def _is_impossible(law: Any, value: jax.Array) -> jax.Array:
    """Whether a discrete value has probability zero: NumPyro clamps probabilities into [tiny, 1 - eps]."""
    with standard_promotion():
        if isinstance(law, dist.BernoulliProbs):
            return jnp.any(jnp.where(value == 1, law.probs == 0, law.probs == 1))
        if isinstance(law, dist.CategoricalProbs) and not law.batch_shape:
            return jnp.asarray(law.probs)[value] == 0
        each = jnp.asarray(law.log_prob(value))
        return jnp.any(each < jnp.log(jnp.finfo(each.dtype).tiny) + 1)


class _Count(Handler):
    """The number of continuous coordinates that the execution draws."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        is_continuous = jnp.issubdtype(jnp.result_type(value), jnp.floating)
        return value, state + (jnp.size(value) if is_continuous else 0), {}


@dataclasses.dataclass(frozen=True)
class Involution:
    """The parts of an involutive move.

    Attributes:
        auxiliary: program of the position whose named draws are the auxiliary values.
        involution: (position, values by site name) to the same.
        log_jacobian: (position, values) to log |det D_c|, or None: by forward-mode differentiation.
        dimension: position to its number of continuous coordinates that carry a density, or None: always the same.
    """

    auxiliary: Callable[[Position], Any]
    involution: Callable[[Position, Auxiliary], tuple[Position, Auxiliary]]
    log_jacobian: Callable[[Position, Auxiliary], Any] | None = None
    dimension: Callable[[Position], Any] | None = None

    def staged(self, position: Position) -> Staged:
        """The auxiliary program at this position's shapes."""
        with staging("auxiliary program"):
            found = restage("auxiliary program", self.auxiliary, position)
        check_unique(found.name, found.sites)
        return found

    def propose(self, position: Position) -> Auxiliary:
        """Emit the auxiliary draws; sites that are not reached are zero."""
        records = self.staged(position).run(position, _Propose(), (), {})[2]
        return {n: jnp.nan_to_num(v) if jnp.issubdtype(v.dtype, jnp.floating) else v for n, v in records.items()}

    def log_proposal(self, position: Position, values: Auxiliary) -> jax.Array:
        """Log q(x, v), nats; sites that are not reached do not count."""
        handler = _Density()
        return self.staged(position).run(position, handler, handler.start(), values)[1]

    def num_drawn(self, position: Position, values: Auxiliary) -> jax.Array:
        """The number of continuous auxiliary coordinates that are drawn in this execution."""
        return self.staged(position).run(position, _Count(), jnp.zeros((), jnp.int32), values)[1]

    def image(self, position: Position, values: Auxiliary) -> tuple[Position, Auxiliary]:
        """Apply the involution.

        Raises:
            ModelError: the result is not of the same structure, shapes and dtypes.
        """
        result = self.involution(position, dict(values))
        before, after = (position, dict(values)), result
        if jax.tree.structure(before) != jax.tree.structure(after):
            raise ModelError(
                f"involution: expected (position, values) of the structure {jax.tree.structure(before)}, found "
                f"{jax.tree.structure(after)}."
            )
        paths = jax.tree_util.tree_flatten_with_path(before)[0]
        for (path, old), new in zip(paths, jax.tree.leaves(after), strict=True):
            if (jnp.shape(old), jnp.result_type(old)) != (jnp.shape(new), jnp.result_type(new)):
                raise ModelError(
                    f"involution: {jax.tree_util.keystr(path)} has shape {jnp.shape(new)} and dtype "
                    f"{jnp.result_type(new)} after the map, expected {jnp.shape(old)} and {jnp.result_type(old)}."
                )
        return jax.tree.map(jnp.asarray, after)

    def jacobian(self, position: Position, values: Auxiliary) -> jax.Array:
        """(n, n): continuous outputs with respect to continuous inputs, n the number of all of them."""
        point, rebuild = continuous_part((position, dict(values)))
        return jax.jacfwd(lambda vector: continuous_part(self.image(*rebuild(vector)))[0])(point)

    def log_det(self, position: Position, values: Auxiliary) -> jax.Array:
        """Log |det D_c Phi|, as given or by differentiation."""
        if self.log_jacobian is not None:
            return jnp.asarray(self.log_jacobian(position, dict(values)), jnp.result_type(float))
        return log_det_of_live(self.jacobian(position, values))

    def log_correction(self, position: Position, values: Auxiliary, new: Position, back: Auxiliary) -> tuple:
        """Log of proposal ratio and Jacobian, and whether the reverse has probability zero."""
        here, there = self.log_proposal(position, values), self.log_proposal(new, back)
        impossible = there == -jnp.inf
        total = there - here + self.log_det(position, values)
        return jnp.where(impossible | (here == -jnp.inf), -jnp.inf, total), impossible


def continuous_part(tree: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """All floating leaves of a pytree as one vector, and the way back, which keeps the discrete leaves."""
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(x) for x in leaves]
    dtype = jnp.result_type(float)
    chosen = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    flat = [leaves[i].astype(dtype).reshape(-1) for i in chosen]
    vector = jnp.concatenate(flat) if flat else jnp.zeros((0,), dtype)

    def rebuild(new: jax.Array) -> Any:
        out, first = list(leaves), 0
        for i in chosen:
            out[i] = new[first : first + leaves[i].size].reshape(leaves[i].shape).astype(leaves[i].dtype)
            first += leaves[i].size
        return jax.tree.unflatten(structure, out)

    return vector, rebuild


def log_det_of_live(matrix: jax.Array) -> jax.Array:
    """Log |det| of the block that is left when zero rows (constants) and zero columns (ignored inputs) are taken out.

    Each zero row is paired with a zero column by an entry of one, which leaves |det| of the rest; if there are more of
    the one than of the other, the dimensions do not match and the result is -inf.
    """
    if matrix.shape[0] == 0:
        return jnp.zeros((), jnp.result_type(float))
    dead_row, dead_column = (jnp.all(matrix == 0, axis=axis) for axis in (1, 0))
    nth_row, nth_column = (jnp.cumsum(dead, dtype=jnp.int32) for dead in (dead_row, dead_column))
    paired = dead_row[:, None] & dead_column[None, :] & (nth_row[:, None] == nth_column[None, :])
    return jnp.linalg.slogdet(jnp.where(paired, jnp.ones_like(matrix), matrix))[1]


@dataclasses.dataclass(frozen=True)
class InvolutiveKernel(Kernel):
    """A kernel that knows its involution, so that `check_involution` can look at it."""

    move: Involution | None = None


def involutive(
    auxiliary: Callable[[Position], Any],
    involution: Callable[[Position, Auxiliary], tuple[Position, Auxiliary]],
    *,
    log_jacobian: Callable[[Position, Auxiliary], Any] | None = None,
    dimension: Callable[[Position], Any] | None = None,
    name: str = "involutive",
) -> InvolutiveKernel:
    """Metropolis-Hastings-Green: accept Phi(x, v), v ~ q(x, .), with probability min(1, r). Claim: reversible.

    A move whose reverse has probability zero is rejected and counted: `info["impossible"]`.

    Args:
        auxiliary: function of the position that draws named sites (`pi.sample`); it may branch with `lax.cond`.
        involution: (position, {site: value}) to the same structure; its own inverse. Sites that were not reached are
            zero on the way in; those that the reverse does not reach should be zero on the way out.
        log_jacobian: log |det D_c| as a function of the same arguments, for speed; by default it is computed by
            forward-mode differentiation, O(n^3) in the number of continuous coordinates.
        dimension: number of continuous coordinates of a position that carry a density, where it varies; used by
            `check_involution` only.
        name: readable.

    Raises:
        ModelError: the auxiliary program scores, or the involution changes structure, shapes or dtypes.
    """
    return kernel_of(Involution(auxiliary, involution, log_jacobian, dimension), name)


def kernel_of(move: Involution, name: str) -> InvolutiveKernel:
    """The kernel that proposes this move and accepts it with probability min(1, r)."""

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        values = move.propose(state.slots)
        new, back = move.image(state.slots, values)
        correction, impossible = move.log_correction(state.slots, values, new, back)
        protect = getattr(target, "protect", None)  # a move of places that must not change, and its reverse, is refused
        if protect is not None:
            correction = jnp.where(_same(new, protect(state.slots, new)), correction, -jnp.inf)
        state, accepted = accept(state, target.replay(new), correction)
        info = {"accepted": accepted, "impossible": impossible}
        return state, {k: v.astype(jnp.result_type(float)) for k, v in info.items()}

    return InvolutiveKernel(name, step, Claim.REVERSIBLE, move=move)


def _same(a: Any, b: Any) -> jax.Array:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.all(jnp.stack([jnp.all(x == y) for x, y in pairs]))


def metropolis_hastings(program: Callable[[Position], Any], *, name: str = "metropolis_hastings") -> InvolutiveKernel:
    """Metropolis-Hastings with a proposal program: its sites are new values for entries of the position.

    Args:
        program: function of the position (a dict) that draws new values at sites named like the entries it changes.
        name: readable.

    Claim: reversible. The involution swaps old and new values.
    """

    def swap(position: Position, values: Auxiliary) -> tuple[Position, Auxiliary]:
        unknown = sorted(set(values) - set(position)) if isinstance(position, dict) else sorted(values)
        if unknown:
            known = ", ".join(map(repr, sorted(position))) if isinstance(position, dict) else "not a dict"
            raise ModelError(
                f"{name}: the proposal draws site {unknown[0]!r}, which is no entry of the position ({known})."
            )
        return {**position, **values}, {n: jnp.asarray(position[n]) for n in values}

    return involutive(program, swap, log_jacobian=lambda *_: 0.0, name=name)


def independence(guide: Program | Callable[[], Any]) -> InvolutiveKernel:
    """Independence Metropolis-Hastings: propose from a guide, whatever the position. Claim: reversible.

    Args:
        guide: a program, or a function without arguments, that draws sites named like entries of the position.
    """
    if isinstance(guide, Program):
        fixed = guide

        def draw(position: Position) -> Any:
            return fixed.staged.run(fixed.operands, Condition(), (), {})[0]
    else:
        function = guide

        def draw(position: Position) -> Any:
            return function()

    return metropolis_hastings(draw, name="independence")
