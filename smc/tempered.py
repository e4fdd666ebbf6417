"""Tempered sequential Monte Carlo: from the prior to the posterior by a ladder of temperatures with gradient moves."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError, ModelError
from probinf.inference.method import AbstractMethod, check_count, check_fraction
from probinf.inference.posterior import Posterior
from probinf.kernels.flat import FlatLayout
from probinf.language.program import Program
from probinf.progress import Progress
from probinf.random import as_key
from probinf.transformations.resampling import scheme
from smc.evidence import combine_evidence, pack_history
from smc.tempering import TemperedState, TemperingPrograms, autocorrelation_limit, tempering_programs

_FEW_ALIVE = 0.05


@dataclasses.dataclass(frozen=True)
class TemperedSMC(AbstractMethod):
    r"""Adaptive tempering for models whose latent sites are all continuous (Del Moral, Doucet & Jasra 2006).

    Particles drawn from the prior pass through $p(x) L(x)^\beta$ for β rising from 0 to 1. The next β is where the
    effective sample size has fallen to `threshold` times the living particles, found by bisection; then the particles
    are resampled and moved by Hamiltonian Monte Carlo in unconstrained space, with the particles' variances as metric
    and a step size that follows the acceptance rate. Moves are doubled until the correlation of every coordinate with
    its value before the moves is below 0.3, or `max_moves` is reached, which is a warning.

    Because ladder, metric and step size are fitted to the particles, the evidence is consistent instead of unbiased.

    Args:
        num_particles: particles of each run.
        num_moves: trajectories at each temperature, at least.
        max_moves: trajectories at each temperature, at most.
        num_leapfrog: leapfrog steps (gradients) of a trajectory.
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
        tuning of Hamiltonian Monte Carlo within sequential Monte Carlo.
    """

    num_particles: int = 1024
    num_moves: int = 4
    max_moves: int = 64
    num_leapfrog: int = 5
    threshold: float = 0.5
    num_runs: int = 1
    resample: str = "systematic"
    max_temperatures: int = 500

    def __post_init__(self) -> None:
        check_count("num_particles", self.num_particles, minimum=2)
        check_count("num_moves", self.num_moves)
        check_count("max_moves", self.max_moves, minimum=self.num_moves)
        check_count("num_leapfrog", self.num_leapfrog)
        check_fraction("threshold", self.threshold)
        check_count("num_runs", self.num_runs)
        scheme(self.resample)
        check_count("max_temperatures", self.max_temperatures)

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
        programs = tempering_programs(
            target,
            int(self.num_runs),
            int(self.num_particles),
            int(self.num_moves),
            int(self.max_moves),
            int(self.num_leapfrog),
            self.resample,
        )
        operands = jax.tree.map(jnp.asarray, target.operands)
        key_start, key_steps = jax.random.split(as_key(key, argument="key"))
        state, outside = programs.start(operands, key_start)
        check_start(target, programs, operands, state)
        run = _Run(
            self, target, programs, operands, began, state, np.asarray(outside), np.asarray(state.log_likelihood)
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


def check_continuous(target: Any) -> None:
    """Refuse latent sites that have no gradient or no fixed place, by name.

    Raises:
        ModelError: what `smc.SMC` can do instead is in the message.
    """
    if not target.staged.latent():
        raise ModelError(f"Model {target.name!r} has no latent site: nothing to infer. Are all of them observed?")
    for sites, what in ((target.discrete_sites, "discrete"), (target.conditional_sites, "conditional")):
        if sites:
            raise ModelError(
                f"TemperedSMC moves continuous latent sites that always exist; {list(sites)} of model "
                f"{target.name!r} are "
                f"{what}. Use smc.SMC(), which takes any site"
                + (", or sum them out with pi.enumerate." if what == "discrete" else ".")
            )


def check_start(target: Any, programs: TemperingPrograms, operands: Any, state: TemperedState) -> None:
    """Refuse a likelihood that is NaN at a draw from the prior, or zero at all of them.

    Raises:
        InferenceError: naming the site.
    """
    likelihood = np.asarray(state.log_likelihood).reshape(-1)
    wrong = np.isnan(likelihood) | np.isposinf(likelihood)
    dead = np.isneginf(likelihood.reshape(state.log_likelihood.shape)).all(axis=1)
    if not wrong.any() and not dead.any():
        return
    worst = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(dead)) * state.log_likelihood.shape[1]
    x = state.position.reshape(-1, state.position.shape[-1])[worst]
    scores = {n: float(v) for n, v in target.site_logdensities(operands, programs.layout.unravel(x)).items()}
    guilty = next((n for n, v in scores.items() if not np.isfinite(v)), None)
    where = f" (at site {guilty!r})" if guilty is not None else ""
    if wrong.any():
        message = (
            f"TemperedSMC: the log likelihood of model {target.name!r} is NaN or +inf at "
            f"{int(wrong.sum())} of {wrong.size} "
            f"draws from the prior, step 0{where}. Likely causes: log or sqrt of a negative number, 0/0, an overflow; "
            "-inf is the legal zero."
        )
    else:
        message = (
            f"TemperedSMC: every one of {wrong.size} draws from the prior of model {target.name!r} "
            "has likelihood zero, "
            f"step 0{where}. Likely causes: data outside what the prior allows, a hard constraint of small prior "
            "probability (raise num_particles, or build it into the prior), a light-tailed density."
        )
    error = InferenceError(message)
    error.partial = {"position": np.asarray(state.position), "log_likelihood": np.asarray(state.log_likelihood)}
    raise error


class _Run:
    """The state of a run between two temperatures, and what it has seen."""

    def __init__(
        self,
        method: TemperedSMC,
        target: Any,
        programs: TemperingPrograms,
        operands: Any,
        began: float,
        state: TemperedState,
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
    def num_steps(self) -> int:
        return len(self.slowest)

    @property
    def lowest(self) -> float:
        """The inverse temperature of the run that is farthest behind."""
        return float(np.min(np.asarray(self.state.inverse_temperature)))

    @property
    def is_finished(self) -> bool:
        return self.lowest >= 1.0

    def append(self, new: TemperedState, info: Any) -> None:
        """Account for one temperature.

        Raises:
            InferenceError: the temperature stalls, or there are too many of them.
        """
        old, beta = np.asarray(self.state.inverse_temperature), np.asarray(new.inverse_temperature)
        row = {
            "inverse_temperature": beta,
            "ess": info.ess,
            "log_evidence": np.asarray(new.log_evidence),
            "acceptance": info.acceptance,
            "step_size": np.exp(np.asarray(new.log_step_size)),
            "num_moves": info.num_moves,
            "autocorrelation": info.autocorrelation,
        }
        self.state = new
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
        values = self.programs.constrain(self.operands, self.state.position)
        log_z = np.asarray(self.state.log_evidence, np.float64)
        log_evidence, sd = combine_evidence(log_z)
        notes = list(self.notes)
        if is_partial:
            notes.insert(
                0, f"Stopped at inverse temperature {self.lowest:.3g}: these are draws of the tempered posterior."
            )
        notes += self._mixing()
        moves = int(np.max(self.history["num_moves"])) if self.history else 0
        return Posterior(
            draws={name: np.asarray(value) for name, value in values.items()},
            # Runs count by their evidence.
            log_weights=np.broadcast_to(log_z[:, None], (method.num_runs, method.num_particles)),
            log_evidence=log_evidence,
            log_evidence_sd=sd,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=(
                f"tempered SMC, {method.num_particles} particles, {self.num_steps} temperatures, "
                f"up to {moves} HMC moves"
            ),
            claim="consistent",
            warnings=tuple(notes),
            seconds=time.perf_counter() - self.began,
            is_partial=is_partial,
            checkpoint=pack_history({name: np.stack(rows, axis=1) for name, rows in self.history.items()}),
            model=target.name,
        )

    def _mixing(self) -> list[str]:
        """The verdict on the moves of the last quarter of the temperatures."""
        if not self.history:
            return []
        last = -max(1, self.num_steps // 4)
        rho = np.stack(self.history["autocorrelation"][last:])  # (steps, runs)
        if rho[-1].max() <= autocorrelation_limit(self.method.num_particles) and np.median(rho) <= rho[-1].max() + 0.3:
            return []
        step, run = np.unravel_index(int(np.argmax(rho)), rho.shape)
        name = coordinate_name(self.programs.layout, int(np.stack(self.slowest[last:])[step, run]))
        rate = float(np.min(np.stack(self.history["acceptance"][last:])))
        return [
            f"The moves do not mix: after {int(np.max(self.history['num_moves'][-1]))} moves at one "
            "of the last temperatures "
            f"unconstrained {name} still has correlation {rho.max():.2f} with where it started "
            f"(acceptance {rate:.2f}). "
            "Draws and evidence may be off: raise max_moves or num_leapfrog, or reparameterise."
        ]


def coordinate_name(layout: FlatLayout, index: int) -> str:
    """The scalar of a flat position, such as `theta[3]`."""
    for name, shape in layout.shapes.items():
        size = int(np.prod(shape, dtype=int))
        if index < size:
            where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
            return f"{name}[{where}]" if shape else name
        index -= size
    raise AssertionError("index beyond the position")
