"""A letter model and a deceived judge: which particle method finds the right letters, and whose evidence is right?

    python -m examples.steering_letters [--runs 400] [--seed 0] [--out FOLDER]

Letters 0..5; class A = {0, 1, 2} is the trap, B = {3, 4, 5} is right. For the first steps an overconfident judge
prefers A, afterwards B. Forward-backward on six letters gives every answer exactly. Prints the mean estimate of P(last
letter in B) over many runs beside the truth, with the bias of the evidence, and draws both.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import smc

LENGTH = 12
POTENTIAL = smc.Potential("odds", "step")
RIGHT = np.arange(6) >= 3


class Letters(NamedTuple):
    """States of the population: the last letter (-1 before the first) and how many there are."""

    letter: Any
    length: Any


def _real(value: Any) -> Array:
    return jnp.asarray(value, float)


class Case(eqx.Module):
    """One letter model with its judge.

    Attributes:
        deceived: number of steps during which the judge prefers the trap.
        margin: how strongly it prefers a class, nats.
        slope: how strongly it prefers later letters of a class, nats.
        leave: chance of leaving a class at each step.
    """

    deceived: Array = eqx.field(converter=_real)
    margin: Array = eqx.field(converter=_real)
    slope: Array = eqx.field(converter=_real)
    leave: Array = eqx.field(converter=_real)

    def first(self) -> Array:
        """Law of the first letter, (6,)."""
        return jnp.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0]) / 18.0

    def table(self) -> Array:
        """Law of the next letter given this one, (6, 6)."""
        i, k = np.divmod(np.arange(36).reshape(6, 6), 6)
        inside = np.where(k % 3 == (i % 3 + 1) % 3, 0.6, 0.2)
        same = i // 3 == k // 3
        return jnp.where(same, (1 - self.leave) * inside, self.leave / 3.0)

    def log_potential(self, letter: Array, step: Array) -> Array:
        """log G at a letter and a step from 1, nats."""
        sign = jnp.where(step.astype(float) <= self.deceived, 1.0, -1.0) * jnp.where(letter < 3, 1.0, -1.0)
        return self.margin * sign + self.slope * (letter % 3 - 1).astype(float)

    def propose(self, states: Letters, keys: Array) -> Letters:
        """One letter more for each state."""
        law = jnp.where((states.length == 0)[:, None], self.first()[None, :], self.table()[states.letter])
        uniform = jax.vmap(jax.random.uniform)(keys)
        letter = jnp.sum(uniform[:, None] > jnp.cumsum(law, axis=1)[:, :5], axis=1, dtype=jnp.int32)
        return Letters(letter, states.length + 1)

    def greedy(self, states: Letters, keys: Array) -> Letters:
        """The likeliest next letter; the first of several."""
        law = jnp.where((states.length == 0)[:, None], self.first()[None, :], self.table()[states.letter])
        return Letters(jnp.argmax(law, axis=1).astype(jnp.int32), states.length + 1)

    def score(self, states: Letters) -> Array:
        """The judge's chance that the last step is good."""
        return jax.nn.sigmoid(self.log_potential(states.letter, states.length))

    def log_odds(self, states: Letters) -> Array:
        """The judge's log odds that the last step is good: log G."""
        return self.log_potential(states.letter, states.length)

    def box(self, is_additive: bool = False) -> smc.BlackBox:
        """Generator and judge, ready for any method; additive scores are log odds, which sum along a prefix."""
        judge = self.log_odds if is_additive else self.score
        return smc.BlackBox(Letters(jnp.int32(-1), jnp.int32(0)), self.propose, judge, greedy=self.greedy)


CASES = {
    "A": Case(3, 1.5, 0.2, 0.0),
    "B": Case(3, 1.5, 1.0, 0.0),
    "C": Case(1, 2.0, 0.2, 0.0),
    "D": Case(4, 1.0, 0.5, 0.02),
}

METHODS = {
    "every step, multinomial": smc.bootstrap_resampler(),
    "ESS-triggered": smc.bootstrap_resampler("ess", "systematic"),
    "entropic, as published": smc.entropic_particle_filter(),
    "entropic, corrected, every step": smc.Resampler("always"),
    "entropic, corrected, ESS-triggered": smc.Resampler(),
    "look-ahead, corrected, every step": smc.Resampler("always", None, "systematic", lookahead=True),
    "ESS floor, corrected, ESS-triggered": smc.Resampler("ess", smc.FloorAnnealing()),
}


class Exact(NamedTuple):
    """Answers by forward-backward.

    Attributes:
        log_evidence: log Z, nats.
        right: P(last letter in B).
        filtered: (T,) P(letter t in B) given the judge's words up to t.
        temperatures: (T,) the temperatures of entropic annealing as N grows.
        annealed_log_evidence: what the published entropic filter's log evidence converges to.
    """

    log_evidence: float
    right: float
    filtered: np.ndarray
    temperatures: np.ndarray
    annealed_log_evidence: float


def exact(case: Case) -> Exact:
    """Forward recursion of the target, and of the flow with potentials G ** (1 / tau)."""
    first, table = np.asarray(case.first()), np.asarray(case.table())
    steps = np.arange(1, LENGTH + 1)
    log_g = np.array([np.asarray(case.log_potential(jnp.arange(6), jnp.asarray(t))) for t in steps])
    forward, log_z, filtered = first, 0.0, []
    for g in np.exp(log_g):
        forward = forward * g
        log_z, forward = log_z + np.log(forward.sum()), forward / forward.sum()
        filtered.append(forward[RIGHT].sum())
        forward = forward @ table
    flow, temperatures, annealed = first, [], 0.0
    for t, g in zip(steps, np.exp(log_g), strict=True):
        ess = (flow @ g) ** 2 / (flow @ g**2)
        share = t / LENGTH
        tau = max(1.0, (1 - share) / ess) if ess < 0.5 and share < 0.5 else 1.0
        temperatures.append(tau)
        annealed += np.log(flow @ g)
        flow = flow * g ** (1 / tau)
        flow = flow / flow.sum() @ table
    return Exact(float(log_z), float(filtered[-1]), np.array(filtered), np.array(temperatures), float(annealed))


class Estimates(NamedTuple):
    """Many runs of one method.

    Attributes:
        right: (R,) estimates of P(last letter in B).
        is_right: (R,) whether the last letter of the answer (the largest weight) is in B.
        log_evidence: (R,) estimates of log Z, nats.
    """

    right: Array
    is_right: Array
    log_evidence: Array


@eqx.filter_jit
def estimates(
    case: Case, rule: Any, num_particles: int, keys: Array, potential: smc.Potential = POTENTIAL
) -> Estimates:
    """One run for each key, all at once."""

    def one(key: Array) -> Estimates:
        run = smc.steer(
            case.box(potential is not POTENTIAL),
            key,
            num_particles=num_particles,
            max_steps=LENGTH,
            potential=potential,
            rule=rule,
            history=False,
        )
        in_right = run.states.letter >= 3
        best = jnp.argmax(run.log_weights)
        return Estimates(jnp.sum(jnp.where(in_right, run.weights, 0)), in_right[best], run.log_evidence)

    return jax.vmap(one)(keys)


class Cell(NamedTuple):
    """Means over runs with their standard errors.

    Attributes:
        right: estimate of P(last letter in B).
        right_error: its standard error.
        success: share of runs whose answer is right.
        ratio: Z^ / Z.
        ratio_error: its standard error.
    """

    right: float
    right_error: float
    success: float
    ratio: float
    ratio_error: float


def measure(
    case: Case,
    rule: Any,
    num_particles: int,
    runs: int,
    seed: int,
    block: int = 2000,
    potential: smc.Potential = POTENTIAL,
) -> Cell:
    """Mean estimate of P(last in B), success and mean Z^ / Z, in blocks that bound the memory."""
    log_z = exact(case).log_evidence
    keys = jax.random.split(jax.random.key(seed), runs)
    block = min(block, runs)
    parts = [estimates(case, rule, num_particles, keys[i : i + block], potential) for i in range(0, runs, block)]
    right, success, log_zs = (np.concatenate([np.asarray(a) for a in column]) for column in zip(*parts, strict=True))
    ratio = np.exp(log_zs - log_z)
    root = np.sqrt(runs)
    return Cell(
        float(right.mean()),
        float(right.std(ddof=1) / root),
        float(success.mean()),
        float(ratio.mean()),
        float(ratio.std(ddof=1) / root),
    )


def figure(path: pathlib.Path, cells: dict[tuple[str, str, int], Cell], sizes: Sequence[int]) -> None:
    """Estimates against N for each case, truth dashed; the evidence below."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import CYCLE, TRUTH, style

    with style():
        fig, axes = plt.subplots(2, len(CASES), figsize=(12, 6), sharex=True, sharey="row")
        for column, (name, case) in enumerate(CASES.items()):
            for colour, method in zip((*CYCLE[:5], *CYCLE[6:]), METHODS, strict=False):
                row = [cells[name, method, n] for n in sizes]
                axes[0, column].errorbar(
                    sizes,
                    [c.right for c in row],
                    [2 * c.right_error for c in row],
                    color=colour,
                    marker="o",
                    markersize=3,
                )
                axes[1, column].errorbar(
                    sizes,
                    [c.ratio for c in row],
                    [2 * c.ratio_error for c in row],
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=method,
                )
            axes[0, column].axhline(exact(case).right, color=TRUTH, linestyle="--", linewidth=1)
            axes[1, column].axhline(1.0, color=TRUTH, linestyle="--", linewidth=1)
            axes[0, column].set_title(f"case {name}")
            axes[1, column].set(xscale="log", yscale="log", xlabel="particles N")
            axes[1, column].set_xticks(list(sizes), labels=[str(n) for n in sizes])
            axes[1, column].minorticks_off()
            axes[1, column].set(xlim=(min(sizes) / 1.3, max(sizes) * 1.3), ylim=(0.1, 100))
        axes[0, 0].set_ylabel("mean estimate of P(last in B)")
        axes[1, 0].set_ylabel("mean of Z^ / Z")
        axes[1, -1].legend(*axes[1, 0].get_legend_handles_labels(), fontsize="xx-small", loc="upper right")
        fig.savefig(path)


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str, int], Cell]:
    """Print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("steering_letters"))
    args = parser.parse_args(argv)
    for name, case in CASES.items():
        found = exact(case)
        print(f"case {name}: log Z {found.log_evidence:.6f}, P(last in B) {found.right:.6f}")
    cells = {}
    for method, rule in METHODS.items():
        for name, case in CASES.items():
            for n in args.sizes:
                cells[name, method, n] = measure(case, rule, n, args.runs, args.seed)
            row = "  ".join(
                f"{cells[name, method, n].right:.3f} (Z^/Z {cells[name, method, n].ratio:.2f})" for n in args.sizes
            )
            print(f"{method:36} {name}: {row}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    figure(args.out / "letters.png", cells, args.sizes)
    print(f"picture: {args.out / 'letters.png'}")
    return cells


if __name__ == "__main__":
    main()
