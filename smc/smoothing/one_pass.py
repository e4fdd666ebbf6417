"""Smoothing in the filter's own pass."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

from smc.filtering import FilterRun, check_alive, check_call, filter_program
from smc.paired_threefry import sooner
from smc.proposals import Proposal
from smc.rider import Rider
from smc.state_space_model import StateSpaceModel


def filter_along(
    rider: Rider,
    where: str,
    model: StateSpaceModel,
    ys: Any,
    key: Array,
    num_particles: int,
    proposal: Proposal | None,
    resample: str,
    threshold: float,
) -> tuple[FilterRun, Any, Any]:
    """A particle filter with a rider, no history kept: the run, the rider's last state, its findings at all times.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownNameError: an argument is out of range; it is named.
        InferenceError: the filter lost all particles; `where` and the time are named.
    """
    check_call(model, num_particles, proposal, resample, threshold)
    program = filter_program(
        model,
        ys,
        num_particles=num_particles,
        proposal=proposal,
        resample=resample,
        threshold=threshold,
        rider=rider,
    )
    (run, ride, found), _ = program.run(sooner(key))
    check_alive(run, type(model).__name__, where)
    return run, ride, found
