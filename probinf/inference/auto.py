"""The method of `pi.infer(program)`: ChEES where it suits the model, NUTS where it does not."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentTypeError, InferenceError
from probinf.inference.chees import ChEES
from probinf.inference.diagnostics import rank_r_hat
from probinf.inference.gradient_target import gradient_target
from probinf.inference.method import AbstractMethod
from probinf.inference.nuts import NUTS
from probinf.inference.outcomes import driven
from probinf.inference.posterior import Posterior
from probinf.kernels.chees import EnsembleDraws
from probinf.kernels.flat import FlatLayout
from probinf.random import as_key
from probinf.runs import Checkpoint
from probinf.runs.checkpoint import as_checkpoint

#: Draws of 64 chains times 500 steps fill 128 MB at this dimension; longer vectors are states of time series and the
#: like, whose scales a diagonal metric does not fit.
_MOST_DIMENSIONS = 1000
_MOST_DIVERGENCES = 0.005  # share of the transitions looked at
_MOST_LEAPFROGS = 150  # mean over those steps
_R_HAT = 1.2  # of those steps; like the two limits above it a judgement, not calibrated on many models


@dataclasses.dataclass(frozen=True)
class Auto(AbstractMethod):
    """What `pi.infer(program)` runs: the ensemble `chees`, or `nuts` where the model does not suit an ensemble.

    The rule, cheapest question first:

    1. more than 1000 unconstrained dimensions: NUTS, as many chains would fill the memory;
    2. otherwise ChEES warms up, and the last tenth of its warm-up decides, when metric and step size have settled. NUTS
       takes over where more than 0.5 % of the transitions diverged (curvature varies, and one step size for all chains
       does not fit), where trajectories take over 150 leapfrog steps (few coordinates are much slower than the others),
       or where R-hat over the chains is above 1.2 (they do not mix). Draws that are kept play no part in the decision.

    The summary's first line says which method ran and why.

    Args:
        chees: settings of the ensemble.
        nuts: settings of NUTS.
    """

    chees: ChEES = dataclasses.field(default_factory=ChEES)
    nuts: NUTS = dataclasses.field(default_factory=NUTS)

    def __post_init__(self) -> None:
        for name, kind in (("chees", ChEES), ("nuts", NUTS)):
            if not isinstance(getattr(self, name), kind):
                found = getattr(self, name)
                raise ArgumentTypeError(
                    f"{name}: expected a {kind.__name__} object with settings, found {type(found).__name__}."
                )

    def run(
        self,
        program: Any,
        key: int | jax.Array,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Choose, and run what was chosen. A checkpoint has a subfolder for each sampler.

        Raises:
            ModelError: the program has discrete latent sites, or none at all.
            InferenceError: no legal start was found.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        started, key, folder = time.perf_counter(), as_key(key, argument="key"), as_checkpoint(checkpoint)
        target = gradient_target(program, "The default method", self.chees.non_centred, self.chees.keep)
        dim = FlatLayout(target.position_shapes).dim
        if dim > _MOST_DIMENSIONS:
            reason = f"{dim} dimensions are more than {_MOST_DIMENSIONS}"
        else:
            loop = self.chees.loop(program, key, objection)
            inner = None if folder is None else folder.within("chees")
            settings = {"progress": progress, "checkpoint": inner}
            outcome = driven(loop, self.chees, program, key, **settings, free=("num_draws",))
            if loop.objection is None:
                posterior = self.chees.finish(loop, outcome)
                return _explained(posterior, f"{dim} dimensions, and its warm-up found no obstacle")
            reason = f"in ChEES's warm-up {loop.objection}"
        nuts = None if folder is None else folder.within("nuts")
        posterior = self.nuts.run(program, key, progress=progress, checkpoint=nuts)
        return dataclasses.replace(_explained(posterior, reason), seconds=time.perf_counter() - started)


def _explained(posterior: Posterior, reason: str) -> Posterior:
    return dataclasses.replace(posterior, method=f"{posterior.method} [chosen: {reason}]")


def objection(last: EnsembleDraws | None) -> str | None:
    """Why the ensemble does not suit the model, or None, from the last segment of its warm-up (steps, chains, ...).

    Its first half is left out: dual averaging starts with steps that are too long, on purpose.
    """
    if last is None:
        return None
    last = EnsembleDraws(*(rows[rows.shape[0] // 2 :] for rows in last))
    if not np.all(np.isfinite(last.lp)):
        raise InferenceError("The log density of a state in warm-up is not finite: the run is not usable.")
    divergences, leapfrogs = float(np.mean(last.diverging)), float(np.mean(last.n_steps))
    if divergences > _MOST_DIVERGENCES:
        return f"{divergences:.1%} of the transitions diverged"
    if leapfrogs > _MOST_LEAPFROGS:
        return f"trajectories took {leapfrogs:.0f} leapfrog steps"
    r_hat = rank_r_hat(np.swapaxes(np.asarray(last.x)[::2], 0, 1))  # neighbours say little more, and cost as much
    if np.any(r_hat > _R_HAT):
        return f"the chains did not mix (R-hat {np.nanmax(r_hat):.2f})"
    return None
