r"""Calibration of learned posteriors: ranks of the truth by coordinate, by density, and by distance to a reference.

Over fresh problems, with draws of each answer, the truth's rank among the draws is uniform if the answers are right:

- by coordinate: simulation-based calibration (Talts et al. 2018);
- by the answer's own log density: one minus it is the credibility of the smallest highest-density region that holds
  the truth, so its distribution function is the expected coverage of such regions;
- by the distance to a reference point: TARP (Lemos et al. 2023), which sees errors that the other two cannot.

Ranks of independent draws are exactly uniform for any number of draws, ties included; ranks among self-normalised
weighted draws as their number grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError
from probinf.random import as_key
from probinf.validity.calibration import Calibration, randomised_ranks
from transformers_gmm.components import Components
from transformers_gmm.examples import Examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSITY, TARP = "log density", "distance to reference"


@dataclasses.dataclass(frozen=True, repr=False)
class CalibrationReport:
    """Ranks of the truth over problems, as tables and pictures.

    Attributes:
        calibration: ranks by quantity, with p-values that are exact at any number of problems.
    """

    calibration: Calibration

    @property
    def ranks(self) -> Mapping[str, np.ndarray]:
        """Quantity -> (problems,), uniform on [0, 1] if the answers are right."""
        return self.calibration.ranks

    @property
    def passed(self) -> bool:
        """Whether nothing contradicts uniformity; a right answer fails with probability at most 1e-6."""
        return self.calibration.passed

    def coverage(self, credibility: Sequence[float] = (0.5, 0.9, 0.99)) -> dict[float, tuple[float, float]]:
        """How often highest-density regions of these credibilities hold the truth, and the standard error."""
        held = 1.0 - np.asarray(self.ranks[DENSITY])
        shares = {c: float(np.mean(held <= c)) for c in credibility}
        return {c: (share, float(np.sqrt(c * (1.0 - c) / held.size))) for c, share in shares.items()}

    def plot(self) -> Figure:
        """Rank curves by coordinate, and expected coverage by density and by distance, with simultaneous bands."""
        from matplotlib.figure import Figure

        from probinf.plots.calibration import plot_coverage, plot_rank_ecdf

        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        colors = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
        coordinates = [name for name in self.ranks if name not in (DENSITY, TARP)]
        for i, name in enumerate(coordinates):
            plot_rank_ecdf(self.ranks[name], label=name, color=colors[i % len(colors)], ax=left)
        # Regions around the mode hold what has a high density, those around a reference what is near.
        plot_coverage(1.0 - self.ranks[DENSITY], label="highest density", color=colors[0], ax=right)
        plot_coverage(self.ranks[TARP], label="around references (TARP)", color=colors[1], ax=right)
        return figure

    def __repr__(self) -> str:
        rows = [
            f"{c:.0%} regions hold the truth in {share:.1%} ± {error:.1%} of problems"
            for c, (share, error) in self.coverage().items()
        ]
        return "\n".join([repr(self.calibration), *rows])


def calibrate(
    answer: Callable[[Any], Components],
    simulate: Callable[[jax.Array, int], Examples],
    key: int | jax.Array,
    *,
    num_problems: int = 1000,
    num_draws: int = 200,
    name: str = "answers",
) -> CalibrationReport:
    """Calibration of any function from problems to mixtures, over fresh problems.

    Args:
        answer: batch of problems to mixtures with one leading axis: a network, or `lambda problem: problem.base`.
        simulate: (key, n) to n problems with points of their posteriors: a task's.
        key: seed or key.
        num_problems: how many.
        num_draws: of each answer.
        name: of what is checked, in the table.
    """
    key_problems, key_points, key_ranks = jax.random.split(as_key(key, argument="key"), 3)
    examples = simulate(key_problems, num_problems)
    # One of a problem's posterior points is a truth like any other.
    which = jax.random.categorical(key_points, examples.log_weights, axis=-1)
    truths = jnp.take_along_axis(examples.points, which[:, None, None], axis=1)[:, 0]
    return calibrate_mixtures(answer(examples.problem), truths, key_ranks, num_draws=num_draws, name=name)


def calibrate_mixtures(
    answers: Components,
    truths: Float[Array, "problems dim"],
    key: int | jax.Array,
    *,
    num_draws: int = 200,
    references: Float[Array, "problems dim"] | None = None,
    name: str = "mixtures",
) -> CalibrationReport:
    """Calibration of mixtures, one for each truth, from independent draws: exactly uniform ranks where they are right.

    Args:
        answers: mixtures with one leading axis.
        truths: (B, D).
        key: seed or key.
        num_draws: of each mixture.
        references: of TARP, (B, D), independent of the truth given the data; other problems' truths by default.
        name: of what is checked, in the table.
    """
    key_draw, key_ranks = jax.random.split(as_key(key, argument="key"))
    draws = answers.sample(key_draw, num_draws)
    densities = answers.log_prob(draws), answers.log_prob(truths[:, None])[:, 0]
    return calibrate_draws(draws, truths, key_ranks, densities=densities, references=references, name=name)


def calibrate_draws(
    draws: Float[Array, "problems draws dim"],
    truths: Float[Array, "problems dim"],
    key: int | jax.Array,
    *,
    densities: tuple[Float[Array, "problems draws"], Float[Array, " problems"]],
    log_weights: Float[Array, "problems draws"] | None = None,
    references: Float[Array, "problems dim"] | None = None,
    name: str = "draws",
) -> CalibrationReport:
    """Calibration of draws, weighted (corrected answers) or not.

    Args:
        draws: (B, L, D).
        truths: (B, D).
        key: seed or key; for ties, which are broken at random.
        densities: a log density of draws (B, L) and truths (B,) that ranks them: the answer's own, say.
        log_weights: (B, L), nats; None for independent draws of equal weight.
        references: of TARP, (B, D); other problems' truths by default.
        name: of what is checked, in the table.

    Raises:
        ArgumentError: shapes do not fit, or there are fewer than 20 problems.
    """
    num, length, dim = draws.shape
    if num < 20 or truths.shape != (num, dim):
        raise ArgumentError(
            f"truths: expected one of shape (D,) for each of 20 problems or more, found {truths.shape} for draws "
            f"{draws.shape}."
        )
    references = jnp.roll(truths, 1, axis=0) if references is None else references
    own = 0.0 if log_weights is None else -jnp.inf
    weights = jnp.zeros((num, length), draws.dtype) if log_weights is None else log_weights
    keys = jax.random.split(as_key(key, argument="key"), num)
    levels = _ranks(draws, truths, references, *densities, weights, jnp.asarray(own, draws.dtype), keys)
    quantities = [*(f"x[{i}]" for i in range(dim)), DENSITY, TARP]
    ranks = dict(zip(quantities, np.asarray(levels, np.float64).T, strict=True))
    return CalibrationReport(Calibration(name, f"{num} problems", ranks, length))


@jax.jit
def _ranks(
    draws: Array,
    truths: Array,
    references: Array,
    density: Array,
    density_of_truth: Array,
    log_weights: Array,
    own: Array,
    keys: Array,
) -> Array:
    scale = jnp.std(truths, axis=0)
    scale = jnp.where(scale > 0, scale, 1)

    def one(
        draws: Array, truth: Array, reference: Array, density: Array, own_density: Array, log_weights: Array, key: Array
    ) -> Array:
        away = jnp.linalg.norm((draws - reference[None]) / scale[None], axis=1)
        reach = jnp.linalg.norm((truth - reference) / scale)
        mine = jnp.concatenate([truth, own_density[None], reach[None]])
        theirs = jnp.concatenate([draws, density[:, None], away[:, None]], axis=1)
        return randomised_ranks((mine, theirs), log_weights, own, key)

    return jax.vmap(one)(draws, truths, references, density, density_of_truth, log_weights, keys)
