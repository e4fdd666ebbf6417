"""The usual ways to spend a budget without resampling, as runs of the same two executors."""

from __future__ import annotations

import dataclasses
from typing import Any

from probinf.errors import ArgumentError
from smc.steering.box import BlackBox
from smc.steering.potential import Potential
from smc.steering.resampler import Resampler
from smc.steering.run import SteeringRun
from smc.steering.search_rules import Beam, DiverseTree
from smc.steering.steer import steer

INDEPENDENT = Resampler("never", None)


def greedy(box: BlackBox, *, max_steps: int, potential: Potential, **options: Any) -> SteeringRun:
    """One answer by the likeliest steps; needs `box.greedy`. Further options are those of `steer`.

    Raises:
        ArgumentError: the box has no `greedy`.
    """
    if box.greedy is None:
        raise ArgumentError("box: the greedy baseline needs BlackBox(..., greedy=...), the likeliest next step.")
    likeliest = dataclasses.replace(box, propose=box.greedy)
    return steer(likeliest, 0, num_particles=1, max_steps=max_steps, potential=potential, rule=INDEPENDENT, **options)


def best_of_n(
    box: BlackBox, seed: Any = 0, *, num_samples: int, max_steps: int, potential: Potential, **options: Any
) -> SteeringRun:
    """Independent answers with the weights g(R_T): plain importance sampling. Claim: unbiased.

    `run.answer()` is best-of-N, `run.answer("vote", by=...)` the weighted and `run.answer("majority", by=...)` the
    unweighted vote, `run.answer("first")` the first to finish.

    Raises:
        ArgumentError: the potential's mode is not "final"; otherwise as `steer`.
    """
    _final(potential)
    return steer(
        box, seed, num_particles=num_samples, max_steps=max_steps, potential=potential, rule=INDEPENDENT, **options
    )


def beam_search(
    box: BlackBox,
    seed: Any = 0,
    *,
    num_particles: int,
    width: int,
    max_steps: int,
    potential: Potential,
    **options: Any,
) -> SteeringRun:
    """Beam search on prefix scores; `run.answer()` is the best final one. See `Beam`.

    Raises:
        ArgumentError: `num_particles` is no multiple of the width, or the potential's mode is not "final".
    """
    _final(potential)
    return steer(
        box, seed, num_particles=num_particles, max_steps=max_steps, potential=potential, rule=Beam(width), **options
    )


def diverse_tree_search(
    box: BlackBox,
    seed: Any = 0,
    *,
    num_particles: int,
    width: int,
    max_steps: int,
    potential: Potential,
    **options: Any,
) -> SteeringRun:
    """Beam searches side by side that do not compete; see `DiverseTree`.

    Raises:
        ArgumentError: `num_particles` is no multiple of the width, or the potential's mode is not "final".
    """
    _final(potential)
    rule = DiverseTree(width)
    return steer(box, seed, num_particles=num_particles, max_steps=max_steps, potential=potential, rule=rule, **options)


def _final(potential: Potential) -> None:
    if isinstance(potential, Potential) and potential.mode != "final":
        raise ArgumentError(
            f"potential: a baseline looks at final answers, so its mode is 'final', found {potential.mode!r}."
        )
