"""Automatic mutants that no check can kill because they mean the same, each with the reason.

A mutant is named by its module and the text of the change (`Change.identity`), so that the table outlives moved lines.
"""

from __future__ import annotations

# ruff: noqa: E501
# fmt: off
EQUIVALENT: dict[str, str] = {
    "kernels.trace_moves.propose: which = emit(dist.DiscreteUniform(0, total - 1)) if total > 1 else jnp.zeros((), jnp.int32) => which = emit(dist.DiscreteUniform(0, total - 1)) if (total >= 1) else jnp.zeros((), jnp.int32)": "of a single place the even choice is that place",
    "transformations.rejuvenation.__call__: trace, _ = jax.lax.scan(layer, start, jnp.arange(target.num_scores, dtype=jnp.int32)) => trace, _ = jax.lax.scan(layer, start, jnp.arange(target.num_scores))": "the same numbers in the default integer type",
    "kernels.trace_moves.step: sizes = {n: int(np.prod((*p.loops, *p.event), dtype=int)) for n, p in places.items()} => sizes = {n: int(np.prod((*p.loops, *p.event))) for n, p in places.items()}": "a product of integers is one, and the empty one is made an integer outside",
    "transformations.running.run: counts = jnp.zeros(lanes * size, amounts.dtype).at[at].add(amounts.reshape(-1), mode=\"promise_in_bounds\") => counts = jnp.zeros(lanes * size, amounts.dtype).at[at].add(amounts.reshape(-1))": "a hint about indices that are in bounds",
    "kernels.trace_moves.step: which = emit(dist.DiscreteUniform(0, sum(sizes.values()) - 1)) if sum(sizes.values()) > 1 else jnp.int32(0) => which = emit(dist.DiscreteUniform(0, sum(sizes.values()) - 1)) if sum(sizes.values()) > 0 else jnp.int32(0)": "of a single place the even choice is that place",
    "transformations.resampling.stratified_ancestors: stratum = jnp.clip(jnp.floor(scaled), 0, num - 1).astype(jnp.int32) => stratum = jnp.clip(jnp.floor(scaled), 0, num - 0).astype(jnp.int32)": "at the last point, index and remainder move by one together",
    "transformations.running._running_sum: before = jnp.concatenate([jnp.zeros((1, 1), x.dtype), flat[:-1, -1:]]) if n else jnp.zeros((lanes, 1), x.dtype) => before = jnp.concatenate([jnp.zeros((1, 1), x.dtype), flat[:-1, -1:]]) if n else jnp.zeros((lanes, 0), x.dtype)": "only of an empty array, which has no rows to fill",
    "transformations.rejuvenation.increment: return jnp.where(new == -jnp.inf, -jnp.inf, new - jnp.where(old == -jnp.inf, 0, old)) => return jnp.where(new == -jnp.inf, -jnp.inf, new - jnp.where(old == -jnp.inf, 1, old))": "a weight that was zero stays zero, whatever is added",
    "transformations.resampling.residual_ancestors: sure = ancestors_from_run_ends(ends, jnp.where(whole > 0, weights, 0), num) => sure = ancestors_from_run_ends(ends, jnp.where(whole > 0, weights, 1), num)": "a particle without sure children has an empty run and owns no slot",
    "transformations.branching.children: left = jnp.maximum(num - jnp.sum(counts, dtype=jnp.int32), 0) * (weights[holder[-1]] > 0).astype(jnp.int32) => left = jnp.maximum(num - jnp.sum(counts, dtype=jnp.int32), 0) * ((weights[holder[-1]] >= 0)).astype(jnp.int32)": "only without any mass, where any ancestors do; the same ones come out",
    "transformations.branching.outcomes: expected = np.where(np.abs(expected - near) < 64 * np.finfo(float).eps * self.num, near, expected) => pass": "tells numbers apart that differ by rounding: vectors of probability 1e-15",
    "transformations.population.run_population: closed.jaxpr, closed.consts, list(operands), state, used, align=False, outermost=True => closed.jaxpr, closed.consts, list(operands), state, used, align=True, outermost=True": "composes ancestors that nobody takes",
    "transformations.resampling.stratified_ancestors: passed = uniforms[stratum] < scaled - stratum.astype(scaled.dtype) => passed = (uniforms[stratum] <= scaled - stratum.astype(scaled.dtype))": "differs where a uniform number meets an edge exactly: probability zero, and the dead are left out elsewhere",
    "transformations.resampling.outcomes: inside = cumulative[(cumulative > k / self.num) & (cumulative < (k + 1) / self.num)] => inside = cumulative[(cumulative > k / self.num) & ((cumulative <= (k + 1) / self.num))]": "a stretch of no length, an outcome of probability zero",
    "transformations.running.running_max: return _running_max(bound)(x[None])[0] => return _running_max(bound)(x[None])[1]": "JAX clamps the index of the only row",
    "transformations.ancestors.enumerate: if p > 0: => if (p >= 0):": "rows of probability zero",
    "transformations.conditional._residual: is_sure = jax.random.uniform(key_which, (), expected.dtype) * (whole[0] + random_share) < whole[0] => is_sure = (jax.random.uniform(key_which, (), expected.dtype) * (whole[0] + random_share) <= whole[0])": "differs for a uniform number of exactly zero",
    "transformations.branching.ssp_given_first: settled_more = more & chain.carries & (coins * chain.scale * chain.open_before < chain.old) => settled_more = more & chain.carries & ((coins * chain.scale * chain.open_before <= chain.old))": "differs where a uniform number meets an edge exactly: probability zero",
    "kernels.trace_moves.step: candidates = jax.vmap(candidate)(jnp.arange(most, dtype=jnp.int32)) => candidates = jax.vmap(candidate)(jnp.arange(most))": "the same numbers in the default integer type",
    "transformations.population.scan: (state, composed, _, final), (kept, ancestors, info) = jax.lax.scan( => (state, composed, _, final), (kept, ancestors, info) = jax.lax.scan(run, start, rows_of, length=length, reverse=p['reverse'])": "unrolling changes the speed only",
    "transformations.ancestors.ancestors_from_run_ends: first = jax.lax.platform_dependent( => first = jax.lax.platform_dependent(weights, cpu=lambda weights: jax.lax.cond(weights[0] > 0, zero, search, weights))": "what other devices than a CPU do; the checks run on a CPU",
    "transformations.running._flat_sum: return jax.lax.platform_dependent(x, cpu=lambda x: _loop(jnp.add, x), default=jnp.cumsum) => return jax.lax.platform_dependent(x, default=jnp.cumsum)": "the same sums, slower on a CPU",
    "transformations.running.rule: if lanes[1].shape[-1] < _LONG: => if lanes[1].shape[-0] < _LONG:": "whether lanes take turns or not: the speed only",
    "transformations.resampling.effective_sample_size: return jnp.where(squares > 0, mass * mass / jnp.where(squares > 0, squares, 1), 0) => return jnp.where(squares > 0, mass * mass / jnp.where(squares > 1, squares, 1), 0)": "the largest weight is scaled to 1, so the sum of squares is 0 or at least 1",
    "transformations.running.running_sum: return _running_sum(x[None])[0] => return _running_sum(x[None])[1]": "JAX clamps the index of the only row",
    "transformations.running._largest_so_far: if n < _LONG: => if not (n < _LONG):": "by blocks or not: the speed only",
    "transformations.resampling.stratified_ancestors: stratum = jnp.clip(jnp.floor(scaled), 0, num - 1).astype(jnp.int32) => stratum = jnp.clip(jnp.floor(scaled), 0, (num + 1)).astype(jnp.int32)": "at the last point, index and remainder move together",
    "transformations.population.masked: body.jaxpr, body.consts, [*c[n_cond:], *v], st, [True] * len(now), align=False => body.jaxpr, body.consts, [*c[n_cond:], *v], st, [True] * len(now), align=True": "composes ancestors that nobody takes",
    "transformations.branching.exchanges: return (self.fraction > 0) & ((uniforms * self.scale < self.old) == self.carries) => return ((self.fraction >= 0)) & ((uniforms * self.scale < self.old) == self.carries)": "a particle without fraction has nothing to give: only who gets what rounding leaves over",
    "transformations.branching.children: index = jnp.arange(n, dtype=jnp.int32) => index = jnp.arange(n)": "the same numbers in the default integer type",
    "transformations.running._flat_sum: return jax.lax.platform_dependent(x, cpu=lambda x: _loop(jnp.add, x), default=jnp.cumsum) => return jax.lax.platform_dependent(x, cpu=lambda x: _loop(jnp.add, x))": "what other devices than a CPU do; the checks run on a CPU",
    "transformations.resampling.residual_ancestors: expected = num * weights / jnp.where(mass > 0, mass, 1) => expected = num * weights / jnp.where((mass >= 0), mass, 1)": "only without any mass, where any ancestors do",
    "transformations.population.scan: resamples = sampling or (self.suspend and self.resampling.threshold > 0 and may_score(body.jaxpr)) => resamples = sampling or ((self.suspend or self.resampling.threshold > 0 or may_score(body.jaxpr)))": "where nothing resamples the ancestors carried along stay the identity",
}
