"""MCMC by any kernel, or composition of kernels, on the traces of any program."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.posterior import Posterior
from probinf.kernels.chains import cached, counted
from probinf.kernels.kernel import Kernel
from probinf.kernels.running import find_starts, require_starts, run_chains
from probinf.language.program import Program
from probinf.progress import Progress
from probinf.random import as_key
from probinf.transformations.traces import Trace, Traced

_PIECES = 20  # an interrupt waits for at most this share of the run


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

    def run(self, program: Program, key: Any, *, progress: bool = False) -> Posterior:
        """Draw from the posterior.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the draws made so far.

        Raises:
            InferenceError: no execution with positive weight was found to start from.
            ModelError: the kernel cannot move this program; the message says why.
        """
        began = time.perf_counter()
        key = as_key(key, argument="key")
        target = Traced(program, values=self.values) if self.target is None else self.target(program)
        key_start, key_steps = jax.random.split(key)
        size = max(1, -(-(self.num_draws + self.num_warmup) // _PIECES))
        compiled = self._compiled(program, target, size)
        states = compiled.starts(target.operands, key_start)
        require_starts(states)
        pieces: list[Any] = []
        done, total = 0, self.num_draws + self.num_warmup
        try:
            with Progress(total, self.kernel.name) if progress else contextlib.nullcontext() as bar:
                while done < total:
                    states, kept, rates = compiled.piece(target.operands, states, jax.random.fold_in(key_steps, done))
                    pieces.append(jax.tree.map(np.asarray, (kept, rates)))
                    done += size
                    if bar is not None:
                        bar.update(min(size, total - done + size), accepted=float(np.mean(pieces[-1][1])))
        except KeyboardInterrupt as stop:
            error = InferenceError(f"MCMC was interrupted after {done} of {total} steps.")
            if done > self.num_warmup:
                error.partial = self._posterior(program, pieces, began, is_partial=True)
            raise error from stop
        return self._posterior(program, pieces, began)

    def _compiled(self, program: Program, target: Any, size: int) -> _Compiled:
        """Compiled once for a program, a kernel and sizes: new data and seeds use it again."""
        settings = (self.kernel, self.values, self.target, self.report, self.num_chains, self.thin, size)
        return cached(("mcmc", program.staged, settings), lambda: _Compiled(self, target, size))

    def _posterior(self, program: Program, pieces: list, began: float, *, is_partial: bool = False) -> Posterior:
        kept, rates = jax.tree.map(lambda *xs: np.concatenate(xs), *pieces)
        last = self.num_warmup + self.num_draws
        draws = {n: np.swapaxes(v[self.num_warmup : last], 0, 1) for n, v in kept.items()}
        rates = np.swapaxes(rates[self.num_warmup : last], 0, 1)
        warnings = []
        for chain, rate in enumerate(rates.mean(axis=1)):
            if rate == 0:
                warnings.append(f"Chain {chain} accepted no move: it stands where it started.")
        if self.kernel.claim is Claim.APPROXIMATE:
            warnings.append(f"{self.kernel.name} is approximate: correct it by an accept step.")
        return Posterior(
            draws,
            sample_stats={"acceptance_rate": rates},
            dims={s.name: s.dims for s in program.sites if s.name in draws and len(s.dims) == draws[s.name].ndim - 2},
            method=f"MCMC, {self.kernel.name}",
            claim=str(self.kernel.claim),
            warnings=tuple(warnings),
            seconds=time.perf_counter() - began,
            is_partial=is_partial,
            model=program.name,
        )
