"""Tempered sequential Monte Carlo: from the prior to the posterior by a ladder of temperatures with gradient moves."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, InferenceError
from probinf.inference.method import AbstractMethod, check_count, check_fraction, check_option
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.progress import Progress
from probinf.random import as_key
from probinf.transformations.resampling import scheme
from smc.evidence import combine_evidence, pack_history
from smc.mixing import Mixing, assess
from smc.persistent import PersistentPrograms, PersistentState
from smc.tempered_checks import check_continuous, check_start, coordinate_name
from smc.tempered_moves import KINDS
from smc.tempering import Settings, TemperedState, TemperingPrograms, tempering_programs

_FEW_ALIVE = 0.05


@dataclasses.dataclass(frozen=True)
class TemperedSMC(AbstractMethod):
    r"""Adaptive tempering for models whose latent sites are all continuous (Del Moral, Doucet & Jasra 2006).

    Particles drawn from the prior pass through $p(x) L(x)^\beta$ for β rising from 0 to 1. The next β is where the
    effective sample size has fallen to `threshold` times the living particles, found by bisection; then the particles
    are resampled and moved by Hamiltonian Monte Carlo in unconstrained space, with the particles' variances as metric
    and a step size that follows the acceptance rate. Moves are doubled until the correlation of every coordinate and of
    the log density with its value before the moves is below 0.3, `max_moves` is reached, or more moves no longer help.

    The summary says whether the moves mix: correlation, share of particles that never moved, and log evidence beside
    what it is with half of the moves (`smc.mixing`).

    Because ladder, metric and step size are fitted to the particles, the evidence is consistent instead of unbiased.

    Two ways to make more of the moves. `waste_free=P` resamples one particle in P, moves each P - 1 times and keeps all
    states, and gives a standard error of the evidence from one run. `persistent=True` keeps the particles of all
    temperatures and weights them as draws from the mixture of all tempered posteriors; the posterior holds all of them.

    Args:
        num_particles: particles of each run.
        num_moves: trajectories at each temperature, at least.
        max_moves: trajectories at each temperature, at most.
        num_leapfrog: leapfrog steps (gradients) of a trajectory.
        moves: "hmc", or "rwm": random walk with the particles' covariance, for densities without gradient.
        waste_free: length P of the chains, from 2 on, a divisor of `num_particles`; 0 for none. `num_moves` and
            `max_moves` do not count then. Take P several times the moves that a coordinate takes to forget its start.
        persistent: keep the particles of all temperatures. Memory grows with their number.
        threshold: share of the living particles to which the effective sample size falls between temperatures.
        num_runs: independent runs, side by side; from two on the evidence has a standard error.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        max_temperatures: the run ends with an error beyond this number.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
        UnknownNameError: no such resampling scheme.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers. Buchholz, Chopin & Jacob (2021), Adaptive
        tuning of Hamiltonian Monte Carlo within sequential Monte Carlo. Dau & Chopin (2022), Waste-free sequential
        Monte Carlo. Karamanis & Seljak (2024), Persistent sampling.
    """

    num_particles: int = 1024
    num_moves: int = 4
    max_moves: int = 64
    num_leapfrog: int = 5
    threshold: float = 0.5
    num_runs: int = 1
    resample: str = "systematic"
    max_temperatures: int = 500
    moves: str = "hmc"
    waste_free: int = 0
    persistent: bool = False

    def __post_init__(self) -> None:
        check_count("num_particles", self.num_particles, minimum=2)
        check_count("num_moves", self.num_moves)
        check_count("max_moves", self.max_moves, minimum=self.num_moves)
        check_count("num_leapfrog", self.num_leapfrog)
        check_fraction("threshold", self.threshold)
        check_count("num_runs", self.num_runs)
        scheme(self.resample)
        check_count("max_temperatures", self.max_temperatures)
        check_option("moves", self.moves, KINDS)
        check_option("persistent", self.persistent, (False, True))
        check_count("waste_free", self.waste_free, minimum=0)
        if self.waste_free and (
            self.waste_free == 1 or self.num_particles % self.waste_free or self.num_particles < 2 * self.waste_free
        ):
            raise ArgumentError(
                f"waste_free: expected a chain length from 2 on that divides num_particles = {self.num_particles} into "
                f"two chains or more, found {self.waste_free}."
            )
        if self.waste_free and self.persistent:
            raise ArgumentError("persistent: expected False together with waste_free; choose one of the two.")

    def run(self, program: Program, key: Any, *, progress: bool = False) -> Posterior:
        """Draw from the posterior.

        Ctrl-C raises an `InferenceError` whose `.partial` holds the particles at the inverse temperature reached.

        Raises:
            ModelError: discrete or conditional latent sites, or none.
            InferenceError: the likelihood is zero at every particle or NaN at some, or the temperature stalls; the
                particles so far are on `.partial`.
        """
        began = time.perf_counter()
        target = program.unconstrained()
        check_continuous(target)
        settings = Settings(
            int(self.num_runs),
            int(self.num_particles),
            int(self.num_moves),
            int(self.max_moves),
            int(self.num_leapfrog),
            self.resample,
            self.moves,
            int(self.waste_free),
            bool(self.persistent),
        )
        programs = tempering_programs(target, settings)
        operands = jax.tree.map(jnp.asarray, target.operands)
        key_start, key_steps = jax.random.split(as_key(key, argument="key"))
        state, outside = programs.start(operands, key_start)
        first = state.latest if self.persistent else state
        check_start(target, programs, operands, first)
        run = _Run(
            self, target, programs, operands, began, state, np.asarray(outside), np.asarray(first.log_likelihood)
        )
        threshold = np.asarray(self.threshold, programs.layout.dtype)
        try:
            label = f"Tempered SMC, {self.num_runs} x {self.num_particles}"
            with Progress(None, label) if progress else contextlib.nullcontext() as bar:
                while not run.is_finished:
                    new, info = programs.step(
                        operands, run.state, threshold, jax.random.fold_in(key_steps, run.num_steps)
                    )
                    run.append(new, jax.tree.map(np.asarray, info))
                    if bar is not None:
                        latest = {name: float(np.min(values[-1])) for name, values in run.history.items()}
                        bar.update(1, **{n: latest[n] for n in ("inverse_temperature", "ess", "log_evidence")})
        except KeyboardInterrupt as stop:
            error = InferenceError(
                f"TemperedSMC was interrupted at inverse temperature {run.lowest:.3g} after {run.num_steps} step(s)."
            )
            error.partial = run.posterior(is_partial=True)
            raise error from stop
        return run.posterior()


class _Run:
    """The state of a run between two temperatures, and what it has seen."""

    def __init__(
        self,
        method: TemperedSMC,
        target: Any,
        programs: TemperingPrograms,
        operands: Any,
        began: float,
        state: TemperedState | PersistentState,
        outside: np.ndarray,
        first_likelihood: np.ndarray,
    ) -> None:
        self.method, self.target, self.programs, self.operands, self.began = method, target, programs, operands, began
        self.state = state
        self.history: dict[str, list[np.ndarray]] = {}
        self.slowest: list[np.ndarray] = []
        self.notes: list[str] = []
        alive = np.mean(np.isfinite(first_likelihood), axis=1)
        if outside.any():
            self.notes.append(
                f"{int(outside.sum())} draws from the prior rounded to the border of their support "
                "and got weight zero: the "
                "prior piles up there."
            )
        if alive.min() < _FEW_ALIVE:
            self.notes.append(
                f"Only {alive.min():.2%} of the draws from the prior have positive likelihood: the first step rests on "
                "these; raise num_particles."
            )

    @property
    def latest(self) -> TemperedState:
        """The particles of the last temperature."""
        return self.state.latest if isinstance(self.state, PersistentState) else self.state

    @property
    def num_steps(self) -> int:
        return len(self.slowest)

    @property
    def lowest(self) -> float:
        """The inverse temperature of the run that is farthest behind."""
        return float(np.min(np.asarray(self.latest.inverse_temperature)))

    @property
    def is_finished(self) -> bool:
        return self.lowest >= 1.0

    def append(self, new: TemperedState | PersistentState, info: Any) -> None:
        """Account for one temperature.

        Raises:
            InferenceError: the temperature stalls, or there are too many of them.
        """
        old = np.asarray(self.latest.inverse_temperature)
        self.state = new
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
        self.slowest.append(info.slowest)
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
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
        error.partial = self.posterior(is_partial=True)
        raise error

    def posterior(self, *, is_partial: bool = False) -> Posterior:
        method, target = self.method, self.target
        values, log_weights, log_z = self._particles()
        log_evidence, sd = combine_evidence(log_z)
        if sd is None and method.waste_free:
            sd = float(np.sqrt(np.asarray(self.latest.variance)[0]))
        notes = list(self.notes)
        if is_partial:
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
            seconds=time.perf_counter() - self.began,
            is_partial=is_partial,
            checkpoint=pack_history({name: np.stack(rows, axis=1) for name, rows in self.history.items()}),
            model=target.name,
        )

    def _particles(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Draws by site (R, n, ...), log weights (R, n), log evidence (R,): runs count by their evidence."""
        if isinstance(self.state, PersistentState) and isinstance(self.programs, PersistentPrograms):
            count = int(self.state.count)
            log_weights, log_z = (np.asarray(x, np.float64) for x in self.programs.weigh(self.state))
            log_weights = log_weights[:, :count].reshape(log_z.size, -1)
            pieces = [self.programs.constrain(self.operands, self.state.position[:, s]) for s in range(count)]
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
        moves = int(np.max(self.history["num_moves"])) if self.history else 0
        particles = f"{method.num_particles} particles"
        if method.waste_free:
            particles += f" in {method.num_particles // method.waste_free} chains"
        return (
            f"{kind}tempered SMC, {particles}, {self.num_steps} temperatures, "
            f"up to {moves} {method.moves.upper()} moves" + ("" if mixing is None else f", {mixing}")
        )

    def _mixing(self) -> Mixing | None:
        if not self.history:
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
            np.stack(self.slowest),
            lambda i: "the log density" if i == dim else f"unconstrained {coordinate_name(self.programs.layout, i)}",
            num_watched=method.num_particles // max(method.waste_free, 1),
            max_moves=method.waste_free - 1 if method.waste_free else method.max_moves,
            advice=advice,
        )
