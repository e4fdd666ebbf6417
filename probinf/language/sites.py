"""The table of sites of a staged program, read off its jaxpr."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from probinf import _jax
from probinf.errors import ModelError
from probinf.language.primitives import STATEMENTS, Site, observe_p, sample_p


@dataclasses.dataclass(frozen=True)
class SiteInfo:
    """One site of a program.

    Attributes:
        name: its address.
        kind: "sample", "observe", "factor" or "deterministic".
        shape: shape of the value, loop axes first; () for factors.
        dtype: dtype of the value.
        dims: names of the axes of `shape` from the left; None where unnamed.
        loops: lengths of the enclosing scans; None for a while loop.
        branches: (id of the cond, branch) for every enclosing branch.
        site: the static description.
        structure: the distribution's structure (None for factors and deterministic values).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    dims: tuple[str | None, ...]
    loops: tuple[int | None, ...]
    branches: tuple[tuple[int, int], ...]
    site: Site
    structure: Any

    @property
    def label(self) -> str:
        """Name and place, for messages."""
        return self.site.label

    @property
    def discrete(self) -> bool:
        """Whether the value is an integer or a boolean."""
        return np.issubdtype(self.dtype, np.integer) or np.issubdtype(self.dtype, np.bool_)


@functools.lru_cache(maxsize=8192)
def _holds(jaxpr: Any) -> bool:
    return any(eqn.primitive in STATEMENTS or has_statements(eqn) for eqn in jaxpr.eqns)


def has_statements(eqn: Any) -> bool:
    """Whether an equation is a statement or calls something that holds one."""
    if eqn.primitive in STATEMENTS:
        return True
    return any(
        _holds(inner.jaxpr if isinstance(inner, _jax.ClosedJaxpr) else inner)
        for inner in _jax.jaxprs_in_params(eqn.params)
    )


@functools.lru_cache(maxsize=2048)
def sites_of(jaxpr: Any) -> tuple[SiteInfo, ...]:
    """All named sites of a jaxpr in program order, those inside loops and branches included."""
    return tuple(_walk(jaxpr, (), ()))


def _walk(jaxpr: Any, loops: tuple, branches: tuple) -> Iterator[SiteInfo]:
    for eqn in jaxpr.eqns:
        if eqn.primitive in STATEMENTS:
            if eqn.params["site"].name:
                yield _info(eqn, loops, branches)
        elif has_statements(eqn):
            if eqn.primitive is _jax.scan_p:
                yield from _walk(eqn.params["jaxpr"].jaxpr, (*loops, eqn.params["length"]), branches)
            elif eqn.primitive is _jax.cond_p:
                for i, branch in enumerate(eqn.params["branches"]):
                    yield from _walk(branch.jaxpr, loops, (*branches, (id(eqn), i)))
            else:
                inner_loops = (*loops, None) if eqn.primitive is _jax.while_p else loops
                for inner in _jax.jaxprs_in_params(eqn.params):
                    yield from _walk(
                        inner.jaxpr if isinstance(inner, _jax.ClosedJaxpr) else inner, inner_loops, branches
                    )


def _info(eqn: Any, loops: tuple, branches: tuple) -> SiteInfo:
    site, structure = eqn.params["site"], eqn.params.get("structure")
    if eqn.primitive is sample_p:
        kind, shape, dtype = "sample", eqn.params["shape"], eqn.params["dtype"]
    elif eqn.primitive is observe_p:
        aval = eqn.invars[eqn.params["count"]].aval
        kind, shape, dtype = "observe", aval.shape, aval.dtype
    else:
        aval = eqn.invars[0].aval
        kind, shape, dtype = eqn.primitive.name, aval.shape, aval.dtype
        if kind == "factor":
            shape = ()
    lengths = tuple(n for n in loops if n is not None)
    dims = (*(None,) * len(lengths), *site.dims, *(None,) * (len(shape) - len(site.dims)))
    return SiteInfo(
        site.name,
        kind,
        (*lengths, *shape),
        np.dtype(dtype),
        dims[: len(lengths) + len(shape)],
        loops,
        branches,
        site,
        structure,
    )


def check_unique(model: str, sites: tuple[SiteInfo, ...]) -> None:
    """Refuse two sites of one name, unless they stand in different branches of one conditional.

    Raises:
        ModelError: naming both places.
    """
    seen: dict[str, list[SiteInfo]] = {}
    for info in sites:
        for other in seen.get(info.name, []):
            if not _exclusive(info, other):
                raise ModelError(
                    f"Model {model!r}: two sites are named {info.name!r}, at {other.site.where or 'one place'} and "
                    f"{info.site.where or 'another'}. Names are unique: number them (f'{info.name}_{{i}}'), open a "
                    "pi.scope, or write the loop as lax.scan."
                )
        seen.setdefault(info.name, []).append(info)


def _exclusive(a: SiteInfo, b: SiteInfo) -> bool:
    chosen = dict(a.branches)
    return any(c in chosen and chosen[c] != i for c, i in b.branches)


def only_sometimes(sites: tuple[SiteInfo, ...]) -> list[SiteInfo]:
    """Latent sites that are reached in some branches of a conditional only."""
    counts: dict[tuple[str, int], int] = {}
    for info in sites:
        for conditional, _ in info.branches:
            counts[info.name, conditional] = counts.get((info.name, conditional), 0) + 1
    everywhere = {(i.name, c): n for (i, c), n in _branch_counts(sites).items()}
    return [
        i for i in sites if i.kind == "sample" and any(counts[i.name, c] < everywhere[i.name, c] for c, _ in i.branches)
    ]


def _branch_counts(sites: tuple[SiteInfo, ...]) -> dict[tuple[SiteInfo, int], int]:
    sizes: dict[int, int] = {}
    for info in sites:
        for conditional, branch in info.branches:
            sizes[conditional] = max(sizes.get(conditional, 0), branch + 1)
    return {(i, c): max(sizes[c], 2) for i in sites for c, _ in i.branches}
