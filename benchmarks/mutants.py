"""Seeded faults in the particle interpreter and the resamplers, and which exact check finds each.

    python -m benchmarks.mutants [--quick] [--json FILE]

A mutant is the library's own source with one piece of text replaced. Columns: the relative error of E[Zhat] (what a
test of the evidence alone would have to find, by sampling), the largest error of the measure on whole traces relative
to Z, and the first check that kills it. A mutant that survives makes the program exit with status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

jax.config.update("jax_enable_x64", True)

import probinf.transformations.algorithms as algorithms  # noqa: E402
import probinf.transformations.population as particles  # noqa: E402
import probinf.transformations.resampling as resampling  # noqa: E402
from probinf.language import staging  # noqa: E402
from probinf.language import statements as pi  # noqa: E402
from probinf.language.program import model  # noqa: E402
from probinf.validity.measures import atoms, discrepancy  # noqa: E402
from probinf.validity.programs import PROGRAMS  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One replacement of text in `population.py` or `resampling.py`; `program` is looked at first."""

    name: str
    module: str
    old: str
    new: str
    program: str = "hidden_markov"
    scheme: str = "systematic"
    threshold: float = 1.0


P, R = "population", "resampling"
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
        "jnp.where(due, jnp.zeros_like(state.log_weights), state.log_weights)",
        "jnp.where(due, 0.5 * state.log_weights, state.log_weights)",
    ),
    Mutant(
        "weights reset though nothing was resampled", P,
        "jnp.where(due, jnp.zeros_like(state.log_weights), state.log_weights)",
        "jnp.zeros_like(state.log_weights)",
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
    Mutant("one draw shared by all particles", P,
           "return [Many(bind_sample(_widened(site) if self.named else Site(\"\"), law)[0])], state, None, {}",
           "return [Many(jnp.repeat(bind_sample(site, law)[0][:1], self.num, 0))], state, None, {}"),
    Mutant("evidence pushed and kept", P,
           "return State(log_weights, state.log_evidence), ancestors, info",
           "return State(log_weights, state.log_evidence + collected), ancestors, info"),
    Mutant("residual resampling without its random rest", R,
           "rest = rest / rest.sum()", "rest = np.eye(len(w))[np.argmax(w)]", scheme="residual"),
    Mutant("systematic resampling with half of its uniform", R,
           "(np.arange(self.num) + u) / self.num", "(np.arange(self.num) + u / 2) / self.num"),
    Mutant("searchsorted on the wrong side", R,
           'found = jnp.searchsorted(cumulative, uniforms * total, side="right")',
           'found = jnp.searchsorted(cumulative, uniforms * total, side="left")'),
    Mutant("run ends rounded down", R, "jnp.ceil(scaled - uniform)", "jnp.floor(scaled - uniform)"),
    Mutant("dead particles counted among the run ends", R, ".add(live.astype(jnp.float32))", ".add(1.0)"),
    Mutant("residual spare children drawn from the whole weights", R,
           "jnp.where(rest > 0, jnp.log(rest), -jnp.inf)", "log_weights"),
]  # fmt: skip
QUICK = 14


@model
def two_scores_in_shared_branch():
    """A branch that all particles take together, with a random value that is only used afterwards."""
    a = pi.sample("a", dist.Bernoulli(0.3))
    b = pi.sample("b", dist.Bernoulli(0.6))

    def step(z, t):
        jax.lax.cond(t == 1, lambda: pi.factor("f", jnp.where(b == 1, 0.0, -1.2)), lambda: None)
        return z, None

    jax.lax.scan(step, 0, jnp.arange(2))
    return a, b


@model
def nothing_but_draws():
    return pi.sample("a", dist.Bernoulli(0.3))


ALL = {**PROGRAMS, "two_scores_in_shared_branch": two_scores_in_shared_branch()}
SOURCES = {P: particles, R: resampling}


class Seeded:
    """The library with one mutant inside, for the length of a `with` block."""

    def __init__(self, mutant: Mutant | None) -> None:
        self.mutant = mutant

    def __enter__(self) -> types.ModuleType:
        self.before = (algorithms.run_population, particles.scheme, particles.effective_sample_size)
        staging._cache.clear()
        if self.mutant is None:
            return resampling
        original = SOURCES[self.mutant.module]
        source = Path(original.__file__).read_text()
        if source.count(self.mutant.old) < 1:
            raise SystemExit(f"mutant {self.mutant.name!r}: its text is no longer in {original.__file__}")
        changed = types.ModuleType(original.__name__ + "_mutant")
        changed.__file__ = original.__file__
        sys.modules[changed.__name__] = changed
        exec(compile(source.replace(self.mutant.old, self.mutant.new), original.__file__, "exec"), changed.__dict__)
        if self.mutant.module == P:
            algorithms.run_population = changed.run_population
            return resampling
        particles.scheme, particles.effective_sample_size = changed.scheme, changed.effective_sample_size
        return changed

    def __exit__(self, *_: object) -> None:
        algorithms.run_population, particles.scheme, particles.effective_sample_size = self.before
        staging._cache.clear()


# -- checks: each returns None, or what it found --------------------------------------------------------------


def measure(mutant: Mutant, _: types.ModuleType) -> tuple[float, float]:
    """Relative errors of E[Zhat] and of the measure, for the mutant's own program."""
    program = ALL[mutant.program]
    known = algorithms.enumerate_program(program)
    law = algorithms.enumerate_program(
        algorithms.population(program, 2, resample=mutant.scheme, threshold=mutant.threshold)
    )
    total = float(np.exp(known.log_evidence))
    return float(atoms(law)[0].sum()) / total - 1, discrepancy(law, known)[0] / total


def nested(_: Mutant, __: types.ModuleType) -> str | None:
    """A population of populations, the inner one pushing its evidence."""
    program = ALL["two_scores_in_a_call"]
    inner = algorithms.population(program, 2, threshold=1.0, push_evidence=True)
    law = algorithms.enumerate_program(algorithms.population(inner, 1, threshold=1.0))
    error, scale = discrepancy(law, algorithms.enumerate_program(program))
    return f"population of populations, measure off by {error / scale:.2g}" if not error <= 1e-12 * scale else None


def independence(_: Mutant, __: types.ModuleType) -> str | None:
    """Two particles that nothing scores have the product law."""
    law = algorithms.enumerate_program(algorithms.population(nothing_but_draws(), 2))
    pairs = np.asarray(law.values.particles)
    both = float(np.exp(law.log_weights)[(pairs == 1).all(1)].sum())
    return f"P(both 1) = {both:.3f} for 0.09" if abs(both - 0.09) > 1e-12 else None


def halves(_: Mutant, module: types.ModuleType) -> str | None:
    """Deterministic halves: offspring integrated over a fine grid of one uniform, and the edge u = 0."""
    cases = [np.log([0.5, 0.3, 0.2]), np.array([-np.inf, 0.0, -1.0, -np.inf]), np.log([0.05, 0.15, 0.8])]
    points = 4000
    grid = jnp.asarray((np.arange(points) + 0.5) / points)
    for name, law in module.SCHEMES.items():
        for log_weights in cases:
            n = len(log_weights)
            weights = np.exp(log_weights) / np.exp(log_weights).sum()
            scheme = law(jnp.asarray(log_weights), 4)
            shape = scheme.num_uniforms()
            run = jax.jit(
                jax.vmap(lambda u, s=scheme, shape=shape: s.from_uniforms(jnp.broadcast_to(u, shape), s.log_weights))
            )
            children = np.asarray(run(grid))
            mean = np.bincount(children.reshape(-1), minlength=n)[:n] / points
            if np.abs(mean - 4 * weights).max() > 4 * 8 / points:
                return f"{name}: mean offspring {np.round(mean, 3)} for {np.round(4 * weights, 3)}"
            first = np.asarray(run(jnp.zeros(1)))[0]
            if not np.isfinite(log_weights[first]).all():
                return f"{name}: a dead particle has offspring at u = 0"
    return None


CHECKS: list[Callable] = [nested, independence, halves]


def examine(mutant: Mutant) -> dict:
    """Run the checks against one mutant until one fails."""
    with Seeded(mutant) as module:
        row = {"fault": mutant.name, "program": mutant.program, "evidence": None, "measure": None, "killed_by": None}
        try:
            row["evidence"], row["measure"] = measure(mutant, module)
        except Exception as error:  # a mutant that cannot run is killed as well
            row["killed_by"] = f"raises {type(error).__name__}"
            return row
        if not row["measure"] <= 1e-12:
            row["killed_by"] = "exact measure"
            return row
        for check in CHECKS:
            if found := check(mutant, module):
                row["killed_by"] = f"{check.__name__}: {found}"
                break
    return row


def main(argv: list[str] | None = None) -> int:
    """Print the table of mutants; the exit status is the number of survivors, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} mutants only")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options = parser.parse_args(argv)
    importlib.invalidate_caches()
    healthy = Mutant("none", P, "", "")
    with Seeded(None) as module:
        assert measure(healthy, module)[1] <= 1e-12, "the library itself fails the exact check"
        for check in CHECKS:
            assert check(healthy, module) is None, f"the library itself fails {check.__name__}"
    print(f"{'fault':<55} {'E[Zhat]/Z-1':>12} {'measure/Z':>10}  killed by")
    rows = []
    for mutant in MUTANTS[:QUICK] if options.quick else MUTANTS:
        row = examine(mutant)
        rows.append(row)
        numbers = ["-" if row[k] is None else f"{row[k]:+.1%}" for k in ("evidence", "measure")]
        print(f"{row['fault']:<55} {numbers[0]:>12} {numbers[1]:>10}  {row['killed_by'] or 'SURVIVES'}", flush=True)
    alive = [row["fault"] for row in rows if row["killed_by"] is None]
    print(f"{len(rows) - len(alive)} of {len(rows)} killed")
    if options.json:
        options.json.write_text(json.dumps({"mutants": rows, "met": not alive}, indent=2, allow_nan=True) + "\n")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
