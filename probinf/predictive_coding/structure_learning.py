"""Which nodes and couplings do the data ask for? Evidence of all structures of a small family, or of a greedy path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.predictive_coding.evidence import SubjectModel, subject_evidence
from probinf.predictive_coding.supernetwork import Supernetwork
from probinf.random import as_key

if TYPE_CHECKING:
    import numpyro.distributions as dist

    from probinf.predictive_coding.network import Network

_MOST_STRUCTURES = 512


@dataclasses.dataclass(frozen=True)
class StructureSearch:
    """Structures and their evidence.

    Attributes:
        structures: for each the optional parts that are present.
        log_evidence: nats, (K,).
        standard_error: of these, nats, (K,); 0 without priors, NaN for one run.
        path: indices of the structures that a greedy search went through; the best alone if all were tried.
    """

    structures: tuple[tuple[str, ...], ...]
    log_evidence: np.ndarray
    standard_error: np.ndarray
    path: tuple[int, ...]

    @property
    def best(self) -> tuple[str, ...]:
        """The optional parts of the structure with most evidence."""
        return self.structures[int(np.argmax(self.log_evidence))]

    def probabilities(self) -> np.ndarray:
        """Of the structures tried, equally likely before, (K,)."""
        weights = np.exp(self.log_evidence - self.log_evidence.max())
        return weights / weights.sum()

    def inclusion(self) -> dict[str, float]:
        """Probability that each optional part is present, among the structures tried."""
        parts = dict.fromkeys(part for structure in self.structures for part in structure)
        chance = self.probabilities()
        return {p: float(sum(c for s, c in zip(self.structures, chance, strict=True) if p in s)) for p in parts}

    def __repr__(self) -> str:
        order, chance = np.argsort(-self.log_evidence), self.probabilities()
        lines = [f"StructureSearch({len(self.structures)} structures)", "  log evidence  probability  optional parts"]
        lines += [
            f"  {self.log_evidence[k]:12.3f}  {chance[k]:11.3f}  {', '.join(self.structures[k]) or 'none'}"
            for k in order
        ]
        return "\n".join(lines)


def learn_structure(
    pool: Supernetwork,
    data: Any,
    priors: Mapping[str, dist.Distribution] | None = None,
    *,
    search: str = "exhaustive",
    seed: int | jax.Array = 0,
    **settings: Any,
) -> StructureSearch:
    """Log evidence of structures, their unknown numbers integrated out; all of a round are one batch of the filter.

    Numbers of absent parts do not enter the likelihood, so that their priors integrate to 1 and simpler structures are
    not punished for them.

    Args:
        pool: the network with its optional parts.
        data: one series, as in `Network.filter`.
        priors: address to distribution, as in `subject_evidence`; without them the numbers are what they are and the
            evidence is the likelihood.
        search: `"exhaustive"`, or `"greedy"`: from no optional part, the best change of one part at a time, added or
            taken away, as long as the evidence rises.
        seed: an integer or a key.
        settings: `num_particles`, `num_moves`, `num_runs` of `subject_evidence`.

    Raises:
        ArgumentError: no such search, too many structures for the exhaustive one, or a batch of series.
        UnknownNameError: a prior of a number that the network lacks.
    """
    coupled = [a for a in priors or {} if "->" in a]
    if coupled:
        raise ArgumentError(
            f"priors[{coupled[0]!r}]: strengths are what is switched; give priors to numbers of states."
        )
    if search not in ("exhaustive", "greedy"):
        raise ArgumentError(f"search: expected 'exhaustive' or 'greedy', found {search!r}.")
    pool.network.places(tuple(priors or {}))
    everything = pool.structures()
    if search == "exhaustive" and len(everything) > _MOST_STRUCTURES:
        raise ArgumentError(f"optional: {len(everything)} structures are too many to try all; take search='greedy'.")
    key = as_key(seed)
    if search == "exhaustive":
        log_evidence, error = _evidence(pool, data, priors or {}, everything, key, settings)
        return StructureSearch(tuple(everything), log_evidence, error, (int(np.argmax(log_evidence)),))

    found: dict[tuple[str, ...], tuple[float, float]] = {}
    here, path = everything[0], [everything[0]]
    while True:
        key, key_round = jax.random.split(key)
        # Always as many as there are parts, and the first one: rounds have one shape, so the next compiles nothing.
        near = [here, *(_changed(pool, here, part) for part in pool.optional)]
        values = _evidence(pool, data, priors or {}, near, key_round, settings)
        for structure, *value in zip(near, *values, strict=True):
            found.setdefault(structure, (float(value[0]), float(value[1])))
        best = max(near, key=lambda s: found[s][0])
        if found[best][0] <= found[here][0]:
            break
        here = best
        path.append(here)
    names = tuple(found)
    numbers = np.array([found[name] for name in names])
    return StructureSearch(names, numbers[:, 0], numbers[:, 1], tuple(names.index(s) for s in path))


def _changed(pool: Supernetwork, present: tuple[str, ...], part: str) -> tuple[str, ...]:
    """The structure with one part more or less; couplings need their nodes and leave with them."""
    chosen = set(present) ^ {part}
    allowed = pool.structures()
    fitting = [s for s in allowed if set(s) <= chosen]
    return max(fitting, key=len)


def _evidence(
    pool: Supernetwork,
    data: Any,
    priors: Mapping[str, dist.Distribution],
    structures: list[tuple[str, ...]],
    key: jax.Array,
    settings: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Log evidence and its error, (K,) each."""
    present = jnp.asarray([[part in s for s in structures] for part in pool.optional])
    given = pool.network.prepare(data)
    if any(value.ndim != 1 for value in given.values):
        raise ArgumentError("data: expected one series; structures are the batch.")
    if not priors:
        network = pool.network.replace(pool.strengths(present))
        log_evidence = np.asarray(network.log_likelihood(given), np.float64)
        return log_evidence, np.zeros(len(structures))
    network: Network = pool.network.replace(pool.strengths(present))
    tiled = {
        pool.network.nodes[i].name: jnp.broadcast_to(value[:, None], (len(value), len(structures)))
        for i, value in zip(pool.network.plan().fed, given.values, strict=True)
    }
    seen = {
        pool.network.nodes[i].name: flag
        for i, flag in zip(pool.network.plan().fed, given.flags, strict=True)
        if flag is not None
    }
    found = subject_evidence(SubjectModel(network, None, priors), tiled, observed=seen or None, seed=key, **settings)
    return found.log_evidence, found.standard_error
