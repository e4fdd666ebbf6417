"""Checks of traces and of the targets made from them: what a trace weighs, when a place is reached, what is drawn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.kernels.running import with_key
from probinf.language import statements as pi
from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Program, model
from probinf.language.staging import Arguments
from probinf.transformations.algorithms import enumerate_program, population, recorded
from probinf.transformations.randomness import Ticks
from probinf.transformations.targets import Assigned, Prefix, Tempered
from probinf.transformations.traces import Traced
from probinf.validity.matrices import all_slots
from probinf.validity.measures import discrepancy
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov, number

TICKS = Ticks(2)


@model
def halves(ys):
    """Probabilities that are multiples of 1/2, so that two ticks are exact; a deterministic site; two branches."""
    a = pi.sample("a", dist.Bernoulli(0.5))

    def step(z, y):
        z = pi.sample("z", dist.BernoulliProbs(jnp.where(z == 1, 0.5, 1.0)))
        pi.factor("f", jnp.where(z == y, 0.0, -0.7) + 0.2 * number(a))
        return z, z

    path = jax.lax.scan(step, 0, ys)[1]
    pi.deterministic("twice", 2 * path)
    jax.lax.cond(a == 1, lambda: pi.factor("g", -0.3), lambda: None)
    pi.sample("o", dist.BernoulliProbs(jnp.where(path[1] == a, 0.8, 0.3)), obs=1)
    return a, path


def seen_through(target: Traced, result: Any = None) -> Program:
    """The program that draws a trace, scores what its scores say, and returns values."""

    def function(operands: Any) -> Any:
        here = target.at(operands)
        slots = here.draw()
        bind_factor(Site(""), here.prior_and_score(slots)[1])
        return here.result_of(slots) if result is None else result(here, slots)

    return Program("seen", function, Arguments.split((target.program.operands,), {}))


def _compare(program: Program, reference: Program, what: str) -> str | None:
    error, scale = discrepancy(enumerate_program(program), enumerate_program(reference))
    return None if error <= 1e-12 * scale else f"{what}: masses off by {error / scale:.2g}"


def drawn_traces() -> str | None:
    """A drawn trace with its scores is the program: by units where ticks are exact, by values everywhere."""
    exact = halves(DATA)
    for values in ((), ("z",), ("a",), ("a", "z")):
        if found := _compare(seen_through(Traced(exact, values=values, randomness=TICKS)), exact, f"values {values}"):
            return found
    for name in ("hidden_markov", "static_parameter", "branch_in_loop", "reversed_loop"):
        program = PROGRAMS[name]
        target = Traced(program, values=[s.name for s in program.staged.latent()], randomness=TICKS)
        if found := _compare(seen_through(target), program, f"values of {name}"):
            return found
        values = seen_through(target, lambda t, s: {n: t.values_of(s)[n] for n in t.values})
        if found := _compare(values, recorded(program), f"recorded values of {name}"):
            return found
    return None


def weights_of_traces() -> str | None:
    """The weight of a trace is its scores, and the prior density of the values it holds, once."""
    exact = halves(DATA)
    law = enumerate_program(recorded(exact)).table(lambda v: (int(v["a"]), *np.asarray(v["z"]).tolist()))
    for values in ((), ("z",), ("a", "z")):
        target = Traced(exact, values=values, randomness=TICKS)
        states = all_slots(target)
        weights = np.asarray(jax.vmap(lambda s, t=target: t.replay(s).log_weight)(states))
        seen = jax.vmap(target.values_of)(states)
        units = sum(p.count for p in target.table.values() if p.holds == "unit")
        table: dict = {}
        for i, log_weight in enumerate(weights):
            key = (int(seen["a"][i]), *np.asarray(seen["z"][i]).tolist())
            table[key] = table.get(key, 0.0) + float(np.exp(log_weight)) / 2**units
        gap = max(abs(table.get(k, 0.0) - law.get(k, 0.0)) for k in {*law, *table})
        if not gap <= 1e-12:
            return f"with values {values} masses are off by {gap:.2g}"
        if not np.array_equal(seen["twice"], 2 * seen["z"]):
            return "a deterministic site is not recorded"
    for name in ("hidden_markov", "static_parameter"):
        program = PROGRAMS[name]
        target, whole = Traced(program, values=[s.name for s in program.staged.latent()]), Assigned(program)
        slots = with_key(target.draw, jax.random.key(3))
        a, b = float(target.replay(slots).log_weight), float(program.log_density(target.values_of(slots)))
        c = float(whole.replay(target.values_of(slots)).log_weight)
        if abs(a - b) > 1e-12 or abs(c - b) > 1e-12:
            return f"{name}: weight {a:.4g} for a log density of {b:.4g}"
        if set(whole.values_of(slots)) != set(slots):
            return "an assignment is not its own values"
    return None


def weights_at_suspensions() -> str | None:
    """The weight of the first scores only, of a tempered program, and with other data."""
    target = Traced(hidden_markov(DATA), randomness=TICKS)
    emission = np.array([0.2, 0.9])
    for slots in ({"z": jnp.asarray(z)} for z in ([0, 1], [1, 1], [1, 0])):
        z = np.asarray(target.values_of(slots)["z"])
        for data, here in ((DATA, target), (1 - DATA, target.at(hidden_markov(1 - DATA).operands))):
            likelihood = np.where(np.asarray(data) == 1, emission[z], 1 - emission[z])
            sums = np.concatenate([[0.0], np.cumsum(np.log(likelihood))])
            found = [float(Prefix(here, jnp.int32(c)).replay(slots).log_weight) for c in range(4)]
            if np.abs(np.array(found) - sums[[0, 1, 2, 2]]).max() > 1e-12:
                return f"weights {found} of the first scores, for {sums}"
            found = [float(Prefix(here, jnp.int32(1)).replay(slots, jnp.int32(c)).log_weight) for c in range(3)]
            if np.abs(np.array(found) - sums[[0, 1, 1]]).max() > 1e-12:
                return "a stop beyond that of the target"
            for power in (0.0, 0.3, 1.0):
                log_weight = float(Tempered(here, power).replay(slots).log_weight)
                if abs(log_weight - power * sums[2]) > 1e-12:
                    return f"weight {log_weight:.4g} at the power {power} of {sums[2]:.4g}"
                stopped = float(Tempered(here, power).replay(slots, jnp.int32(1)).log_weight)
                if abs(stopped - power * sums[1]) > 1e-12:
                    return "a tempered program that stops"
    held = Traced(PROGRAMS["static_parameter"], values=("theta", "z"), randomness=TICKS)
    for theta in (0, 1):
        slots = {"theta": jnp.asarray(theta), "z": jnp.asarray([1, 0])}
        prior, score = (float(x) for x in held.prior_and_score(slots))
        p = [0.25 if z != theta else 0.7 for z in (0, 1)]
        by_hand = np.log(0.4 if theta else 0.6) + np.log(p[0]) + np.log(1 - p[1])
        if abs(prior - by_hand) > 1e-12 or abs(score - (0.0 + 0.6 * theta)) > 1e-12:
            return f"prior {prior:.4g} and score {score:.4g}, expected {by_hand:.4g} and {0.6 * theta:.4g}"
        log_weight = float(Tempered(held, 0.5).replay(slots).log_weight)
        if abs(log_weight - by_hand - 0.3 * theta) > 1e-12:
            return "the prior is tempered too"
    dead = Traced(PROGRAMS["zero_weights"], randomness=TICKS)
    for a in (0, 1):
        slots = {"a": jnp.asarray(a), "b": jnp.asarray(1)}
        cold = float(Tempered(dead, 0.0).replay(slots).log_weight)
        if cold != 0:
            return f"weight {cold} at the power zero"
    return None


def numbers_of_scores() -> str | None:
    """Scores met before each place, in an execution, and at most."""
    cases = {
        "hidden_markov": ({"z": [0, 1]}, 2),
        "static_parameter": ({"theta": 0, "z": [0, 1]}, 2),
        "reversed_loop": ({"a": 0, "z": [1, 0]}, 2),
        "zero_weights": ({"a": 0, "b": 1}, 2),
        "nested_loops": ({"z": [[0, 1], [2, 3]]}, 4),
        "score_before_draws": ({"a": 1, "b": 2}, 2),
        "empty_loop": ({"a": 0}, 1),
        "wrapped_calls": ({"a": 0, "z": 0, "b": 1}, 2),
        "two_scores_in_a_call": ({"a": 0, "b": 1}, 2),
        "mapped_lanes": ({"z": [0, 0]}, None),
        "random_branch": ({"a": 0}, 2),
        "three_way_switch": ({"k": 0}, 3),
        "unequal_factors": ({"a": 0}, 3),
        "loop_in_branch": ({"a": 0}, 3),
    }
    for name, (ages, most) in cases.items():
        target = Traced(PROGRAMS[name], randomness=TICKS)
        slots = {n: jnp.ones((*p.loops, *TICKS.unit), jnp.int64) for n, p in target.table.items()}
        found = target.ages_of(slots)
        if most is not None and target.num_scores != most:
            return f"{name}: at most {target.num_scores} scores for {most}"
        for site, expected in ages.items():
            if name != "mapped_lanes" and np.asarray(found[site]).tolist() != expected:
                return f"{name}: site {site} comes after {np.asarray(found[site]).tolist()} scores for {expected}"
        if set(found) != set(target.table):
            return f"{name}: ages of the sites {sorted(found)}"
    counts = {"unequal_factors": ({"a": 1, "b": 1}, 3), "random_branch": ({"a": 1, "b": 1}, 2)}
    for name, (slots, expected) in counts.items():
        target = Traced(PROGRAMS[name], randomness=Ticks(4))
        full = {n: jnp.asarray(3 * v) for n, v in slots.items()}
        if int(target.scores_of(full)) != expected:
            return f"{name}: {int(target.scores_of(full))} scores are met for {expected}"
    low = Traced(PROGRAMS["unequal_factors"], randomness=TICKS)
    none = {"a": jnp.asarray(0), "b": jnp.asarray(0)}
    return "scores of a branch that is not taken" if int(low.scores_of(none)) else None


def traces_of_while_loops() -> str | None:
    """Units of a while loop's places: one number, folded with the number of the iteration."""

    def coin(p: float, unit: int) -> int:
        return int(1 - p <= (unit % 2 + 0.5) / 2)

    target = Traced(PROGRAMS["early_termination"], randomness=TICKS)
    for unit_a in (0, 1):
        for unit in (0, 1):
            a, n, more, total = coin(0.3, unit_a), 0, True, 0.0
            while more:
                go = coin(0.8 if a else 0.4, unit + n)
                total += -0.3 * go + 0.5 * a
                n, more = n + 1, go == 1 and n < 1
            total += -0.4 * n * a
            slots = {"a": jnp.asarray(unit_a), "go": jnp.asarray(unit)}
            found_a, found_n = (int(x) for x in target.result_of(slots))
            if (found_a, found_n) != (a, n) or abs(float(target.replay(slots).log_weight) - total) > 1e-12:
                return f"a while loop gives {(found_a, found_n)} for {(a, n)}"
    target = Traced(PROGRAMS["draw_in_condition"], randomness=TICKS)
    for unit in (0, 1):
        n, total = 0, 0.0
        while True:
            go = coin(0.4, unit + n)
            total += -0.7 * go + 0.2 * n
            if not (go == 1 and n < 1):
                break
            n += 1
        total -= 0.3 * n
        slots = {"go": jnp.asarray(unit)}
        if int(target.result_of(slots)) != n or abs(float(target.replay(slots).log_weight) - total) > 1e-12:
            return "a draw in the condition of a while loop"
    target = Traced(PROGRAMS["score_in_condition"], randomness=TICKS)
    slots = {"z": jnp.asarray(0)}
    if int(target.scores_of(slots)) != 6 or abs(float(target.replay(slots).log_weight) + 0.75 + 0.5 + 0.2) > 1e-12:
        return "scores in the condition of a while loop"
    if [p.count for p in Traced(PROGRAMS["nested_loops"]).table.values()] != [4]:
        return "places of nested loops"
    return None


@model
def scales():
    sigma = pi.sample("sigma", dist.LogNormal(0.0, 0.5))
    x = pi.sample("x", dist.Normal(0.0, sigma).expand([3]))
    k = pi.sample("k", dist.Bernoulli(0.3))
    pi.observe("y", dist.Normal(x + number(k), 1.0), jnp.array([0.1, -1.0, 2.0]))


@model
def positions():
    sigma = pi.sample("sigma", dist.LogNormal(0.0, 0.5))
    pi.sample("x", dist.Normal(0.0, sigma).expand([3]))


def continuous_values() -> str | None:
    """Values on unconstrained space: density and Jacobian once, there and back, and the prior law."""
    program = scales()
    target = Traced(program, values=("sigma", "x"))
    slots = with_key(target.draw, jax.random.key(0))
    drawn = target.values_of(slots)
    log_sigma = jnp.log(drawn["sigma"])
    if abs(float(slots["sigma"] - log_sigma)) > 1e-12:
        return "a positive value is not held by its logarithm"
    density = float(program.log_density(drawn) + log_sigma)
    prior_of_k = float(dist.Bernoulli(0.3).log_prob(drawn["k"]))
    if abs(float(target.replay(slots).log_weight) - density + prior_of_k) > 1e-10:
        return "weight of continuous values"
    smooth = Traced(positions(), values=("sigma", "x"))
    slots = with_key(smooth.draw, jax.random.key(2))
    back = smooth.slots_from(smooth.values_of(slots))
    if any(not np.allclose(back[n], slots[n], rtol=1e-12) for n in ("sigma", "x")):
        return "slots from values"
    keys = jax.random.split(jax.random.key(1), 4000)
    values = jax.jit(jax.vmap(lambda k: target.values_of(with_key(target.draw, k))))(keys)
    z = np.asarray(values["x"]) / np.asarray(values["sigma"])[:, None]
    logs = np.log(np.asarray(values["sigma"])) / 0.5
    bound = 6 / np.sqrt(4000)  # six standard errors each
    for sample in (logs, *z.T):
        if abs(sample.mean()) > bound or abs(sample.var() - 1) > bound * np.sqrt(2):
            return "values are not drawn from their priors"
    return None


def places_of_an_algorithm() -> str | None:
    """The unnamed draws of an algorithm have places of their own, and the trace of the algorithm is the algorithm."""
    inner = population(halves(DATA[:1]), 2, threshold=1.0, resample="multinomial")
    target = Traced(inner, randomness=TICKS)
    unnamed = [n for n in target.table if n.startswith("#")]
    # One resampling after the loop's score, one after the branch, one after the observation.
    return None if len(unnamed) == 3 else f"{len(unnamed)} places for 3 draws without a name"


MEASURES = [drawn_traces, weights_of_traces]
HALVES = [
    weights_at_suspensions,
    numbers_of_scores,
    traces_of_while_loops,
    places_of_an_algorithm,
]
