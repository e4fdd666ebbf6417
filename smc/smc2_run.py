"""SMC² as the host loop sees it: one observation after the other, one run after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError
from probinf.inference.diagnostics import kish_ess
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.runs import Loop
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked
from probinf.transformations.population import Resampling
from smc.evidence import combine_evidence, pack_history
from smc.smc2_engine import engine_for
from smc.suspended import Suspended

_VALUE = "value/"


class SMC2Loop(Loop):
    """The parameter particles with their filters, between two observations.

    Args:
        method: the settings, an `SMC2`.
        program: the program.
        inner: its sequential part.
        key: one key for all runs.
    """

    unit = "observation"

    def __init__(self, method: Any, program: Program, inner: Suspended, key: jax.Array) -> None:
        self.label = f"SMC², {method.num_parameters} x {method.num_particles}"
        self.method, self.program, self.inner = method, program, inner
        rule = Resampling(method.resample, 0.5)
        sizes = (int(method.num_parameters), int(method.num_particles))
        self.engine = engine_for(program.staged, inner, *sizes, rule)
        self.operands = jax.tree.map(jnp.asarray, program.operands)
        self._key = key
        self.rows: list[Arrays] = []  # one mapping for each finished run
        self._reset()

    def _reset(self) -> None:
        self._key_start, self._key_steps, self._key_end = jax.random.split(
            jax.random.fold_in(self._key, len(self.rows)), 3
        )
        self.t, self.log_evidence = 0, 0.0
        self.theta: Any = None
        self.filters: Any = None
        self.log_z = np.zeros(self.method.num_parameters)
        self.log_weights = np.zeros(self.method.num_parameters)
        self.history: list[tuple[float, float]] = []  # (ESS, log evidence) after each observation
        self.acceptance: list[tuple[float, float]] = []  # (observations so far, rate) of each rejuvenation

    @property
    def done(self) -> int:
        return len(self.rows) * self.inner.length + self.t

    @property
    def total(self) -> int:
        return self.inner.length * self.method.num_runs

    @property
    def is_finished(self) -> bool:
        return len(self.rows) == self.method.num_runs

    def start(self) -> None:
        """Parameters from the prior, each with a filter before its first step."""
        key_prior, key_filters = jax.random.split(self._key_start)
        self.theta = self.engine.prior(self.operands, key_prior)
        self.filters, _ = self.engine.start(self.operands, self.theta, self._keys(key_filters))

    def advance(self) -> Mapping[str, Any]:
        if self.t < self.inner.length:
            self.step()
            ess, log_evidence = self.history[-1]
            return {"ess": ess, "log_evidence": log_evidence}
        self.rejuvenate(is_last=True)
        values = self.engine.finish(self.operands, self.theta, self._key_end)
        self.rows.append(self._row({name: np.asarray(value) for name, value in values.items()}))
        if not self.is_finished:
            self._reset()
            self.start()
        else:
            self.t = 0  # counted in the finished run
        return {}

    def step(self) -> None:
        """Take one observation.

        Raises:
            InferenceError: all parameter particles died, or an evidence is NaN.
        """
        key = jax.random.fold_in(self._key_steps, self.t)
        filters, log_z = self.engine.advance(
            self.operands, self.theta, self.filters, self.t, self.t + 1, self._keys(jax.random.fold_in(key, 0))
        )
        log_z = np.asarray(log_z, np.float64)
        with np.errstate(invalid="ignore"):  # a filter that died earlier stays at -inf
            # At the first step the old evidence is zero, so that what the prefix observed counts with it.
            gains = np.where(np.isneginf(log_z), -np.inf, log_z - self.log_z)
        updated = self.log_weights + gains
        top = np.max(updated)
        if not np.isfinite(top):
            raise self._dead(updated)
        increment = top + np.log(np.mean(np.exp(updated - top)))
        self.filters, self.log_z, self.log_weights, self.t = filters, log_z, updated - increment, self.t + 1
        self.log_evidence += float(increment)
        self.history.append((kish_ess(self.log_weights), self.log_evidence))
        if self.history[-1][0] <= self.method.threshold * self.method.num_parameters and self.t < self.inner.length:
            self.rejuvenate()

    def rejuvenate(self, *, is_last: bool = False) -> None:
        """Resample the parameters and move them; at the end once more, so that they are as good as moves make them."""
        key = jax.random.fold_in(self._key_steps, self.inner.length if is_last else self.t - 1)
        key_resample, key_moves = jax.random.split(jax.random.fold_in(key, 1))
        dtype = jnp.result_type(float)
        engine, operands = self.engine, self.operands
        theta, filters, log_z, prior, spread = engine.resample(
            operands,
            self.theta,
            self.filters,
            jnp.asarray(self.log_z, dtype),
            jnp.asarray(self.log_weights, dtype),
            key_resample,
        )
        current, rates = (theta, filters, log_z, prior), []
        for m in range(self.method.num_moves):
            key_propose, key_start, key_run, key_accept = jax.random.split(jax.random.fold_in(key_moves, m), 4)
            proposed, new_prior, correction = engine.propose(operands, current[0], spread, key_propose)
            fresh, _ = engine.start(operands, proposed, self._keys(key_start))
            fresh, new_z = engine.advance(operands, proposed, fresh, 0, self.t, self._keys(key_run))
            current, rate = engine.accept(current, (proposed, fresh, new_z, new_prior), correction, key_accept)
            rates.append(float(rate))
        self.theta, self.filters = current[:2]
        self.log_z, self.log_weights = np.asarray(current[2], np.float64), np.zeros(self.method.num_parameters)
        self.acceptance.append((float(self.t), float(np.mean(rates))))

    def state(self) -> dict[str, np.ndarray]:
        return {
            "t": np.asarray(self.t),
            "log_z": self.log_z,
            "log_weights": self.log_weights,
            "log_evidence": np.asarray(self.log_evidence),
            "history": np.asarray(self.history, np.float64).reshape(-1, 2),
            "acceptance": np.asarray(self.acceptance, np.float64).reshape(-1, 2),
            **packed(self.theta, "theta"),
            **packed(self.filters, "filters"),
        }

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self.rows = list(rows)
        self._reset()
        if int(state["t"]) == 0:  # before a first observation, or after the last run of fewer
            self.start()
            return
        theta = jax.eval_shape(self.engine.prior, self.operands, self._key_start)
        filters, _ = jax.eval_shape(self.engine.start, self.operands, theta, self._keys(self._key_start))
        self.theta, self.filters = unpacked(theta, state, "theta"), unpacked(filters, state, "filters")
        self.t, self.log_evidence = int(state["t"]), float(state["log_evidence"])
        self.log_z, self.log_weights = state["log_z"], state["log_weights"]
        self.history = [(float(a), float(b)) for a, b in state["history"]]
        self.acceptance = [(float(a), float(b)) for a, b in state["acceptance"]]

    def result(self) -> Posterior | None:
        """The finished runs; before the first has ended, its parameters given the observations so far."""
        if self.rows:
            return self._posterior(self.rows)
        if not self.history:
            return None
        values = {name: np.asarray(v) for name, v in self.engine.constrain(self.operands, self.theta).items()}
        note = f"{self.t} of {self.inner.length} observations so far."
        return self._posterior([self._row(values)], note, log_weights=self.log_weights[None])

    def _row(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is kept of a run."""
        flat = [np.asarray(v).reshape(self.method.num_parameters, -1) for v in self.theta.values()]
        return {
            **{f"{_VALUE}{name}": value for name, value in values.items()},
            "log_evidence": np.asarray(self.log_evidence),
            "history": np.asarray(self.history, np.float64).reshape(-1, 2),
            "acceptance": np.asarray(self.acceptance, np.float64).reshape(-1, 2),
            "num_distinct": np.asarray(len(np.unique(np.concatenate(flat, axis=1), axis=0))),
        }

    def _posterior(self, rows: Sequence[Arrays], *notes: str, log_weights: np.ndarray | None = None) -> Posterior:
        method = self.method
        log_z = np.array([float(row["log_evidence"]) for row in rows])
        log_evidence, sd = combine_evidence(log_z)
        names = [name for name in rows[0] if name.startswith(_VALUE)]
        draws = {name.removeprefix(_VALUE): np.stack([row[name] for row in rows]) for name in names}
        past = np.stack([row["history"] for row in rows])
        if log_weights is None:  # within a run all draws weigh the same; runs count by their evidence
            log_weights = np.broadcast_to(log_z[:, None], (len(rows), method.num_parameters))
        return Posterior(
            draws=draws,
            log_weights=log_weights,
            log_evidence=log_evidence,
            log_evidence_sd=sd,
            dims={s.name: s.dims for s in self.program.sites if s.name in draws},
            coords=self.program.unconstrained().coords,
            method=f"SMC², {method.num_parameters} parameter x {method.num_particles} state particles",
            claim="consistent",
            warnings=(*notes, *_notes(rows, method.num_parameters)),
            checkpoint=pack_history({"ess": past[:, :, 0], "log_evidence": past[:, :, 1]}),
            model=self.program.name,
        )

    def _keys(self, key: jax.Array) -> jax.Array:
        return jax.random.split(key, self.method.num_parameters)

    def _dead(self, updated: np.ndarray) -> InferenceError:
        where = f"observation {self.t} (of {self.inner.length}, counted from 0)"
        wrong = int(np.sum(np.isnan(updated)))
        if wrong:
            message = (
                f"SMC2: the evidence of {wrong} of {updated.size} parameter particles of model {self.inner.name!r} is "
                f"NaN at {where}. Likely causes: a parameter outside its range, log or sqrt of a negative number, 0/0."
            )
        else:
            message = (
                f"SMC2: every parameter particle of model {self.inner.name!r} gives {where} probability zero. Likely "
                "causes: an outlier under a light-tailed density, a prior that excludes the data, too few particles."
            )
        error = InferenceError(message)
        error.partial = {"theta": self.theta, "log_evidence": self.log_evidence, "history": self.history}
        return error


def _notes(rows: Sequence[Arrays], num_parameters: int) -> list[str]:
    notes = []
    rates = [pair for row in rows for pair in row["acceptance"]]
    if rates:
        step, rate = min(rates, key=lambda pair: pair[1])
        if rate < 0.05:
            notes.append(
                f"Only {rate:.1%} of the moves after {int(step)} observations were accepted: raise num_particles "
                "(noisy evidence estimates stick) or num_moves."
            )
    distinct = min(int(row["num_distinct"]) for row in rows)
    if distinct < 0.5 * num_parameters:
        notes.append(f"{distinct} distinct parameter values among {num_parameters}: raise num_moves.")
    return notes
