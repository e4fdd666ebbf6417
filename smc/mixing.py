"""Whether the moves of a tempered run mix: movement, autocorrelation, and evidence with half of the moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from smc.tempered_moves import autocorrelation_limit

_MOST_STILL = 0.1
_SMALLEST_SHIFT = 0.25  # nats; below it a difference of evidence matters to nobody
_SHIFT_ERRORS = 4.0  # standard errors; a false alarm in 16,000 runs whose moves mix
_MANY = 0.25  # share of the temperatures


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A verdict on moves.

    Attributes:
        reasons: what is wrong, in words; empty if nothing is.
        autocorrelation: largest at the last temperature.
        shift: log evidence minus what it is with half of the moves, in nats, mean over the runs.
        shift_sd: its standard error if the moves mix.
        advice: what may help.
    """

    reasons: tuple[str, ...]
    autocorrelation: float
    shift: float
    shift_sd: float
    advice: str = ""

    @property
    def warning(self) -> list[str]:
        """A line for the posterior's warnings, or none."""
        if not self.reasons:
            return []
        return [f"The moves do not mix: evidence may be off; {'; '.join(self.reasons)}. {self.advice}"]

    def __str__(self) -> str:
        if self.reasons:
            return "moves do not mix"
        return (
            f"moves mix (correlation {self.autocorrelation:.2f}, half of them shift log evidence by {-self.shift:+.2f})"
        )


def assess(
    history: Mapping[str, np.ndarray],
    slowest: np.ndarray,
    name_of: Callable[[int], str],
    *,
    num_watched: int,
    max_moves: int,
    advice: str,
) -> Mixing:
    """Look at a run's record.

    Three checks. Movement: at some of the last temperatures a tenth of the particles never moved. Autocorrelation: at
    the last temperature, or at a quarter of all, a coordinate or the log density is still correlated with its value
    before the moves. Two chain lengths: log evidence differs from what it is with half of the moves by more than 0.25
    nats and four standard errors.

    Args:
        history: arrays (steps, runs) by name, as `smc.history` has them.
        slowest: (steps, runs) index of the slowest coordinate.
        name_of: its name.
        num_watched: particles, or chains, over which the correlation was taken.
        max_moves: at most so many moves were allowed.
        advice: what may help.
    """
    rho, num_moves = history["autocorrelation"], history["num_moves"]
    limit = autocorrelation_limit(num_watched)
    reasons = []
    over = rho.max(axis=1) > limit
    if over[-1] or over.mean() >= _MANY:
        step, run = np.unravel_index(int(np.argmax(rho)) if not over[-1] else int(np.argmax(rho[-1])), rho.shape)
        step = len(rho) - 1 if over[-1] else step
        moves = int(num_moves[step, run])
        gave_up = ", and more moves bring it no nearer (regions that they do not cross between?)"
        reasons.append(
            f"after {moves} moves at inverse temperature {history['inverse_temperature'][step, run]:.3g} "
            f"{name_of(int(slowest[step, run]))} still has correlation {rho[step, run]:.2f} with where it started"
            f"{gave_up if moves < max_moves else ''} (acceptance {history['acceptance'][step, run]:.2f})"
        )
    still = history["still"][-max(1, len(rho) // 4) :]
    if still.max() > _MOST_STILL:
        reasons.append(f"{still.max():.0%} of the particles never moved at one of the last temperatures")
    totals = history["shift"].sum(axis=0)
    sd = float(np.sqrt(history["shift_variance"].sum()) / totals.size)
    if totals.size >= 4:
        sd = max(sd, float(totals.std(ddof=1) / np.sqrt(totals.size)))
    shift = float(totals.mean())
    if abs(shift) > max(_SHIFT_ERRORS * sd, _SMALLEST_SHIFT):
        reasons.append(
            f"log evidence is {abs(shift):.2f} nats {'above' if shift > 0 else 'below'} that of half the moves"
        )
    elif reasons:
        reasons.append(f"half the moves shift log evidence by {-shift:+.2f} (error {sd:.2f})")
    return Mixing(tuple(reasons), float(rho[-1].max()), shift, sd, advice)
