"""Ways to draw from a posterior side by side with the truth, such that the truth's rank is uniform."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from probinf.claims import Claim
from probinf.errors import ArgumentError
from probinf.kernels.kernel import Kernel
from probinf.kernels.running import find_starts, take_step, with_key
from probinf.language.handlers import Forward
from probinf.language.program import Program
from probinf.transformations.algorithms import check_particles, population, recorded
from probinf.transformations.population import Reference, Resampling, run_population
from probinf.transformations.resampling import scheme
from probinf.transformations.targets import Assigned
from probinf.transformations.traces import Trace, Traced


class Draws(NamedTuple):
    """A truth, data drawn under it, and draws of the posterior given the data.

    Attributes:
        program: with the data in it.
        truth: value of every latent site.
        values: the same with a leading axis over L draws.
        log_weights: (L,), unnormalised, nats.
        own: log weight of the truth among the draws; -inf where it is not one of them.
    """

    program: Program
    truth: dict[str, jax.Array]
    values: dict[str, jax.Array]
    log_weights: jax.Array
    own: jax.Array


def with_data(program: Program, data: dict[str, Any]) -> Program:
    """A program whose sites in `program.values` are given other values; nothing is checked or compiled again."""
    arguments, (values, priors) = program.operands
    return program.with_operands((arguments, ({n: data[n] for n in values}, priors)))


def latent_of(program: Program, found: dict[str, Any]) -> dict[str, Any]:
    """The latent sites among named values."""
    return {s.name: found[s.name] for s in program.staged.latent()}


def joint(program: Program, key: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """A truth and data drawn from the program's joint law."""
    found = program.simulate(key)
    return latent_of(program, found), {n: found[n] for n in program.values}


@dataclasses.dataclass(frozen=True)
class Chains:
    """Independent chains of a kernel, one draw from the end of each.

    `start="truth"`: from the truth `num_steps` back to a common point, and from there forward along every chain
    (Besag & Clifford 1989, parallel method). The truth and the ends are exchangeable for a reversible kernel, so ranks
    are uniform *exactly*, whatever the number of steps and however slow the kernel.
    `start="prior"`: from draws of the prior, for all kernels; ranks are uniform as far as the chains have converged.

    Args:
        kernel: one step.
        num_chains: draws.
        num_steps: of each chain.
        values: names of sites that hold values, for kernels that move values.
        start: "truth" or "prior".

    Raises:
        ArgumentError: `start="truth"` for a kernel that is not known to be reversible.
    """

    kernel: Kernel
    num_chains: int = 15
    num_steps: int = 24
    values: tuple[str, ...] = ()
    start: Literal["truth", "prior"] = "prior"

    def __post_init__(self) -> None:
        if self.start not in ("truth", "prior"):
            raise ArgumentError(f"start: expected 'truth' or 'prior', found {self.start!r}.")
        if self.start == "truth" and not self.kernel.claim.implies(Claim.REVERSIBLE):
            raise ArgumentError(
                f"start: {self.kernel.name} is {self.kernel.claim}; from the truth ranks are uniform for reversible "
                "kernels only. Use start='prior' and enough steps."
            )
        if min(self.num_chains, self.num_steps) < 1:
            raise ArgumentError(
                f"num_chains, num_steps: expected at least 1 of each, found {self.num_chains} and {self.num_steps}."
            )

    @property
    def name(self) -> str:
        """As it is called in tables."""
        how = "converged from the prior" if self.start == "prior" else "exchangeable with the truth"
        return f"{self.kernel.name}, {self.num_chains} chains {how}"

    def __call__(self, program: Program, key: jax.Array) -> Draws:
        """Draw the truth, its data, and the posterior."""
        k_truth, k_data, k_start, k_steps = jax.random.split(key, 4)
        if self.kernel.space == "assignments":
            truth, data = joint(program, k_truth)
            here = with_data(program, data)
            target: Any = Assigned(here)
            slots: Any = truth
            draw = lambda key: target.replay(joint(program, key)[0])  # noqa: E731
        else:
            whole = Traced(program, values=self.values)
            slots = with_key(whole.draw, k_truth)
            truth = latent_of(program, whole.values_of(slots))
            handler = Forward(predict=True)
            found = program.staged.run(program.operands, handler, handler.start(k_data), truth)[2]
            here = with_data(program, {n: found[n] for n in program.values})
            target = whole.at(here.operands)
            draw = None

        def run(start: Trace, key: jax.Array) -> Trace:
            def step(state: Trace, key: jax.Array) -> tuple[Trace, None]:
                return take_step(self.kernel, target, state, key)[0], None

            return jax.lax.scan(step, start, jax.random.split(key, self.num_steps))[0]

        keys = jax.random.split(k_steps, self.num_chains)
        if self.start == "truth":
            hub = run(target.replay(slots), k_start)
            ends = jax.vmap(lambda k: run(hub, k))(keys)
        else:
            if draw is None:
                starts = find_starts(target, k_start, self.num_chains)
            else:
                starts = jax.vmap(draw)(jax.random.split(k_start, self.num_chains))
            ends = jax.vmap(run)(starts, keys)
        values = latent_of(program, jax.vmap(target.values_of)(ends.slots))
        weights = jnp.zeros(self.num_chains)
        return Draws(here, truth, values, weights, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Particles:
    """A population's weighted particles.

    `conditional=True`: the population is conditional SMC with the truth as its reference (Andrieu, Doucet & Holenstein
    2010). Given all particles, which one is the truth has exactly the law of the final weights, so the randomised
    weighted rank is uniform *exactly*, for any number of particles.
    `conditional=False`: an ordinary population and self-normalised weights, the truth not among them. Ranks are uniform
    up to O(1/N) only: use many particles.

    Args:
        num_particles: the reference included.
        resample: scheme.
        threshold: resample when the effective sample size is at most this fraction.
        conditional: keep the truth as a reference.

    Raises:
        ArgumentError: a number outside its range.
        UnknownNameError: no such scheme.
    """

    num_particles: int
    resample: str = "systematic"
    threshold: float = 1.0
    conditional: bool = True

    def __post_init__(self) -> None:
        check_particles(self.num_particles, self.threshold)
        scheme(self.resample)
        if self.num_particles < 2:
            raise ArgumentError(f"num_particles: expected at least 2, found {self.num_particles}.")

    @property
    def name(self) -> str:
        """As it is called in tables."""
        what = "conditional_smc" if self.conditional else "population"
        return f"{what}({self.num_particles}, {self.resample}, {self.threshold:g}), weighted"

    def __call__(self, program: Program, key: jax.Array) -> Draws:
        """Draw the truth, its data, and the posterior."""
        k_joint, k_run = jax.random.split(key)
        truth, data = joint(program, k_joint)
        here = with_data(program, data)
        if not self.conditional:
            whole = population(recorded(here), self.num_particles, resample=self.resample, threshold=self.threshold)
            found = whole.run(k_run)[0]
            return Draws(here, truth, latent_of(program, found.particles), found.log_weights, jnp.array(-jnp.inf))
        rule = Resampling(self.resample, float(self.threshold))
        inner = recorded(here)

        def run(truth: dict[str, jax.Array]) -> Any:
            leaves = jax.tree.leaves(inner.operands)
            outs, final, _ = run_population(
                inner.staged.closed, leaves, self.num_particles, rule, Reference(truth, ancestor_sampling=False)
            )
            return jax.tree.unflatten(inner.staged.results, outs), final.log_weights

        particles, log_weights = with_key(run, k_run, truth)
        others = jax.tree.map(lambda x: x[1:], latent_of(program, particles))
        return Draws(here, truth, others, log_weights[1:], log_weights[0])
