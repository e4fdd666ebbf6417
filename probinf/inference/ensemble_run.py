"""ChEES on the chains of one model: what the host loop advances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.inference.nuts_run import constrain_in_blocks
from probinf.inference.posterior import Posterior
from probinf.inference.sampling_loop import Phase, SamplingLoop
from probinf.inference.starts import StartPrograms, find_starts
from probinf.kernels.adaptation import Segment
from probinf.kernels.chains import cached, counted
from probinf.kernels.chees import Ensemble, EnsembleDraws
from probinf.kernels.ensembles import EnsemblePrograms
from probinf.kernels.flat import FlatLayout
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked

CAPACITY = 100  # rows of one compiled piece
_BLOCK = 4096  # positions that are constrained at a time
_FIRST_WINDOW, _LAST_SHARE = 10, 5  # steps; the last fifth of warm-up keeps its metric


class ModelPrograms:
    """Everything compiled for one model."""

    def __init__(self, target: Any, max_leapfrogs: int) -> None:
        layout = FlatLayout(target.position_shapes)

        def logdensity(operands: Any, x: jax.Array) -> jax.Array:
            return target.logdensity(operands, layout.unravel(x)).astype(layout.dtype)

        def constrain(operands: Any, x: jax.Array) -> dict[str, jax.Array]:
            return target.constrain(operands, layout.unravel(x))

        self.layout = layout
        self.starts = StartPrograms(target, layout)
        self.ensemble = EnsemblePrograms(logdensity, max_leapfrogs, CAPACITY)
        self.constrain = counted(jax.vmap(constrain, in_axes=(None, 0)))


def programs_for(target: Any, operands: Any, max_leapfrogs: int) -> ModelPrograms:
    """The programs of a target from the cache, or new ones: neither data nor seed nor lengths are part of the key."""
    described = tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(operands))
    structure, dtype = jax.tree.structure(operands), jnp.zeros(()).dtype
    key = ("chees", target.signature, structure, described, max_leapfrogs, dtype)
    return cached(key, lambda: ModelPrograms(target, max_leapfrogs))


def ensemble_segments(num_warmup: int) -> list[Segment]:
    """Windows of 10, 20, 40, ... steps that end with a new metric, then a fifth of warm-up for step size and length.

    The first windows can be this short because every step adds as many points as there are chains.
    """
    last = -(-num_warmup // _LAST_SHARE)
    left, window, segments = num_warmup - last, _FIRST_WINDOW, []
    while left > 0:
        size = left if left < 3 * window else window
        segments.append(Segment(size, True, True))
        left -= size
        window *= 2
    return [*segments, Segment(last, False, False)] if num_warmup else []


class ChEESLoop(SamplingLoop):
    """ChEES-HMC on all chains of one model.

    Args:
        method: the settings, a `ChEES`.
        target: the model on unconstrained space.
        key: one key for the whole run.
        judge: called with the rows of warm-up's last segment; a reason it returns ends the run there.
    """

    step_axis = 0

    def __init__(
        self,
        method: Any,
        target: Any,
        key: jax.Array,
        judge: Callable[[EnsembleDraws | None], str | None] | None = None,
    ) -> None:
        segments = ensemble_segments(int(method.num_warmup))
        plan = [Phase(s.num_steps, is_collecting=s.is_collecting, renews=s.renews) for s in segments]
        if plan and judge is not None:
            plan[-1] = plan[-1]._replace(is_kept=True)
        super().__init__(
            f"ChEES, {method.num_chains} chains", CAPACITY, plan, int(method.num_draws), int(method.thinning)
        )
        self.method, self.target, self.judge = method, target, judge
        self.objection: str | None = None
        self.operands = jax.tree.map(jnp.asarray, target.operands)
        self.programs = programs_for(target, self.operands, int(method.max_leapfrogs))
        self.ensemble: Ensemble | None = None
        self._key_start, self.key = jax.random.split(key)

    @property
    def is_finished(self) -> bool:
        return self.objection is not None or super().is_finished

    def start(self) -> None:
        if self.ensemble is not None:
            return
        programs, method = self.programs, self.method
        starts = find_starts(
            programs.starts,
            self.target,
            programs.layout,
            self.operands,
            self._key_start,
            int(method.num_chains),
            method.init,
        )
        x = jnp.asarray(starts.astype(programs.layout.dtype))
        self.ensemble = programs.ensemble.start(self.operands, x)

    def take(self, num_steps: int, phase: Phase, *, is_last: bool) -> EnsembleDraws:
        assert self.ensemble is not None
        self.ensemble, rows = self.programs.ensemble.advance(
            self.operands,
            self.ensemble,
            self.key,
            target_acceptance=float(self.method.target_acceptance),
            first_step=self.next_step,
            num_steps=num_steps,
            is_adapting=phase.is_adapting,
            is_collecting=phase.is_collecting,
            renews=phase.renews and is_last,
        )
        return rows

    def end_phase(self, phase: Phase) -> None:
        if phase.is_kept and self.judge is not None:
            self.objection = self.judge(self.collected_rows(EnsembleDraws))
            self.collected = []

    def posterior(self) -> Posterior:
        draws = self.drawn(EnsembleDraws)
        values = constrain_in_blocks(
            self.programs.constrain, self.operands, np.asarray(draws.x), self.method.keep, _BLOCK
        )
        values = {name: np.swapaxes(value, 0, 1) for name, value in values.items()}
        return self.method.posterior_of(self, draws, values)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "next_step": np.asarray(self.next_step),
            "objection": np.asarray(self.objection or ""),
            **packed(self.key, "key"),
            **packed(self.ensemble, "ensemble"),
            **self.collected_state(EnsembleDraws),
        }

    def template(self) -> Ensemble:
        """The shapes of the ensemble's state."""
        layout = self.programs.layout
        x = jax.ShapeDtypeStruct((int(self.method.num_chains), layout.dim), layout.dtype)
        return jax.eval_shape(self.programs.ensemble.start, self.operands, x)

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self.ensemble = unpacked(self.template(), state, "ensemble")
        self.key = unpacked(0, state, "key")
        self.next_step, self.objection = int(state["next_step"]), str(state["objection"]) or None
        self.rows = list(rows)
        self.restore_collected(EnsembleDraws, state)
