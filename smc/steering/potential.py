r"""From a judge's scores to the potentials G_t of a Feynman-Kac model: link, mode and aggregation.

The target is $\pi(x_{1:T}) \propto p(x_{1:T}) \prod_t G_t(x_{1:t})$. Everything here is a function of arrays (N,).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from probinf.errors import ArgumentError, ArgumentTypeError, UnknownNameError

LINKS = ("bernoulli", "odds", "exp")
MODES = ("step", "running", "difference", "final", "max", "sum")
AGGREGATES = ("model", "last", "prod", "min", "sum")

#: Scores are kept this far from 0 and 1 before the logit.
CLIP = 1e-7


class Memory(NamedTuple):
    """What the next potential needs to know of the earlier scores of each particle.

    Attributes:
        prefix: (N,) score R of the whole prefix so far.
        log_link: (N,) log g(R), nats; 0 before the first step.
        largest: (N,) largest R so far.
        sum: (N,) sum of the R so far.
        collected: (N,) sum of the log potentials so far, nats.
    """

    prefix: Float[Array, " particles"]
    log_link: Float[Array, " particles"]
    largest: Float[Array, " particles"]
    sum: Float[Array, " particles"]
    collected: Float[Array, " particles"]


@dataclasses.dataclass(frozen=True)
class Potential:
    r"""How scores become potentials.

    With r the score of a step and R that of a prefix:

    | link | g | for |
    | --- | --- | --- |
    | `"bernoulli"` | r | r in [0, 1], the chance of being accepted |
    | `"odds"` | r / (1 - r), clipped at 1e-7 | what a softmax over logits of r does |
    | `"exp"` | exp(rate r) | any real score: a reward, a negative energy, a log weight |

    | mode | $G_t$ | the target is p times |
    | --- | --- | --- |
    | `"step"` | $g(r_t)$ | $\prod_t g(r_t)$ |
    | `"running"` | $g(R_t)$ | $\prod_t g(R_t)$: every prefix counts again, long answers more often |
    | `"difference"` | $g(R_t) / g(R_{t-1})$, $g(R_0) = 1$ | $g(R_T)$ |
    | `"final"` | 1, at the end $g(R_T)$ | $g(R_T)$ |
    | `"max"`, `"sum"` | g of the largest R, or of the sum of all R, so far; a last factor | $g(R_T)$ |

    A finished particle has potential 1 from then on, so the length of an answer is not weighed.

    Args:
        link: "bernoulli", "odds" or "exp".
        mode: see the table. "sum" needs the link "exp", since a sum of chances is no chance.
        aggregate: R from what the judge says: it scores the whole prefix ("model"), only the last step counts ("last"),
            or it scores steps and these are combined ("prod", "min", and "sum" for the link "exp"). "prod" with
            "running" counts step u as often as there are steps from u on; the product of the step scores is mode
            "step", or "prod" with "difference".
        rate: of the link "exp", an inverse temperature.

    Raises:
        UnknownNameError: no such link, mode or aggregate.
        ArgumentError: a combination that means nothing, or a rate that is not finite.
    """

    link: str
    mode: str
    aggregate: str = "model"
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("link", LINKS), ("mode", MODES), ("aggregate", AGGREGATES)):
            if getattr(self, name) not in known:
                raise UnknownNameError(getattr(self, name), known, name, "Potential")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float):
            raise ArgumentTypeError(f"rate: expected a number, found {self.rate!r}.")
        if not abs(self.rate) < float("inf"):
            raise ArgumentError(f"rate: expected a finite number, found {self.rate}.")
        if self.rate != 1.0 and self.link != "exp":
            raise ArgumentError(f"rate: only the link 'exp' has one, and the link is {self.link!r}.")
        if self.mode == "sum" and self.link != "exp":
            raise ArgumentError(
                f"mode: 'sum' needs link='exp', found link={self.link!r}: a sum of chances is no chance."
            )
        if self.aggregate == "sum" and self.link != "exp":
            raise ArgumentError(
                f"aggregate: 'sum' needs link='exp', found link={self.link!r}: a sum of chances is no chance."
            )
        if self.mode == "step" and self.aggregate == "min":
            raise ArgumentError(
                "aggregate: mode 'step' weighs every step by itself, which is no minimum. Take mode='difference': its "
                "target is p times g of the smallest score."
            )

    def start(self, num: int) -> Memory:
        """The memory before the first score."""
        dtype = jnp.result_type(float)
        zero = jnp.zeros(num, dtype)
        neutral = {"prod": 1.0, "min": jnp.inf}.get(self.aggregate, 0.0)
        return Memory(jnp.full(num, neutral, dtype), zero, jnp.full(num, -jnp.inf, dtype), zero, zero)

    def log_link(self, score: Float[Array, " particles"]) -> Float[Array, " particles"]:
        """The log of g at a score, nats."""
        if self.link == "exp":
            return self.rate * score
        if self.link == "bernoulli":
            return jnp.log(score)
        clipped = jnp.clip(score, CLIP, 1 - CLIP)
        return jnp.log(clipped) - jnp.log1p(-clipped)

    def is_legal(self, score: Float[Array, " particles"]) -> Bool[Array, " particles"]:
        """Whether the link has a meaning for the score; NaN never is legal."""
        if self.link == "exp":
            return ~jnp.isnan(score) & (score < jnp.inf)
        return (score >= 0) & (score <= 1)

    def update(
        self,
        memory: Memory,
        score: Float[Array, " particles"],
        was_done: Bool[Array, " particles"],
        is_last: Bool[Array, " particles"],
    ) -> tuple[Float[Array, " particles"], Memory]:
        """Log potentials of one step, nats, and the memory after it.

        Args:
            memory: before the step.
            score: what the judge says of each particle now; not looked at where it was done before.
            was_done: finished before this step: the potential is 1 and the memory stays.
            is_last: this is the particle's last step.
        """
        combined = {
            "prod": memory.prefix * score,
            "min": jnp.minimum(memory.prefix, score),
            "sum": memory.prefix + score,
        }
        prefix = combined.get(self.aggregate, score)
        link = self.log_link(prefix)
        largest, total = jnp.maximum(memory.largest, prefix), memory.sum + prefix
        # A particle without weight has nothing to lose: -inf minus -inf would be NaN.
        alive = memory.collected > -jnp.inf
        if self.mode == "step":
            log_g = self.log_link(score)
        elif self.mode == "running":
            log_g = link
        elif self.mode == "difference":
            log_g = link - jnp.where(alive, memory.log_link, 0)
        elif self.mode == "final":
            log_g = jnp.where(is_last, link, 0)
        else:
            guide = self.log_link(largest if self.mode == "max" else total)
            log_g = jnp.where(is_last, link - jnp.where(alive, memory.collected, 0), guide)
        log_g = jnp.where(was_done, 0, log_g)

        def unless_done(old: Array, new: Array) -> Array:
            return jnp.where(was_done, old, new)

        return log_g, Memory(
            unless_done(memory.prefix, prefix),
            unless_done(memory.log_link, link),
            unless_done(memory.largest, largest),
            unless_done(memory.sum, total),
            memory.collected + log_g,
        )
