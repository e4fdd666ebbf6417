"""MCMC by any kernel, or composition of kernels, on the traces of any program."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.outcomes import answer
from probinf.inference.posterior import Posterior
from probinf.kernels.chains import cached, counted
from probinf.kernels.kernel import Kernel
from probinf.kernels.running import find_starts, require_starts, run_chains
from probinf.language.program import Program
from probinf.random import as_key
from probinf.runs import Checkpoint, Loop
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked
from probinf.transformations.traces import Trace, Traced

_PIECES = 20  # an interrupt waits for at most this share of the run
_VALUE = "value/"


class _Compiled:
    """The two compiled pieces of a run: starts, and so many kept steps of all chains."""

    def __init__(self, method: MCMC, target: Any, size: int) -> None:
        def starts(operands: Any, key: jax.Array) -> Trace:
            return find_starts(target.at(operands), key, method.num_chains)

        def piece(operands: Any, states: Trace, key: jax.Array) -> tuple[Trace, Any, jax.Array]:
            here = target.at(operands)
            keep = here.result_of if method.report == "result" else here.values_of
            return run_chains(method.kernel, here, states, key, size, thin=method.thin, keep=keep)

        self.starts, self.piece = counted(starts), counted(piece)


@dataclasses.dataclass(frozen=True)
class MCMC(AbstractMethod):
    """Markov chain Monte Carlo with a kernel of your own making.

    Works on every program, whatever it branches on or draws: `pi.MCMC(pi.trace_mh())`. Sites named in `values` may be
    moved locally: `pi.MCMC(pi.random_walk(0.3), values=("mu", "sigma"))`.

    Args:
        kernel: one step of a chain.
        num_draws: kept draws of each chain.
        num_warmup: steps (times `thin`) before the first kept draw.
        num_chains: chains, side by side in one compiled program.
        thin: steps per kept draw.
        values: names of sites that hold values, for moves that look at values.
        target: how to see the program as a target; `Traced(program, values=values)` by default.
        report: "sites" for the values of all named sites; "result" for what the program returns, a dict of arrays.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
    """

    kernel: Kernel
    num_draws: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    thin: int = 1
    values: tuple[str, ...] = ()
    target: Callable[[Program], Any] | None = None
    report: str = "sites"

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise ArgumentTypeError(
                f"kernel: expected a kernel such as pi.trace_mh(), found {self.kernel!r} of type "
                f"{type(self.kernel).__name__}."
            )
        check_count("num_draws", self.num_draws, minimum=4)
        check_count("num_warmup", self.num_warmup, minimum=0)
        check_count("num_chains", self.num_chains)
        check_count("thin", self.thin)
        if self.report not in ("sites", "result"):
            raise ArgumentError(f"report: expected 'sites' or 'result', found {self.report!r}.")
        if isinstance(self.values, str):
            object.__setattr__(self, "values", (self.values,))

    def run(
        self,
        program: Program,
        key: Any,
        *,
        progress: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ) -> Posterior:
        """Draw from the posterior.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the draws made so far. With a checkpoint
        the same call goes on from there.

        Raises:
            InferenceError: no execution with positive weight was found to start from.
            ModelError: the kernel cannot move this program; the message says why.
            CheckpointError: the folder cannot be used, or belongs to another run.
        """
        key = as_key(key, argument="key")
        loop = MCMCLoop(self, program, key)
        settings = {"progress": progress, "checkpoint": checkpoint}
        return answer(loop, self, program, key, **settings, so_far=lambda: f"after {loop.done} of {loop.total} steps")


class MCMCLoop(Loop):
    """All chains between two pieces of a run.

    Args:
        method: the settings.
        program: the program.
        key: one key for the whole run.
    """

    def __init__(self, method: MCMC, program: Program, key: jax.Array) -> None:
        self.label, self.method, self.program = method.kernel.name, method, program
        self.target = Traced(program, values=method.values) if method.target is None else method.target(program)
        self._key_start, self._key_steps = jax.random.split(key)
        self.size = max(1, -(-self.total // _PIECES))
        settings = (method.kernel, method.values, method.target, method.report, method.num_chains, method.thin)
        self.compiled: _Compiled = cached(
            ("mcmc", program.staged, settings, self.size), lambda: _Compiled(method, self.target, self.size)
        )
        self.states: Any = None
        self.rows: list[Arrays] = []

    @property
    def done(self) -> int:
        return min(len(self.rows) * self.size, self.total)

    @property
    def total(self) -> int:
        return self.method.num_draws + self.method.num_warmup

    @property
    def is_finished(self) -> bool:
        return self.done >= self.total

    def start(self) -> None:
        self.states = self.compiled.starts(self.target.operands, self._key_start)
        require_starts(self.states)

    def advance(self) -> Mapping[str, Any]:
        key = jax.random.fold_in(self._key_steps, len(self.rows) * self.size)
        self.states, kept, rates = self.compiled.piece(self.target.operands, self.states, key)
        row = {f"{_VALUE}{name}": np.asarray(value) for name, value in kept.items()}
        self.rows.append({**row, "rates": np.asarray(rates)})
        return {"accepted": float(np.mean(self.rows[-1]["rates"]))}

    def state(self) -> dict[str, np.ndarray]:
        return packed(self.states, "states")

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        template = jax.eval_shape(self.compiled.starts, self.target.operands, self._key_start)
        self.states, self.rows = unpacked(template, state, "states"), list(rows)

    def result(self) -> Posterior | None:
        return self.posterior() if self.done > self.method.num_warmup else None

    def posterior(self) -> Posterior:
        """The draws so far."""
        method, program = self.method, self.program
        joined = {name: np.concatenate([row[name] for row in self.rows]) for name in self.rows[0]}
        wanted = slice(method.num_warmup, self.total)
        draws = {n.removeprefix(_VALUE): np.swapaxes(v[wanted], 0, 1) for n, v in joined.items() if n != "rates"}
        rates = np.swapaxes(joined["rates"][wanted], 0, 1)
        warnings = []
        for chain, rate in enumerate(rates.mean(axis=1)):
            if rate == 0:
                warnings.append(f"Chain {chain} accepted no move: it stands where it started.")
        if method.kernel.claim is Claim.APPROXIMATE:
            warnings.append(f"{method.kernel.name} is approximate: correct it by an accept step.")
        return Posterior(
            draws,
            sample_stats={"acceptance_rate": rates},
            dims={s.name: s.dims for s in program.sites if s.name in draws and len(s.dims) == draws[s.name].ndim - 2},
            method=f"MCMC, {method.kernel.name}",
            claim=str(method.kernel.claim),
            warnings=tuple(warnings),
            is_partial=not self.is_finished,
            model=program.name,
        )
