"""Checks of the resampling schemes and of their conditional forms: uniforms on a grid against the exact laws."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from probinf.transformations import resampling
from probinf.transformations.branching import ssp_given_first
from probinf.transformations.conditional import Conditional, systematic_given_first
from probinf.transformations.resampling import SCHEMES, Systematic, effective_sample_size, prefix_sum, weights_from_log

GRID = 20
#: Multiples of 1 / GRID, so that the middles of GRID cells integrate the schemes exactly.
LATTICE = [np.array([0.5, 0.3, 0.2]), np.array([0.05, 0.15, 0.8]), np.array([0.0, 0.35, 0.0, 0.65])]


def _log(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(weights) + 3.0


def _table(vectors: np.ndarray, masses: np.ndarray) -> dict[tuple[int, ...], float]:
    table: dict[tuple[int, ...], float] = {}
    for vector, mass in zip(np.asarray(vectors).tolist(), masses, strict=True):
        table[tuple(vector)] = table.get(tuple(vector), 0.0) + float(mass)
    return table


def _gap(a: dict, b: dict) -> float:
    return max(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in {*a, *b})


def _batched(scheme: Any) -> Any:
    return jax.jit(jax.vmap(lambda u: scheme.from_uniforms(u, scheme.log_weights)))


def uniforms_on_a_grid() -> str | None:
    """The law of the ancestors over a grid of all uniforms is the enumerated one; offspring are N W on average."""
    for name, law in SCHEMES.items():
        for weights in LATTICE:
            num = {"systematic": 4, "killing": len(weights)}.get(name, 2)
            scheme = law(jnp.asarray(_log(weights)), num)
            shape = scheme.num_uniforms()
            cells = (np.arange(GRID) + 0.5) / GRID
            if shape == ():
                grid = np.arange(400) / 400 + 1 / 800
            else:
                grid = np.array(list(itertools.product(cells, repeat=int(np.prod(shape)))))
            children = np.asarray(_batched(scheme)(jnp.asarray(grid)))
            found = _table(children, np.full(len(grid), 1 / len(grid)))
            vectors, log_p = scheme.enumerate()
            gap = _gap(found, _table(vectors, np.exp(log_p)))
            exact = name not in ("residual", "ssp", "killing")  # their boundaries are off the grid
            if gap > (1e-12 if exact else 0.11):
                return f"{name}, weights {weights}: law off by {gap:.3g}"
            if name == "systematic" and (np.diff(children, axis=1) < 0).any():
                return "ancestors are not sorted"
    return None


def enumerated_laws() -> str | None:
    """Every scheme's own table: probabilities, expected offspring, independence where it is promised."""
    cases = [np.array([0.37, 0.11, 0.52]), np.array([0.0, 0.6, 0.4]), np.array([0.5, 0.5]), np.array([0.2, 0.8, 0.0])]
    for name, law in SCHEMES.items():
        for weights, num in itertools.product(cases, (1, 2, 3)):
            shift = (0.0, 800.0, -900.0)[num - 1]  # relative to the largest: none of these over- or underflows
            vectors, log_p = law(jnp.asarray(_log(weights) + shift), num).enumerate()
            p = np.exp(log_p)
            offspring = np.array([p @ (vectors == j).sum(1) for j in range(len(weights))])
            if abs(p.sum() - 1) > 1e-12 or np.abs(offspring - num * weights).max() > 1e-12:
                return f"{name}: expected offspring {offspring} for {num * weights}"
            if len({tuple(v) for v in vectors}) != len(vectors):
                return f"{name}: an ancestor vector is listed twice"
            low = np.floor(num * weights + 1e-9)
            counts = np.array([(vectors == j).sum(1) for j in range(len(weights))])
            if name in ("systematic", "residual", "ssp") and (counts < low[:, None]).any():
                return f"{name}: fewer children than the whole part"
            if name in ("systematic", "ssp") and (counts > low[:, None] + 1).any():
                return f"{name}: more children than one above the whole part"
            if name in ("stratified", "multinomial", "killing"):
                for k in range(num):  # slots are independent
                    for m in range(k):
                        joint = np.array(
                            [
                                [p @ ((vectors[:, k] == a) & (vectors[:, m] == b)) for b in range(len(weights))]
                                for a in range(len(weights))
                            ]
                        )
                        if np.abs(joint - np.outer(joint.sum(1), joint.sum(0))).max() > 1e-12:
                            return f"{name}: slots depend on each other"
        vectors, log_p = law(jnp.full(3, -jnp.inf), 2).enumerate()
        if not (len(vectors) == 1 and (np.asarray(vectors[0]) == [0, 1]).all() and float(log_p[0]) == 0):
            return f"{name}: a population without mass"
        vectors, log_p = law(jnp.full(2, -jnp.inf), 3).enumerate()
        if not (np.asarray(vectors) == [[0, 1, 0]]).all():
            return f"{name}: a smaller population without mass"
        batch = jnp.asarray(np.stack([_log(np.array([0.3, 0.7])), _log(np.array([0.9, 0.1]))]))
        vectors, log_p = law(batch, 2).enumerate()
        if vectors.shape[1:] != (2, 2) or abs(np.exp(log_p).sum() - 1) > 1e-12:
            return f"{name}: a batch of populations"
        for lane, weights in enumerate(([0.3, 0.7], [0.9, 0.1])):
            offspring = [np.exp(log_p) @ (vectors[:, lane] == j).sum(1) for j in range(2)]
            if np.abs(np.array(offspring) - 2 * np.array(weights)).max() > 1e-12:
                return f"{name}: lane {lane} of a batch"
    return None


def edges() -> str | None:
    """u = 0 and u = 1 - eps, dead particles at both ends, one particle and no mass."""
    ends = (0.0, 1 - 2.0**-53)
    cases = [np.array(w) for w in ([0.0, 0.5, 0.5, 0.0], [0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 1.0])]
    for name, law in SCHEMES.items():
        for group in (cases, [np.array([1.0])]):
            size = len(group[0])
            shape = law(jnp.zeros(size), 4).num_uniforms()
            run = jax.jit(jax.vmap(lambda u, w, law=law: law(w, 4).from_uniforms(u, w)))
            pairs = list(itertools.product(ends, group))
            uniforms = np.stack([np.full(shape, u) for u, _ in pairs])
            rows = np.asarray(run(jnp.asarray(uniforms), jnp.asarray(np.stack([_log(w) for _, w in pairs]))))
            for (u, weights), found in zip(pairs, rows, strict=True):
                if found.shape != (4,) or found.min() < 0 or found.max() >= size:
                    return f"{name}: ancestors {found} of {size} particles"
                if (weights[found] == 0).any():
                    return f"{name}: a dead particle has offspring at u = {u}"
                if name == "systematic" and u == 0 and weights[0] == 0.25 and (found != np.arange(4)).any():
                    return f"even weights give the ancestors {found}"
            found = np.asarray(run(jnp.asarray(uniforms[:1]), jnp.full((1, size), -jnp.inf)))
            if found.min() < 0 or found.max() >= size:
                return f"{name}: ancestors {found} of a population without mass"
    return None


def many_particles() -> str | None:
    """Prefix sums by blocks, and schemes at sizes with several blocks."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 33, 64, 65, 97, 2049):
        x = rng.random(n)
        if not np.allclose(np.asarray(prefix_sum(jnp.asarray(x))), np.cumsum(x), rtol=1e-12, atol=0):
            return f"prefix sum of {n} numbers"
    if any("cumsum" not in str(jax.make_jaxpr(prefix_sum)(jnp.ones(n))) for n in (1, 32)):
        return "short prefix sums are not done at once"
    if "dot_general" not in str(jax.make_jaxpr(prefix_sum)(jnp.ones(65))):
        return "long prefix sums are not done by blocks"
    for n in (100, 20_001):  # at the second size single precision moves ancestors
        weights = rng.random(n) * (rng.random(n) < 0.7)
        expected = n * weights / weights.sum()
        for name, law in SCHEMES.items():
            if n > 100 and name not in ("systematic", "stratified", "multinomial"):
                continue
            uniforms = rng.random(law(jnp.zeros(n), n).num_uniforms())
            log_weights = jnp.asarray(_log(weights))
            run = jax.jit(lambda u, w, law=law, n=n: law(w, n).from_uniforms(u, w))
            found = np.asarray(run(jnp.asarray(uniforms), log_weights))
            counts = np.bincount(found, minlength=n)
            if name in ("systematic", "stratified") and np.abs(counts - expected).max() >= 2:
                return f"{name}: a particle with {expected[np.abs(counts - expected).argmax()]:.2f} children"
            edges = np.cumsum(weights) / weights.sum()
            if name == "multinomial" and (found != np.searchsorted(edges, uniforms, side="right")).any():
                return "multinomial ancestors are not those of the inverse"
            if name == "residual" and (counts < np.floor(expected)).any():
                return "residual: fewer than the whole part"
            if name == "systematic":
                wanted = np.searchsorted(edges, (np.arange(n) + uniforms) / n, side="right")
                if (found != wanted).any():
                    return "systematic ancestors are not those of the inverse"
            if name == "stratified":
                wanted = np.searchsorted(edges, (np.arange(n) + uniforms) / n, side="right")
                if (found != wanted).any():
                    return "stratified ancestors are not those of the inverse"
    return None


def sizes_and_weights() -> str | None:
    """Effective sample size and weights by hand."""
    for weights in ([0.5, 0.3, 0.2], [1.0, 0.0], [0.25] * 4, [2.0, 2.0, 0.0]):
        w = np.array(weights)
        found = float(effective_sample_size(jnp.asarray(_log(w))))
        if not abs(found - w.sum() ** 2 / (w * w).sum()) < 1e-12:
            return f"effective sample size {found} of {weights}"
    if float(effective_sample_size(jnp.full(2, -jnp.inf))) != 0:
        return "effective sample size without mass"
    for shift in (0.0, 800.0, -900.0):
        found = np.asarray(weights_from_log(jnp.asarray([0.0, -1.0, -np.inf]) + shift))
        if not np.allclose(found, [1.0, np.exp(-1.0), 0.0], rtol=1e-12, atol=0):
            return f"weights {found}"
    if (np.asarray(weights_from_log(jnp.full(2, -jnp.inf))) != 0).any():
        return "weights where there are none"
    return None


def whole_expectations() -> str | None:
    """Whole numbers of expected children are given whatever rounding does to them, and left-over slots are random."""
    run = jax.jit(jax.vmap(lambda u, w: resampling.residual_ancestors(u, w, w.shape[0]), in_axes=(0, None)))
    for n in (3, 10, 49):
        uniforms = jnp.asarray(np.repeat([[0.0], [0.5], [1 - 2.0**-53]], n, axis=1))
        found = np.asarray(run(uniforms, jnp.full(n, jnp.log(1.0 / n))))
        if (found != np.arange(n)).any():
            return f"residual resampling of {n} even weights gives {found}"
    # Expected children (1.5, 0.9, 0.6): one sure child of particle 0, two drawn by (0.5, 0.9, 0.6) / 2.
    log_weights = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    cells = (np.arange(40) + 0.5) / 40
    found = np.asarray(run(jnp.asarray(np.repeat(cells[:, None], 3, axis=1)), log_weights))
    wanted = np.searchsorted([0.25, 0.7, 1.0], cells, side="right")
    expected = np.stack([np.zeros_like(wanted), wanted, wanted], axis=1)
    return None if (found == expected).all() else "residual resampling: spare children by the wrong weights"


RESAMPLING = [enumerated_laws, sizes_and_weights, uniforms_on_a_grid, edges, whole_expectations, many_particles]


# -- conditional schemes ----------------------------------------------------------------------------------------------

GIVEN = {
    "light": np.array([0.1, 0.2, 0.3, 0.4]),
    "heavy": np.array([0.56, 0.2, 0.15, 0.09]),
    "with a dead particle": np.array([0.4, 0.15, 0.0, 0.45]),
    "with whole expectations": np.array([0.3, 0.25, 0.2, 0.25]),
    "even": np.full(4, 0.25),
    "one": np.array([1.0]),
}


def by_rotation(scheme: str, weights: np.ndarray) -> dict[tuple[int, ...], float]:
    """The law given that slot 0 has ancestor 0, of the scheme turned by a random number of places."""
    num = len(weights)
    vectors, log_p = SCHEMES[scheme](jnp.asarray(_log(weights)), num).enumerate()
    table: dict[tuple[int, ...], float] = {}
    for vector, p in zip(np.asarray(vectors), np.exp(log_p), strict=True):
        for shift in range(num):
            turned = (*vector[shift:], *vector[:shift])
            if turned[0] == 0:
                key = tuple(int(a) for a in turned)
                table[key] = table.get(key, 0.0) + p / num
    total = sum(table.values())
    return {k: v / total for k, v in table.items()}


def conditional_tables() -> str | None:
    """The enumerated conditional laws against rotation and conditioning, done separately."""
    for scheme in SCHEMES:
        for case, weights in GIVEN.items():
            vectors, log_p = Conditional(jnp.asarray(_log(weights)), len(weights), scheme).enumerate()
            gap = _gap(_table(vectors, np.exp(log_p)), by_rotation(scheme, weights))
            if gap > 1e-12:
                return f"{scheme}, {case}: conditional law off by {gap:.3g}"
    return None


def conditional_systematic_on_a_grid() -> str | None:
    """Three uniforms on a grid of 97 x 61 x 60 cells: the law within the grid's error."""
    sizes = (97, 61, 60)
    axes = [(np.arange(n) + 0.5) / n for n in sizes]
    grid = jnp.asarray(np.array(list(itertools.product(*axes))))
    run = jax.jit(jax.vmap(lambda u, w: systematic_given_first(u, Systematic(w, w.shape[0]), w), in_axes=(0, None)))
    corners = np.array(list(itertools.product((0.0, 1 - 2.0**-53), repeat=3)))
    for case in ("light", "heavy", "with a dead particle"):
        weights = GIVEN[case]
        children = np.asarray(run(grid, jnp.asarray(_log(weights))))
        found = _table(children, np.full(len(grid), 1 / len(grid)))
        gap = _gap(found, by_rotation("systematic", weights))
        if gap > 0.02:
            return f"{case}: conditional systematic law off by {gap:.3g}"
    for case, weights in GIVEN.items():
        possible = by_rotation("systematic", weights)
        for ends, found in zip(corners, np.asarray(run(jnp.asarray(corners), jnp.asarray(_log(weights)))), strict=True):
            on_edges = case in ("even", "with whole expectations")  # these meet the edges exactly
            is_possible = on_edges or tuple(found.tolist()) in possible
            if found[0] != 0 or (weights[found] == 0).any() or not is_possible:
                return f"{case}: ancestors {found} at the edge {ends}"
    return None


def conditional_ssp_at_the_edges() -> str | None:
    """Uniform numbers that are all 0, all but 1, or one of each in every place: a possible outcome, nobody dead."""
    top = 1 - 2.0**-53
    for case, weights in GIVEN.items():
        n, possible = len(weights), by_rotation("ssp", weights)
        corners = jnp.asarray(list(itertools.product((0.0, top), repeat=n + 2)))
        run = jax.jit(jax.vmap(ssp_given_first, in_axes=(0, None, None)), static_argnums=2)
        for ends, found in zip(corners, np.asarray(run(corners, jnp.asarray(_log(weights)), n)), strict=True):
            if tuple(found.tolist()) not in possible:
                return f"{case}: ancestors {found} at the edge {ends}"
    return None


def conditional_draws() -> str | None:
    """20,000 draws of every conditional scheme against the exact law, chi-square at 1e-9."""
    n = 20_000
    keys = jax.random.split(jax.random.key(1), n)
    for scheme in SCHEMES:
        run = jax.jit(jax.vmap(lambda k, w, s=scheme: Conditional(w, w.shape[0], s).sample(k), in_axes=(0, None)))
        for case, weights in GIVEN.items():
            if len(weights) == 1:
                continue
            draws = np.asarray(run(keys, jnp.asarray(_log(weights))))
            exact = by_rotation(scheme, weights)
            found = _table(draws, np.ones(n))
            if set(found) - set(exact):
                return f"{scheme}, {case}: impossible ancestors {sorted(set(found) - set(exact))[0]}"
            expected = np.array([exact[k] * n for k in exact])
            counts = np.array([found.get(k, 0.0) for k in exact])
            common = expected > 10
            counts = np.append(counts[common], counts[~common].sum())
            expected = np.append(expected[common], expected[~common].sum())
            counts, expected = counts[expected > 0], expected[expected > 0]
            if len(counts) > 1 and scipy.stats.chisquare(counts, expected).pvalue < 1e-9:
                return f"{scheme}, {case}: draws do not follow the conditional law"
    return None


def conditional_lanes() -> str | None:
    """Several weight vectors at once: every lane has its own law, and shared weights give independent lanes."""
    rows = np.stack([_log(GIVEN["light"]), _log(GIVEN["heavy"])])
    n = 10_000
    keys = jax.random.split(jax.random.key(2), n)
    for law in (
        Conditional(jnp.asarray(rows), 4, "systematic"),
        Conditional(jnp.asarray(rows), 4, "systematic").lanes((True,), 2),
    ):
        draws = np.asarray(jax.jit(jax.vmap(law.sample))(keys))
        for lane, case in enumerate(("light", "heavy")):
            exact = by_rotation("systematic", GIVEN[case])
            found = _table(draws[:, lane], np.full(n, 1 / n))
            if _gap(found, exact) > 0.035:  # 7 standard errors of a share
                return f"lane {lane} has another law"
    shared = Conditional(jnp.asarray(rows[0]), 4, "multinomial").lanes((False,), 3)
    draws = np.asarray(jax.jit(jax.vmap(shared.sample))(keys))
    if draws.shape != (n, 3, 4) or abs((draws[:, 0, 1] == draws[:, 1, 1]).mean() - 0.3) > 0.035:
        return "lanes with shared weights depend on each other"
    return None


CONDITIONAL = [
    conditional_tables,
    conditional_systematic_on_a_grid,
    conditional_ssp_at_the_edges,
    conditional_draws,
    conditional_lanes,
]
