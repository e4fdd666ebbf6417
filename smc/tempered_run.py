"""Tempered sequential Monte Carlo as the host loop sees it: one temperature after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError
from probinf.inference.posterior import Posterior
from probinf.runs import Loop
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked
from smc.evidence import combine_evidence, pack_history
from smc.mixing import Mixing, assess
from smc.persistent import PersistentPrograms, PersistentState
from smc.tempered_checks import check_start, coordinate_name
from smc.tempering import Settings, TemperedState, tempering_programs

_FEW_ALIVE = 0.05


class TemperedLoop(Loop):
    """Particles between two temperatures, and what they have seen.

    Args:
        method: the settings, a `TemperedSMC`.
        target: the model on unconstrained space.
        key: one key for the whole run.
    """

    def __init__(self, method: Any, target: Any, key: jax.Array) -> None:
        self.label = f"Tempered SMC, {method.num_runs} x {method.num_particles}"
        self.unit = "temperature"
        self.method, self.target = method, target
        settings = Settings(
            int(method.num_runs),
            int(method.num_particles),
            int(method.num_moves),
            int(method.max_moves),
            int(method.num_leapfrog),
            method.resample,
            method.moves,
            int(method.waste_free),
            bool(method.persistent),
        )
        self.programs = tempering_programs(target, settings)
        self.operands = jax.tree.map(jnp.asarray, target.operands)
        self._key_start, self._key_steps = jax.random.split(key)
        self._threshold = np.asarray(method.threshold, self.programs.layout.dtype)
        self.population: Any = None
        self.rows: list[Arrays] = []  # one mapping for each temperature
        self.notes: list[str] = []

    def start(self) -> None:
        self.population, outside = self.programs.start(self.operands, self._key_start)
        check_start(self.target, self.programs, self.operands, self.latest)
        alive = np.mean(np.isfinite(np.asarray(self.latest.log_likelihood)), axis=1)
        num_outside = int(np.asarray(outside).sum())
        if num_outside:
            self.notes.append(
                f"{num_outside} draws from the prior rounded to the border of their support and got weight zero: the "
                "prior piles up there."
            )
        if alive.min() < _FEW_ALIVE:
            self.notes.append(
                f"Only {alive.min():.2%} of the draws from the prior have positive likelihood: the first step rests on "
                "these; raise num_particles."
            )

    @property
    def done(self) -> int:
        return self.num_steps

    @property
    def total(self) -> None:
        return None

    def advance(self) -> Mapping[str, Any]:
        """Take one temperature.

        Raises:
            InferenceError: the temperature stalls, or there are too many of them.
        """
        at = self._key_steps, np.uint32(self.num_steps)
        new, info = self.programs.step(self.operands, self.population, self._threshold, *at)
        self._append(new, jax.tree.map(np.asarray, info))
        names = ("inverse_temperature", "ess", "log_evidence")
        return {name: float(np.min(self.rows[-1][name])) for name in names}

    def state(self) -> dict[str, np.ndarray]:
        return {**packed(self.population, "population"), "notes": np.asarray(self.notes, dtype=np.str_)}

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        template, _ = jax.eval_shape(self.programs.start, self.operands, self._key_start)
        self.population = unpacked(template, state, "population")
        self.notes, self.rows = [str(note) for note in state["notes"]], list(rows)

    def result(self) -> Posterior | None:
        return self.posterior() if self.rows else None

    @property
    def history(self) -> dict[str, list[np.ndarray]]:
        """Name -> its values at each temperature."""
        names = [name for name in self.rows[0] if name != "slowest"] if self.rows else []
        return {name: [row[name] for row in self.rows] for name in names}

    @property
    def latest(self) -> TemperedState:
        """The particles of the last temperature."""
        return self.population.latest if isinstance(self.population, PersistentState) else self.population

    @property
    def num_steps(self) -> int:
        return len(self.rows)

    @property
    def lowest(self) -> float:
        """The inverse temperature of the run that is farthest behind."""
        return float(np.min(np.asarray(self.latest.inverse_temperature)))

    @property
    def is_finished(self) -> bool:
        return self.lowest >= 1.0

    def _append(self, new: TemperedState | PersistentState, info: Any) -> None:
        old = np.asarray(self.latest.inverse_temperature)
        self.population = new
        beta = np.asarray(self.latest.inverse_temperature)
        row = {
            "inverse_temperature": beta,
            "ess": info.ess,
            "log_evidence": np.asarray(self.latest.log_evidence),
            "acceptance": info.acceptance,
            "step_size": np.exp(np.asarray(self.latest.log_step_size)),
            "num_moves": info.num_moves,
            "autocorrelation": info.autocorrelation,
            "still": info.still,
            "shift": info.shift,
            "shift_variance": info.shift_variance,
        }
        if self.method.waste_free:
            row["log_evidence_variance"] = np.asarray(self.latest.variance)
        self.rows.append({**row, "slowest": info.slowest})
        # `not >` catches NaN as well.
        stalled = ~(beta > old) & ~(beta >= 1.0)
        at = int(np.argmax(stalled)) if stalled.any() else int(np.argmin(beta))
        where = (
            f"inverse temperature {beta[at]:.4g}, effective sample size {info.ess[at]:.4g} of "
            f"{self.method.num_particles}, "
            f"step {self.num_steps}"
        )
        if stalled.any() or not np.isfinite(row["log_evidence"]).all():
            self._fail(
                f"TemperedSMC: the temperature of model {self.target.name!r} no longer moves: {where}. Likely causes: "
                "particles of wildly different likelihood (one carries all the weight), a likelihood "
                "that is not finite; "
                "raise num_particles or lower threshold."
            )
        if self.num_steps >= self.method.max_temperatures and not self.is_finished:
            self._fail(
                f"TemperedSMC: {self.num_steps} temperatures were not enough for model {self.target.name!r}: {where}. "
                "Lower threshold, raise max_temperatures, or use a prior nearer to the data."
            )

    def _fail(self, message: str) -> None:
        error = InferenceError(message)
        error.partial = self.posterior()
        raise error

    def posterior(self) -> Posterior:
        """The particles as they are: of the posterior, or on the way to it."""
        method, target = self.method, self.target
        values, log_weights, log_z = self._particles()
        log_evidence, sd = combine_evidence(log_z)
        if sd is None and method.waste_free:
            sd = float(np.sqrt(np.asarray(self.latest.variance)[0]))
        notes = list(self.notes)
        if not self.is_finished:
            notes.insert(
                0, f"Stopped at inverse temperature {self.lowest:.3g}: these are draws of the tempered posterior."
            )
        mixing = self._mixing()
        notes += [] if mixing is None else mixing.warning
        return Posterior(
            draws=values,
            log_weights=log_weights,
            log_evidence=log_evidence,
            log_evidence_sd=sd,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=self._described(mixing),
            claim="consistent",
            warnings=tuple(notes),
            is_partial=not self.is_finished,
            checkpoint=pack_history({name: np.stack(rows, axis=1) for name, rows in self.history.items()}),
            model=target.name,
        )

    def _particles(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Draws by site (R, n, ...), log weights (R, n), log evidence (R,): runs count by their evidence."""
        if isinstance(self.population, PersistentState) and isinstance(self.programs, PersistentPrograms):
            count = int(self.population.count)
            log_weights, log_z = (np.asarray(x, np.float64) for x in self.programs.weigh(self.population))
            log_weights = log_weights[:, :count].reshape(log_z.size, -1)
            pieces = [self.programs.constrain(self.operands, self.population.position[:, s]) for s in range(count)]
            return (
                {n: np.concatenate([np.asarray(p[n]) for p in pieces], axis=1) for n in pieces[0]},
                log_weights,
                log_z,
            )
        values = self.programs.constrain(self.operands, self.latest.position)
        log_z = np.asarray(self.latest.log_evidence, np.float64)
        log_weights = np.broadcast_to(log_z[:, None], (self.method.num_runs, self.method.num_particles))
        return {name: np.asarray(value) for name, value in values.items()}, log_weights, log_z

    def _described(self, mixing: Mixing | None) -> str:
        method = self.method
        kind = "waste-free " if method.waste_free else "persistent " if method.persistent else ""
        moves = int(np.max(self.history["num_moves"])) if self.rows else 0
        particles = f"{method.num_particles} particles"
        if method.waste_free:
            particles += f" in {method.num_particles // method.waste_free} chains"
        return (
            f"{kind}tempered SMC, {particles}, {self.num_steps} temperatures, "
            f"up to {moves} {method.moves.upper()} moves" + ("" if mixing is None else f", {mixing}")
        )

    def _mixing(self) -> Mixing | None:
        if not self.rows:
            return None
        method, dim = self.method, self.programs.layout.dim
        longer = "waste_free" if method.waste_free else "max_moves"
        advice = (
            f"Raise {longer} or num_leapfrog, or reparameterise."
            if method.moves == "hmc"
            else f'Take moves="hmc", or raise {longer}.'
        )
        return assess(
            {name: np.stack(rows) for name, rows in self.history.items()},
            np.stack([row["slowest"] for row in self.rows]),
            lambda i: "the log density" if i == dim else f"unconstrained {coordinate_name(self.programs.layout, i)}",
            num_watched=method.num_particles // max(method.waste_free, 1),
            max_moves=method.waste_free - 1 if method.waste_free else method.max_moves,
            advice=advice,
        )
