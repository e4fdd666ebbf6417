"""The host loop of a gradient sampler: warm-up by plan, then draws, in pieces of half a second."""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from probinf.inference.posterior import Posterior
from probinf.runs import Loop
from probinf.runs.loop import Arrays

_FIRST_PIECE = 10  # steps: early trajectories can be long
_SECONDS_PER_PIECE = 0.5  # how often the bar moves, and how long an interrupt waits


class Phase(NamedTuple):
    """A stretch of steps of one kind.

    Attributes:
        num_steps: its length.
        is_adapting: the step size is adapted.
        is_collecting: the scale is learned.
        renews: the learned scale is taken up at the end.
        is_kept: its rows are in `SamplingLoop.collected` when it ends.
    """

    num_steps: int
    is_adapting: bool = True
    is_collecting: bool = False
    renews: bool = False
    is_kept: bool = False


class SamplingLoop(Loop):
    """Warm-up and draws of all chains of one model.

    A step's randomness depends on its number alone, so pieces of any length give the same draws.

    Attributes:
        capacity: the longest piece, in steps.
        next_step: steps taken by every chain since its start, which is also the number of the next step's randomness.
        num_draws: steps after warm-up.
        thinning: every how many of them one is kept.
        collected: rows of the present phase, or of the last, if the phase keeps them.
        notes: reasons for caution.
    """

    step_axis: ClassVar[int]

    def __init__(self, label: str, capacity: int, plan: Sequence[Phase], num_draws: int, thinning: int) -> None:
        self.label, self.capacity = label, capacity
        self.plan = tuple(plan)
        self.num_draws, self.thinning = num_draws, thinning
        self.next_step = 0
        self.rows: list[Arrays] = []
        self.collected: list[Any] = []
        self.notes: list[str] = []
        self._seconds_per_step: float | None = None

    @property
    def num_warmup(self) -> int:
        """Steps of all phases of warm-up."""
        return sum(phase.num_steps for phase in self.plan)

    @property
    def done(self) -> int:
        return self.next_step

    @property
    def total(self) -> int:
        return self.num_warmup + self.num_draws

    @property
    def is_finished(self) -> bool:
        return self.next_step >= self.total

    @property
    def is_warm(self) -> bool:
        """Whether warm-up is over."""
        return self.next_step >= self.num_warmup

    @property
    def num_taken(self) -> int:
        """Steps taken after warm-up."""
        return max(self.next_step - self.num_warmup, 0)

    @abc.abstractmethod
    def take(self, num_steps: int, phase: Phase, *, is_last: bool) -> Any:
        """Advance all chains; the rows, a named tuple with steps along `step_axis`. Whole or not at all."""

    def end_phase(self, phase: Phase) -> None:
        """Do what follows the last step of a phase of warm-up."""

    @abc.abstractmethod
    def posterior(self) -> Posterior:
        """The draws so far."""

    def result(self) -> Posterior | None:
        if not self.has_draws:
            return None
        posterior = self.posterior()
        if not self.is_partial:
            return posterior
        so_far = f"{self.num_taken} of {self.num_draws} draws so far."
        return dataclasses.replace(posterior, warnings=(so_far, *posterior.warnings))

    @property
    def is_partial(self) -> bool:
        """Whether draws are missing."""
        return self.num_taken < self.num_draws

    @property
    def has_draws(self) -> bool:
        """Whether a draw was kept."""
        return any(piece["lp"].size for piece in self.rows)

    def advance(self) -> Mapping[str, Any]:
        phase, left = self._present()
        pace = self._seconds_per_step
        wanted = _FIRST_PIECE if pace is None else int(_SECONDS_PER_PIECE / max(pace, 1e-9))
        size = max(1, min(left, wanted, self.capacity))
        started = time.perf_counter()
        draws = self.take(size, phase, is_last=size == left)
        self._seconds_per_step = (time.perf_counter() - started) / size
        if self.is_warm:
            index = np.arange((-self.num_taken - 1) % self.thinning, size, self.thinning)
            # `take` copies: a view would keep the whole piece alive.
            self.rows.append({n: np.take(v, index, axis=self.step_axis) for n, v in draws._asdict().items()})
        elif phase.is_kept:
            earlier = self.collected if left < phase.num_steps else []
            self.collected = [*earlier, draws]
        was_warm = self.is_warm
        self.next_step += size
        if size == left and not was_warm:
            self.end_phase(phase)
        lengths = np.moveaxis(draws.step_size, self.step_axis, 0)
        return {"step_size": float(np.mean(lengths[-1])), "divergences": int(draws.diverging.sum())}

    def _present(self) -> tuple[Phase, int]:
        """The phase of the next step, and how many steps of it are left."""
        end = 0
        for phase in self.plan:
            end += phase.num_steps
            if self.next_step < end:
                return phase, end - self.next_step
        return Phase(self.num_draws, is_adapting=False), self.total - self.next_step

    def collected_rows(self, kind: Any) -> Any:
        """The rows in `collected`, joined, as a named tuple of `kind`; None if there are none."""
        if not self.collected:
            return None
        return kind(*(np.concatenate(pieces, axis=self.step_axis) for pieces in zip(*self.collected, strict=True)))

    def drawn(self, kind: Any) -> Any:
        """All kept draws, as a named tuple of `kind`."""
        return kind(**{n: np.concatenate([p[n] for p in self.rows], axis=self.step_axis) for n in self.rows[0]})

    def collected_state(self, kind: Any) -> dict[str, np.ndarray]:
        """What of `collected` a checkpoint stores."""
        rows = self.collected_rows(kind)
        return {} if rows is None else {f"collected_{name}": np.asarray(v) for name, v in rows._asdict().items()}

    def restore_collected(self, kind: Any, state: Arrays) -> None:
        """The reverse of `collected_state`."""
        names = [f"collected_{field}" for field in kind._fields]
        self.collected = [kind(*(state[name] for name in names))] if names[0] in state else []
