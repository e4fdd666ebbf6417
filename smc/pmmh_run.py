"""One run of PMMH: the host loop around the compiled pieces of `smc.pmmh_engine`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError
from probinf.inference.posterior import Posterior
from probinf.kernels.chains import in_threads
from probinf.language.program import Program
from probinf.runs import Loop
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked
from probinf.transformations.population import Resampling
from smc.pmmh_engine import BATCH, CAPACITY, Engine, Estimate, Rows, Walk, engine_for
from smc.suspended import Suspended

WINDOWS = 10  # of warm-up; the walk's covariance is renewed between them
PILOT = 128  # particles of the first windows, where their number is to be chosen
_PILOT_WINDOWS = 3
_VARIANCE = 1.5  # of the log evidence, nats^2: between the best values 0.85 and 1.7^2 of the papers `PMMH` names
_TOO_NOISY = 4.0
_MOST = 2**20
_PIECES = 20  # an interrupt waits for at most this share of the run
_PATH = "path/"


class PMMHLoop(Loop):
    """All chains between two pieces of a run.

    Args:
        method: the settings, a `PMMH`.
        program: the program.
        inner: its sequential part.
        key: one key for the whole run.
    """

    def __init__(self, method: Any, program: Program, inner: Suspended, key: jax.Array) -> None:
        self.label = f"PMMH, {method.num_chains} chains"
        self.method, self.program, self.inner = method, program, inner
        self.operands = jax.tree.map(jnp.asarray, program.operands)
        self._key_start, self._key_variance, key_chains = jax.random.split(key, 3)
        self._keys = [jax.random.fold_in(key_chains, c) for c in range(method.num_chains)]
        self._edges = np.linspace(0, method.num_warmup, WINDOWS + 1).astype(int)
        self.engine = self._engine(PILOT if method.num_particles is None else int(method.num_particles))
        self.variance = float("nan")
        self.chains: list[Estimate] = []
        self.walks: list[Walk] = []
        self.rows: list[Arrays] = []  # one mapping for each piece, warm-up included: arrays (chains, steps, ...)
        self._done = 0

    @property
    def done(self) -> int:
        return self._done

    @property
    def total(self) -> int:
        return self.method.num_warmup + self.method.num_draws

    @property
    def is_finished(self) -> bool:
        return self.done >= self.total

    @property
    def _is_warm(self) -> bool:
        return self.done >= self.method.num_warmup

    def _engine(self, num: int) -> Engine:
        rule = Resampling(self.method.resample, float(self.method.threshold))
        return engine_for(self.program.staged, self.inner, num, rule, paths=self.method.paths)

    def start(self) -> None:
        """Chains at different prior draws, chosen by their evidence.

        Raises:
            InferenceError: no prior draw has a positive evidence.
        """
        key_prior, key_filters, key_choice = jax.random.split(self._key_start, 3)
        x = self.engine.prior(self.operands, key_prior)
        found = self.engine.evaluate(self.operands, x, key_filters)
        log_z = np.asarray(found.log_evidence, np.float64)
        if not np.isfinite(log_z).any():
            raise InferenceError(
                f"PMMH: none of {BATCH} prior draws of model {self.program.name!r} explains the data: every filter's "
                "evidence is zero or NaN. Likely causes: an outlier under a light-tailed density, a prior that "
                "excludes the data, log or sqrt of a negative number, too few particles."
            )
        # The largest of log weight + Gumbel noise: a draw by weight without replacement.
        noisy = np.where(np.isfinite(log_z), log_z, -np.inf) + np.asarray(jax.random.gumbel(key_choice, (BATCH,)))
        order = np.argsort(-noisy)[: np.isfinite(log_z).sum()]
        picks = np.resize(order, self.method.num_chains)
        self.chains = [jax.tree.map(lambda leaf, k=int(k): leaf[k], found) for k in picks]
        low, high = np.quantile(np.asarray(x), [0.25, 0.75], axis=0)
        self._renew_walk(np.diag((high - low) / 1.35), 0.2)  # quartiles: a prior may have no variance

    def advance(self) -> Mapping[str, Any]:
        later = self._edges[self._edges > self.done]
        end = self.total if self._is_warm else int(later[0])
        count = min(CAPACITY, -(-self.total // _PIECES), end - self.done)
        jobs = [functools.partial(self._piece, c, count) for c in range(len(self.chains))]
        chains, walks, rows = zip(*in_threads(jobs), strict=True)
        self.rows.append(self._row(jax.tree.map(lambda *parts: np.stack(parts), *rows)))
        self.chains, self.walks, self._done = list(chains), list(walks), self.done + count
        if self.done in self._edges:
            self._end_window(int(np.searchsorted(self._edges, self.done)))
        return {"accepted": float(self.rows[-1]["rates"].mean())}

    def _piece(self, c: int, count: int) -> tuple[Estimate, Walk, Rows]:
        steps = (np.int32(self.done), np.int32(count), np.asarray(not self._is_warm))
        now, walk, rows = self.engine.advance(self.operands, self.chains[c], self.walks[c], self._keys[c], *steps)
        return now, walk, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], rows)

    def _row(self, rows: Rows) -> dict[str, np.ndarray]:
        now = rows.now
        numbers = {"x": now.x, "log_prior": now.log_prior, "log_evidence": now.log_evidence}
        found = {**numbers, "rates": rows.acceptance_rate, "wrong": rows.is_wrong}
        if self._is_warm:
            found |= {f"{_PATH}{name}": value for name, value in now.path.items()}
        return jax.tree.map(np.asarray, found)

    def _end_window(self, windows: int) -> None:
        """Learn the walk, and the number of particles if it is not given, when so many windows are over."""
        past = np.concatenate([row["x"] for row in self.rows], axis=1)
        recent = past[:, past.shape[1] // 2 :].reshape(-1, past.shape[2]).astype(np.float64)
        if windows < WINDOWS:  # the last window fits the length to the covariance that stays
            self._learn(recent)
        is_pilot_over = self.method.num_particles is None and windows == _PILOT_WINDOWS
        if is_pilot_over or windows == WINDOWS:
            self.variance = self._variance(recent.mean(axis=0), windows)
        if is_pilot_over:
            self._choose_particles()

    def _learn(self, flat: np.ndarray) -> None:
        """The covariance of draws, the fewer of them are distinct the more towards its diagonal."""
        distinct, dim = len(np.unique(flat, axis=0)), flat.shape[1]
        cov = np.atleast_2d(np.cov(flat.T))
        diagonal = np.diag(np.diag(cov))
        if distinct <= dim + 1 or not np.all(np.diag(cov) > 0):
            return
        share = 5.0 / (5.0 + distinct / dim)
        self._renew_walk(np.linalg.cholesky((1 - share) * cov + share * diagonal), 1.0)

    def _renew_walk(self, factor: np.ndarray, length: float) -> None:
        dtype = self.chains[0].x.dtype
        scale = np.log(length * 2.38 / np.sqrt(len(factor)))  # Roberts, Gelman & Gilks (1997)
        walk = Walk(jnp.asarray(factor, dtype), jnp.asarray(scale, dtype), jnp.asarray(0, jnp.int32))
        self.walks = [walk] * len(self.chains)

    def _variance(self, x: np.ndarray, number: int) -> float:
        """Variance of the log evidence at one place, nats²; infinite where some filters die."""
        rows = jnp.broadcast_to(jnp.asarray(x, self.chains[0].x.dtype), (BATCH, x.size))
        found = self.engine.evaluate(self.operands, rows, jax.random.fold_in(self._key_variance, number))
        log_z = np.asarray(found.log_evidence, np.float64)
        return float(np.var(log_z, ddof=1)) if np.isfinite(log_z).all() else float("inf")

    def _choose_particles(self) -> None:
        """As many particles as the variance asks for (it falls like 1 / N); filters start again where chains are."""
        wanted = PILOT * max(min(self.variance, 1e6), 1e-3) / _VARIANCE
        num = int(min(max(2 ** np.ceil(np.log2(wanted)), 16), _MOST))
        if num == self.engine.num:
            return
        self.engine = self._engine(num)
        x = jnp.stack([chain.x for chain in self.chains])
        x = x[np.arange(BATCH) % len(self.chains)]
        key = jax.random.fold_in(self._key_variance, 0)  # `_variance` takes the numbers of windows, from 1 on
        found = self.engine.evaluate(self.operands, x, key)
        self.chains = [jax.tree.map(lambda leaf, c=c: leaf[c], found) for c in range(len(self.chains))]

    def state(self) -> dict[str, np.ndarray]:
        numbers = {"done": self.done, "num_particles": self.engine.num, "variance": self.variance}
        found = {name: np.asarray(value) for name, value in numbers.items()}
        return found | packed(self.chains, "chains") | packed(self.walks, "walks")

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self._done, self.variance = int(state["done"]), float(state["variance"])
        self.engine = self._engine(int(state["num_particles"]))
        x = jax.eval_shape(self.engine.prior, self.operands, self._key_start)
        chain = jax.eval_shape(self.engine.evaluate, self.operands, x, self._key_start)
        walk = Walk(chain.log_prior, chain.log_prior, chain.log_prior)  # only the structure is looked at
        self.chains = unpacked([chain] * len(self._keys), state, "chains")
        self.walks = unpacked([walk] * len(self._keys), state, "walks")
        self.rows = list(rows)

    def result(self) -> Posterior | None:
        return self.posterior() if self.done > self.method.num_warmup else None

    def posterior(self) -> Posterior:
        """The draws so far."""
        kept = [row for row, end in zip(self.rows, self._ends(), strict=True) if end > self.method.num_warmup]
        found = {name: np.concatenate([row[name] for row in kept], axis=1) for name in kept[0]}
        draws = self.engine.constrain(self.operands, jnp.asarray(found["x"]))
        paths = {n.removeprefix(_PATH): value for n, value in found.items() if n.startswith(_PATH)}
        draws = {name: np.asarray(value) for name, value in {**draws, **paths}.items()}
        return Posterior(
            draws,
            sample_stats={
                "lp": found["log_prior"] + found["log_evidence"],
                "log_evidence": found["log_evidence"],
                "acceptance_rate": found["rates"],
            },
            dims={s.name: s.dims for s in self.program.sites if s.name in draws},
            coords=self.program.unconstrained().coords,
            method=f"PMMH, {self.engine.num} state particles, whose log evidence varies by {self.variance:.2g} nats² "
            "at the posterior mean",
            claim="invariant",
            warnings=tuple(self._notes(found)),
            is_partial=not self.is_finished,
            model=self.program.name,
        )

    def _ends(self) -> np.ndarray:
        return np.cumsum([row["rates"].shape[1] for row in self.rows])

    def _notes(self, found: Arrays) -> list[str]:
        notes = []
        if self.variance > _TOO_NOISY:
            enough = self.engine.num * self.variance / _VARIANCE
            advice = f" to about {enough:.2g}" if np.isfinite(enough) else ""
            notes.append(
                f"The log evidence varies by {self.variance:.2g} nats² at the posterior mean, so chains stick: raise "
                f"num_particles{advice}."
            )
        moved = np.any(found["x"][:, 1:] != found["x"][:, :-1], axis=-1).mean(axis=1)
        stuck = np.flatnonzero(moved == 0)
        notes.extend(f"Chain {chain} accepted no move: it stands where warm-up left it." for chain in stuck)
        wrong = float(found["wrong"].mean())
        if wrong > 0:
            notes.append(
                f"The evidence was NaN at {wrong:.1%} of the proposals, which were refused: log or sqrt of a negative "
                "number, 0/0 or an overflow in the model."
            )
        return notes
