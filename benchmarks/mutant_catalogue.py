"""Seeded faults: each a piece of text of one module of the library and what stands there instead.

Faults seen in public systems, faults that textbooks warn of, and slips that the code invites, part by part.
"""

from __future__ import annotations

import dataclasses

from benchmarks.mutant_loading import source_of


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One replacement of text in a module.

    Attributes:
        name: what is wrong.
        module: the module, by its name below `probinf`.
        old: text that occurs there.
        new: what replaces every occurrence.
        program: for the interpreter's faults, the program on which two particles are compared first.
        scheme: their resampling scheme.
        threshold: and threshold.
        first: name of the check that is run first; the module's own order otherwise.
    """

    name: str
    module: str
    old: str
    new: str
    program: str = "hidden_markov"
    scheme: str = "systematic"
    threshold: float = 1.0
    first: str = ""

    def source(self) -> str:
        """The module's source with the fault.

        Raises:
            ValueError: the text is no longer there.
        """
        text = source_of(self.module)
        if self.old not in text:
            raise ValueError(f"mutant {self.name!r}: its text is no longer in {self.module}")
        return text.replace(self.old, self.new)


P, R = "transformations.population", "transformations.resampling"
ANCESTORS, INVERSION = "transformations.ancestors", "transformations.inversion"
BRANCHING, KILLING = "transformations.branching", "transformations.killing"
RUNNING = "transformations.running"
C, A = "transformations.conditional", "transformations.ancestor_sampling"
L, G, J = "transformations.collapsing", "transformations.importance", "transformations.rejuvenation"
T, S = "transformations.traces", "transformations.targets"
K, M, Q = "kernels.kernel", "kernels.trace_moves", "kernels.particle_moves"
V, H = "kernels.involutive", "language.handlers"

MUTANTS = [
    Mutant(
        "mean of log weights for log of mean", P,
        "return jnp.where(top == -jnp.inf, -jnp.inf, safe + jnp.log(jnp.mean(jnp.exp(log_weights - safe))))",
        "return jnp.where(top == -jnp.inf, -jnp.inf, jnp.mean(log_weights))",
    ),
    Mutant(
        "sum of weights for their mean", P,
        "jnp.log(jnp.mean(jnp.exp(log_weights - safe)))", "jnp.log(jnp.sum(jnp.exp(log_weights - safe)))",
    ),
    Mutant(
        "weights not fully reset after resampling", P,
        "log_weights = jnp.where(due, even, state.log_weights)",
        "log_weights = jnp.where(due, even + 0.5 * state.log_weights, state.log_weights)",
    ),
    Mutant(
        "weights reset though nothing was resampled", P,
        "log_weights = jnp.where(due, even, state.log_weights)",
        "log_weights = even",
        threshold=0.5,
    ),
    Mutant("final weights not normalised by the collected evidence", P,
           "return State(log_weights, state.log_evidence + collected)",
           "return State(log_weights + collected, state.log_evidence + collected)"),
    Mutant("ancestors drawn but not applied", P, "env[v] = Many(_take(value.array, ancestors))", "env[v] = value",
           program="random_branch"),
    Mutant("stacked history not realigned", P, "if index is not None:", "if False:"),
    Mutant("genealogy off by one step", P, "return _take(a, index), index", "return _take(a, index), _take(a, index)",
           scheme="multinomial"),
    Mutant("genealogy followed forwards", P, "ancestors, reverse=not reverse)[1]", "ancestors, reverse=reverse)[1]",
           program="nested_loops"),
    Mutant("ancestors composed in the wrong order", P,
           "composed = ancestors if composed is None else _take(composed, ancestors)",
           "composed = ancestors if composed is None else _take(ancestors, composed)",
           program="two_scores_in_a_call"),
    Mutant("composed ancestors missing for drawn loop inputs", P, "_take(row, composed) if compose else row", "row",
           program="random_inputs"),
    Mutant("constants of a loop not permuted", P, "moving = [_take(m, ancestors) for m in moving]", "pass",
           program="static_parameter"),
    Mutant("first observation counted twice", P,
           "dead = state.log_weights == -jnp.inf",
           "log_factor, self.seen = log_factor * (1 if getattr(self, 'seen', False) else 2), True\n"
           "        dead = state.log_weights == -jnp.inf"),
    Mutant("factor ignored", P, "return jnp.sum(xs[0])", "return jnp.zeros(())", program="timed_factor"),
    Mutant("weights of divergent branches mixed up", P,
           "weights = jnp.where(choice == k, log_weights, weights)",
           "weights = jnp.where(choice == k, weights, log_weights)", program="unequal_factors"),
    Mutant("results of a divergent branch not permuted", P,
           "results = [_take(r, ancestors) for r in results]", "pass", program="random_branch"),
    Mutant("ancestors of a shared branch not handed out", P,
           "(identity if ancestors is None else ancestors) if resamples else None",
           "identity if resamples else None", program="two_scores_in_shared_branch"),
    Mutant("finished particles keep collecting scores", P,
           "jnp.where(active, moved.log_weights, st.log_weights)", "moved.log_weights", program="early_termination"),
    Mutant("who has finished is not permuted", P, "active[ancestors]", "active", program="early_termination"),
    Mutant("particles that finish early leave the average", P,
           "jnp.where(active, moved.log_weights, st.log_weights)", "jnp.where(active, moved.log_weights, -jnp.inf)",
           program="early_termination"),
    Mutant("dead particles leave the average", P, "jnp.log(jnp.mean(jnp.exp(log_weights - safe)))",
           "jnp.log(jnp.sum(jnp.exp(log_weights - safe)) / jnp.maximum(jnp.sum(log_weights > -jnp.inf), 1))",
           program="zero_weights"),
    Mutant("one draw shared by all particles", P,
           "return Many(bind_sample(_widened(site) if self.named else Site(\"\"), law)[0])",
           "return Many(jnp.repeat(bind_sample(Site(\"\"), law)[0][:1], self.num, 0))"),
    Mutant("evidence pushed and kept", P,
           "return State(log_weights, state.log_evidence), ancestors, info",
           "return State(log_weights, state.log_evidence + collected), ancestors, info"),
    Mutant("residual resampling without its random rest", R,
           "rest = rest / rest.sum()", "rest = np.eye(len(w))[np.argmax(w)]", scheme="residual"),
    Mutant("systematic resampling with half of its uniform", R,
           "(np.arange(self.num) + u) / self.num", "(np.arange(self.num) + u / 2) / self.num"),
    Mutant("inversion of unnormalised cumulative weights", INVERSION, "uniforms * total", "uniforms"),
    Mutant("the search on the wrong side", INVERSION,
           "return running_max(jnp.where(live, index, first), n)[jnp.minimum(found, n - 1)]",
           'return jnp.minimum(jnp.searchsorted(cumulative, uniforms * total, side="left").astype(jnp.int32), n - 1)'),
    Mutant("run ends rounded down", R, "jnp.ceil(scaled - uniform)", "jnp.floor(scaled - uniform)"),
    Mutant("dead particles have runs", ANCESTORS, "latest(starts, weights > 0", "latest(starts, weights >= 0"),
    Mutant("runs begin a child late", ANCESTORS, "jnp.concatenate([jnp.zeros(1, jnp.int32), run_ends[:-1]",
           "jnp.concatenate([jnp.ones(1, jnp.int32), 1 + run_ends[:-1]"),
    Mutant("the open particle of SSP is never exchanged", BRANCHING,
           "(uniforms * self.scale < self.old) == self.carries",
           "(uniforms * self.scale < 0) & self.carries"),
    Mutant("SSP gives the further child to the lighter one", BRANCHING, "< self.old) == self.carries",
           "< self.old) != self.carries"),
    Mutant("SSP loses the last open fraction", BRANCHING, "counts.at[holder[-1]].add(left)", "counts"),
    Mutant("a running maximum that adds up", RUNNING, "_loop(jnp.maximum, x)", "_loop(jnp.add, x)"),
    Mutant("killed slots are taken by their own uniform", KILLING,
           "again = (coins - chance) / ", "again = coins + 0 * "),
    Mutant("survival by the normalised weight", KILLING, "chance = weights_from_log(log_weights)[kept]",
           "chance = jax.nn.softmax(log_weights)[kept]"),
    Mutant("residual spare children drawn from the whole weights", R,
           "jnp.where(rest > 0, jnp.log(rest), -jnp.inf)", "log_weights"),
    Mutant("resampling by unnormalised cumulative sums", R,
           "scaled = num * (cumulative / jnp.where(cumulative[-1] > 0, cumulative[-1], 1))",
           "scaled = num * cumulative"),
    Mutant("cumulative sums in single precision", R, "cumulative = prefix_sum(weights)",
           "cumulative = prefix_sum(weights.astype(jnp.float32)).astype(weights.dtype)"),
    Mutant("one key for the proposal and for the ancestors", H,
           'return jax.random.fold_in(state["key"], self._count)',
           'return jax.random.fold_in(state["key"], self._count // 2)'),
    Mutant("effective sample size without its square", R, "mass * mass / jnp.where", "mass / jnp.where"),
    Mutant("one key for all statements", H, 'return jax.random.fold_in(state["key"], self._count)',
           'return state["key"]'),
    # -- the reference of a conditional population
    Mutant("the reference is not kept by resampling", P, "if self.reference is not None:\n                chosen",
           "if False:\n                chosen", first="conditional_populations"),
    Mutant("the reference is drawn anew", P, "return Many(jnp.concatenate([own, bind_sample(Site(\"\"), law)[0]]))",
           "return Many(jnp.concatenate([bind_sample(Site(\"\"), law)[0][:1], bind_sample(Site(\"\"), law)[0]]))",
           first="mobility_of_references"),
    Mutant("the reference weighs its joint density", P,
           'return [self.draw(p, operands[: p["count"]])], state, None, {}',
           'value = self.draw(p, operands[: p["count"]])\n'
           '            if self.reference is not None and isinstance(value, Many):\n'
           '                first = [x.array[0] if isinstance(x, Many) else x for x in operands[: p["count"]]]\n'
           '                extra = log_density(jax.tree.unflatten(p["structure"], first), value.array[0])\n'
           '                state = State(state.log_weights.at[0].add(extra), state.log_evidence)\n'
           '            return [value], state, None, {}', first="mobility_of_references"),
    Mutant("a shared site is drawn for each particle", P,
           "return known if known is not None else bind_sample(site, distribution_of(p, leaves))[0]", "pass",
           first="shared_sites"),
    Mutant("a shared site is drawn though the reference has it", P,
           "return known if known is not None else bind_sample(site, distribution_of(p, leaves))[0]",
           "return bind_sample(site, distribution_of(p, leaves))[0]", first="seldom_resampled_references"),
    Mutant("the exchanged past keeps its old weights", P, "st = State(st.log_weights[swapped], st.log_evidence)",
           "pass", first="mobility_of_references"),
    Mutant("the exchange is missing in the genealogy", P,
           "ancestors = swapped if ancestors is None else _take(swapped, ancestors)", "pass",
           first="mobility_of_references"),
    Mutant("ancestor sampling without weights", P, "exchange(st.log_weights + self.each(future, seen))",
           "exchange(self.each(future, seen))", first="mobility_of_references"),
    Mutant("ancestor sampling without the future", P, "exchange(st.log_weights + self.each(future, seen))",
           "exchange(st.log_weights)", first="mobility_of_references"),
    Mutant("the next iteration for the whole future", P,
           "log_future_now(eqn, {**rest, **now}) if is_markov else log_future_from(eqn, t, path, rest)",
           "log_future_now(eqn, {**rest, **now}) if is_markov else "
           "(lambda *o: log_future_now(eqn, {**rest, **now})(*o[:n_consts + n_carry], *[r[t] for r in o[n_consts + "
           "n_carry:]]))", first="conditional_populations"),
    Mutant("the past is copied instead of exchanged", A,
           "jnp.where(identity == chosen, 0, identity).at[0].set(chosen)", "identity.at[0].set(chosen)"),
    Mutant("the future starts one iteration late", A, "jax.lax.fori_loop(t, length, step, start)[1]",
           "jax.lax.fori_loop(t + 1, length, step, start)[1]"),
    Mutant("the future without its scores", A, "return outs[:n_carry], log_density",
           "return outs[:n_carry], log_density - evaluate(eqn.params['jaxpr'], operands, Score(), Score().start(), "
           "values)[1]"),
    # -- conditional resampling
    Mutant("the systematic uniform as if nothing were given", C, "rest * uniforms[1], rest + (1 - rest) * uniforms[1]",
           "uniforms[1], uniforms[1]"),
    Mutant("more and fewer children weigh the same", C, "uniforms[0] * expected < rest * (whole + 1)",
           "uniforms[0] < rest"),
    Mutant("slot 0 overwritten after an ordinary draw", C,
           "return systematic_given_first(jax.random.uniform(key, (3,), log_weights.dtype), law, log_weights)",
           "return law.from_uniforms(jax.random.uniform(key, (), log_weights.dtype), log_weights).at[0].set(0)"),
    Mutant("no rotation", C, "return rotate(ancestors, shift).at[0].set(0)", "return ancestors.at[0].set(0)"),
    Mutant("no rotation of the stratified ancestors", C,
           "rotate(law.from_uniforms(uniforms, log_weights), stratum).at[0].set(0)",
           "law.from_uniforms(uniforms, log_weights).at[0].set(0)"),
    Mutant("the conditional table is not rotated", C, "for shift in np.flatnonzero(vector == 0):",
           "for shift in np.flatnonzero(vector == 0)[:1]:"),
    Mutant("the sure copies of residual resampling count alone", C,
           "random_share = (num - sure) * left[0] / total", "random_share = 0.0 * (num - sure) * left[0] / total"),
    Mutant("particle 0 of SSP as if its number of children were not given", BRANCHING,
           "jnp.where(index > when, chain.exchanges(coins), index == when)", "chain.exchanges(coins)"),
    Mutant("the first slot of killing is always the first", KILLING,
           "rotate(self.from_uniforms(uniforms, log_weights).at[first].set(0), first)",
           "self.from_uniforms(uniforms, log_weights).at[0].set(0)"),
    # -- collapsing, guides
    Mutant("the evidence is not scored when collapsing", L,
           "bind_factor(Site(\"\"), total)\n        # A population", "# A population"),
    Mutant("a particle is chosen evenly", L, "dist.CategoricalProbs(jax.nn.softmax(alive))",
           "dist.CategoricalProbs(jax.nn.softmax(0 * alive))"),
    Mutant("the evidence is pushed and kept in the weights", L, "log_weights=population.log_weights - shift",
           "log_weights=population.log_weights"),
    Mutant("the evidence is pushed and stays collected", L, "collected=jnp.zeros_like(population.collected)",
           "collected=population.collected"),
    Mutant("a resized population weighs its evidence twice", L, "mean = population.log_evidence - population.collected",
           "mean = population.log_evidence"),
    Mutant("the guide's density is forgotten", G, "log_density(distribution, value) - log_q",
           "log_density(distribution, value)"),
    Mutant("the guide's density is counted twice", G, "log_density(distribution, value) - log_q",
           "log_density(distribution, value) - 2 * log_q"),
    # -- resample-move and tempering
    Mutant("the increment is the whole weight", J, "new - jnp.where(old == -jnp.inf, 0, old)", "new"),
    Mutant("first observation counted twice by moves", J, "start = target.replay(slots, jnp.zeros((), jnp.int32))",
           "start = target.replay(slots, jnp.zeros((), jnp.int32))\n"
           "        bind_factor(Site(''), target.replay(slots, jnp.ones((), jnp.int32)).log_weight)"),
    Mutant("moves target later scores", J, "Prefix(target, stop, c if self.freeze else None)",
           "Prefix(target, stop + 1, c if self.freeze else None)"),
    Mutant("moves do not see the last score", J, "Prefix(target, stop, c if self.freeze else None)",
           "Prefix(target, stop - 1, c if self.freeze else None)"),
    Mutant("the last factor of the ladder is missing", J, "jnp.where(step == ladder[-1], 1 - done, step - done)",
           "jnp.where(step == ladder[-1], 0 * done, step - done)"),
    Mutant("the factor of a step is that of the moved trace before", J,
           "return (trace.slots, target.prior_and_score(trace.slots)[1], step), None",
           "return (trace.slots, log_score, step), None"),
    Mutant("the moved trace is thrown away", J, "return (trace.slots, target.prior_and_score(trace.slots)[1], step)",
           "return (slots, log_score, step)"),
    # -- traces and targets
    Mutant("the prior of values is forgotten", T, "return Trace(dict(slots), log_prior + log_score)",
           "return Trace(dict(slots), log_score)"),
    Mutant("the prior of values is counted twice", T, "return Trace(dict(slots), log_prior + log_score)",
           "return Trace(dict(slots), 2 * log_prior + log_score)"),
    Mutant("the Jacobian of unconstrained values is forgotten", T,
           "jnp.asarray(transform.log_abs_det_jacobian(value, constrained))",
           "0 * jnp.asarray(transform.log_abs_det_jacobian(value, constrained))"),
    Mutant("a trace stops one score late", T, 'jnp.where(state["count"] < self.stop',
           'jnp.where(state["count"] <= self.stop'),
    Mutant("ages are off by one", T, 'return {site.name: state["count"]}', 'return {site.name: state["count"] + 1}'),
    Mutant("iterations of a while loop share their unit", T,
           "now = {n: randomness.fold(v, i) for n, v in mine.items()}",
           "now = dict(mine)"),
    Mutant("the prior is tempered too", S, "return Trace(dict(slots), log_prior + tempered)",
           "return Trace(dict(slots), self.exponent * log_prior + tempered)"),
    Mutant("the frozen places are those that move", S, "kept[name] = jnp.where(late, new[name], old[name])",
           "kept[name] = jnp.where(late, old[name], new[name])"),
    Mutant("a place that the last score saw is not frozen", S, "late = ages[name] >= self.frozen",
           "late = ages[name] >= self.frozen - 1"),
    # -- kernels
    Mutant("the accept ratio upside down", K, "new.log_weight - old.log_weight + log_correction",
           "old.log_weight - new.log_weight + log_correction"),
    Mutant("the correction with the wrong sign", K, "new.log_weight - old.log_weight + log_correction",
           "new.log_weight - old.log_weight - log_correction"),
    Mutant("the prior counted twice by the accept step", M, 'return metropolis("trace_mh()", propose)',
           'import dataclasses\n'
           '    def step(t, s):\n'
           '        from probinf.kernels.kernel import accept\n'
           '        n = t.replay(propose(t, s.slots))\n'
           '        half = sum(0.1 * (jnp.sum(n.slots[k]) - jnp.sum(s.slots[k])) for k in n.slots)\n'
           '        n, a = accept(s, n, half)\n'
           '        return n, {"accepted": a}\n'
           '    return dataclasses.replace(metropolis("trace_mh()", propose), step=step)'),
    Mutant("a length factor in single-site moves", K,
           "new, accepted = accept(state, target.replay(slots if protect is None else protect(state.slots, slots)))",
           "new = target.replay(slots if protect is None else protect(state.slots, slots))\n"
           "        met = lambda s: jnp.log(1.0 + target.scores_of(s))\n"
           "        new, accepted = accept(state, new, met(state.slots) - met(new.slots))"),
    Mutant("the rejected proposal's weight is kept", K,
           "return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old), accepted",
           "return Trace(jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new.slots, old.slots), new.log_weight), "
           "accepted"),
    Mutant("the weight is not renewed", K,
           "return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old), accepted",
           "return Trace(jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new.slots, old.slots), old.log_weight), "
           "accepted"),
    Mutant("the probabilities of a mixture are ignored", K, "emit(dist.CategoricalProbs(jnp.asarray(p)))",
           "emit(dist.CategoricalProbs(jnp.full(len(p), 1.0 / len(p))))"),
    Mutant("a mixture chosen by the state", K, "which = emit(dist.CategoricalProbs(jnp.asarray(p)))",
           "which = emit(dist.CategoricalProbs(jnp.where(state.log_weight < -0.8, jnp.asarray(p[::-1]), "
           "jnp.asarray(p))))"),
    Mutant("each part is accepted on its own", K,
           "return metropolis(f\"together({', '.join(k.name for k in kernels)})\", propose, kernels)",
           "return dataclasses.replace(cycle(*kernels), claim=Claim.REVERSIBLE, propose=propose)"),
    Mutant("the current estimate is recomputed", K, "slots = propose(target, state.slots)",
           "slots = propose(target, state.slots)\n"
           "        if any(n.startswith('#') for n in target.table):\n"
           "            fresh = {n: emit(target.randomness.law(q.loops)).astype(state.slots[n].dtype)\n"
           "                     for n, q in target.table.items() if q.holds == 'unit'}\n"
           "            state = target.replay({**state.slots, **fresh})", first="particle_marginal"),
    Mutant("a block moves everything", K, "return {n: p for n, p in self.whole.table.items() if n in self.names}",
           "return self.whole.table", first="parts_of_targets"),
    Mutant("frozen places are moved", K, "slots if protect is None else protect(state.slots, slots)", "slots",
           first="parts_of_targets"),
    Mutant("Gibbs by the prior alone", M, "candidates.log_weight, -jnp.inf)",
           "jax.vmap(lambda s: target.prior_and_score(s)[0])(candidates.slots), -jnp.inf)"),
    Mutant("Gibbs counts the padding", M, "jnp.where(jnp.arange(most, dtype=jnp.int32) < count, candidates.log_weight",
           "jnp.where(jnp.arange(most, dtype=jnp.int32) < most, candidates.log_weight"),
    Mutant("redrawing is not symmetric", M, "fresh = jnp.where(mask, fresh, slots[name])",
           "fresh = jnp.where(mask & (fresh >= slots[name]), fresh, slots[name])"),
    Mutant("a single-site move redraws its first place more often", M,
           "which = emit(dist.DiscreteUniform(0, total - 1)) if total > 1 else jnp.zeros((), jnp.int32)",
           "which = jnp.maximum(emit(dist.DiscreteUniform(0, total - 1)) - 1, 0) if total > 1 else "
           "jnp.zeros((), jnp.int32)"),
    Mutant("refreshing touches what a score has seen", M, "late = ages[name] >= target.stop",
           "late = ages[name] >= target.stop - 1"),
    Mutant("the path is chosen evenly", Q, "jax.nn.softmax(final.log_weights)",
           "jax.nn.softmax(0 * final.log_weights)"),
    Mutant("fixed parameters are moved", Q, "shared=frozenset(fixed)", "shared=frozenset()",
           first="seldom_resampled_references"),
    # -- involutions
    Mutant("no proposal ratio", V, "total = there - here + self.log_det(position, values)",
           "total = self.log_det(position, values)"),
    Mutant("no Jacobian", V, "total = there - here + self.log_det(position, values)", "total = there - here"),
    Mutant("the Jacobian of the reverse move", V, "total = there - here + self.log_det(position, values)",
           "total = there - here - self.log_det(position, values)"),
    Mutant("the proposal ratio upside down", V, "total = there - here + self.log_det(position, values)",
           "total = here - there + self.log_det(position, values)"),
]  # fmt: skip
QUICK = 8
