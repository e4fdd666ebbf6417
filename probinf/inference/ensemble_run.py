"""One run of an ensemble: the host loop around compiled pieces."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.inference.nuts_run import constrain_in_blocks
from probinf.inference.starts import StartPrograms
from probinf.kernels.adaptation import Segment
from probinf.kernels.chains import cached, counted
from probinf.kernels.chees import Ensemble, EnsembleDraws
from probinf.kernels.ensembles import EnsemblePrograms
from probinf.kernels.flat import FlatLayout
from probinf.progress import Progress

CAPACITY = 100  # rows of one compiled piece
_BLOCK = 4096  # positions that are constrained at a time
_FIRST_PIECE = 10  # steps: early trajectories can be long
_SECONDS_PER_PIECE = 0.5  # how often the bar moves, and how long an interrupt waits
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


@dataclasses.dataclass
class EnsembleRun:
    """The state of a run; `warm_up` and `draw` may be interrupted and leave it whole.

    Attributes:
        next_step: steps taken since the start, which is also the number of the next step's randomness.
        is_interrupted: Ctrl-C arrived while drawing.
    """

    programs: ModelPrograms
    operands: Any
    key: jax.Array
    target_acceptance: float
    state: Ensemble | None = None
    next_step: int = 0
    is_interrupted: bool = False
    _seconds_per_step: float | None = None

    def warm_up(self, x: np.ndarray, num_warmup: int, bar: Progress | None) -> EnsembleDraws | None:
        """Start at x and adapt; the steps of the last segment, whose metric was fixed, or None without warm-up."""
        self.state = self.programs.ensemble.start(self.operands, jnp.asarray(x))
        pieces: list[EnsembleDraws] = []
        for segment in ensemble_segments(num_warmup):
            flags = {"is_collecting": segment.is_collecting, "renews": segment.renews}
            pieces = list(self._advance(segment.num_steps, bar, is_adapting=True, **flags))
        return joined(pieces) if pieces else None

    def draw(self, num_draws: int, thinning: int, bar: Progress | None) -> EnsembleDraws | None:
        """Take `num_draws` steps and keep every `thinning`-th; None if interrupted before the first kept one."""
        kept, taken = [], 0
        try:
            for piece in self._advance(num_draws, bar):
                index = np.arange((-taken - 1) % thinning, piece.lp.shape[0], thinning)
                taken += piece.lp.shape[0]
                kept.append(jax.tree.map(lambda rows, index=index: rows[index], piece))
        except KeyboardInterrupt:
            self.is_interrupted = True
        return joined(kept) if sum(piece.lp.shape[0] for piece in kept) else None

    def _advance(
        self, num_steps: int, bar: Progress | None, *, renews: bool = False, **flags: bool
    ) -> Iterator[EnsembleDraws]:
        """Take steps in pieces short enough to show progress and to hear an interrupt."""
        left = num_steps
        while left:
            pace = self._seconds_per_step
            wanted = _FIRST_PIECE if pace is None else int(_SECONDS_PER_PIECE / max(pace, 1e-9))
            size = max(1, min(left, wanted, CAPACITY))
            left -= size
            started = time.perf_counter()
            assert self.state is not None
            self.state, rows = self.programs.ensemble.advance(
                self.operands,
                self.state,
                self.key,
                target_acceptance=self.target_acceptance,
                first_step=self.next_step,
                num_steps=size,
                renews=renews and not left,
                **flags,
            )
            self._seconds_per_step = (time.perf_counter() - started) / size
            self.next_step += size
            if bar is not None:
                bar.update(size, step_size=float(rows.step_size[-1]), divergences=int(rows.diverging.sum()))
            yield rows

    def constrain(self, x: np.ndarray, keep: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Latent and deterministic values at positions (steps, chains, dim), as (chains, steps, ...)."""
        values = constrain_in_blocks(self.programs.constrain, self.operands, x, keep, _BLOCK)
        return {name: np.swapaxes(value, 0, 1) for name, value in values.items()}

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Everything needed to go on drawing."""
        found = {"key": np.asarray(jax.random.key_data(self.key)), "next_step": np.asarray(self.next_step)}
        return found | {f"ensemble_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.state))}

    def restore(self, checkpoint: Mapping[str, np.ndarray], num_chains: int) -> None:
        """Continue from a checkpoint.

        Raises:
            ArgumentError: it was made by another method, in other dimensions or with another number of chains.
        """
        layout = self.programs.layout
        x = jax.ShapeDtypeStruct((num_chains, layout.dim), layout.dtype)
        template = jax.eval_shape(self.programs.ensemble.start, self.operands, x)
        leaves, structure = jax.tree.flatten(template)
        stored = [checkpoint.get(f"ensemble_{i}") for i in range(len(leaves))]
        if any(s is None or s.shape != leaf.shape for s, leaf in zip(stored, leaves, strict=True)):
            raise ArgumentError(
                f"posterior: it was not made by ChEES with {num_chains} chains in {layout.dim} dimensions, so this "
                "method cannot continue it."
            )
        self.state = jax.tree.unflatten(structure, [jnp.asarray(s) for s in stored])
        self.next_step = int(checkpoint["next_step"])


def joined(pieces: Sequence[EnsembleDraws]) -> EnsembleDraws:
    """Pieces one after the other."""
    return jax.tree.map(lambda *rows: np.concatenate(rows), *pieces)
