"""ChEES-HMC as an inference method: an ensemble of chains that adapts together."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, InferenceError
from probinf.inference.ensemble_run import EnsembleRun, programs_for
from probinf.inference.gradient_target import check_init, gradient_target
from probinf.inference.method import AbstractMethod, check_count, check_fraction
from probinf.inference.nuts_run import bar_for
from probinf.inference.posterior import Posterior
from probinf.inference.starts import find_starts
from probinf.kernels.chees import EnsembleDraws
from probinf.random import as_key

_FEWEST_CHAINS = 4


@dataclasses.dataclass(frozen=True)
class ChEES(AbstractMethod):
    """Hamiltonian Monte Carlo of many chains that share step size, diagonal metric and trajectory length.

    All chains take the same number of leapfrog steps, so one gradient of the ensemble is one batch: for regressions one
    matrix product. The length is learned by maximising the change in squared distance from the mean (ChEES), the step
    size by the harmonic mean of the acceptance rates.

    Args:
        num_warmup: warm-up steps of each chain, discarded. Pooling makes a short warm-up enough.
        num_draws: steps of each chain after warm-up.
        num_chains: number of chains, at least 4; what is learned is learned from all of them.
        target_acceptance: harmonic mean over chains of the acceptance rate; the arithmetic mean lies above it.
        max_leapfrogs: at most so many gradients in a step.
        init: `"uniform"` on (-2, 2) in unconstrained space, `"prior"` for draws from the prior, or a dict from each
            latent site to its value, of the site's shape or with a leading axis of length `num_chains`.
        non_centred: names of Normal or MultivariateNormal sites to be sampled through their standardised value.
        thinning: keep every `thinning`-th draw.
        keep: names of the sites to store; all latent and deterministic ones by default.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.

    References:
        Hoffman, Radul & Sountsov (2021), An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte
        Carlo. The metric is that of Seyboldt, Carlson & Carpenter (2026), pooled over the ensemble.
    """

    num_warmup: int = 400
    num_draws: int = 500
    num_chains: int = 64
    target_acceptance: float = 0.651
    max_leapfrogs: int = 1000
    init: str | Mapping[str, Any] = "uniform"
    non_centred: Sequence[str] = ()
    thinning: int = 1
    keep: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_count("num_warmup", self.num_warmup, minimum=0)
        check_count("num_draws", self.num_draws)
        check_count("num_chains", self.num_chains, minimum=_FEWEST_CHAINS)
        check_fraction("target_acceptance", self.target_acceptance)
        check_count("max_leapfrogs", self.max_leapfrogs)
        check_count("thinning", self.thinning)
        if self.thinning > self.num_draws:
            raise ArgumentError(f"thinning: {self.thinning} keeps none of num_draws={self.num_draws} draws.")
        check_init(self.init)
        for name in ("keep", "non_centred"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    def run(self, program: Any, key: int | jax.Array, *, progress: bool = False) -> Posterior:
        """Warm up and draw.

        Ctrl-C during warm-up ends the run; while drawing, it returns the draws made so far as a posterior with
        `is_partial` set, which `resume` can continue.

        Args:
            program: a program, data given.
            key: seed or key.
            progress: show a bar.

        Raises:
            ModelError: the program has discrete latent sites, or none at all.
            InferenceError: no legal start was found.
            ArgumentError: `init` is outside the support.
            UnknownNameError: `init` or `keep` names no site.
        """
        started = time.perf_counter()
        with bar_for(progress, self.num_warmup + self.num_draws, f"ChEES, {self.num_chains} chains") as bar:
            target, run, _ = self.warm_up(program, key, bar)
            return self.finish(target, run, bar, started)

    def warm_up(self, program: Any, key: int | jax.Array, bar: Any) -> tuple[Any, EnsembleRun, EnsembleDraws | None]:
        """The first half of `run`: the target, the run after warm-up, and the steps of warm-up's last segment."""
        key_start, key_steps = jax.random.split(as_key(key, argument="key"))
        target, run = self._prepare(program, key_steps)
        programs = run.programs
        starts = find_starts(
            programs.starts, target, programs.layout, run.operands, key_start, self.num_chains, self.init
        )
        return target, run, run.warm_up(starts.astype(programs.layout.dtype), self.num_warmup, bar)

    def finish(self, target: Any, run: EnsembleRun, bar: Any, started: float) -> Posterior:
        """The second half of `run`: draw, and say what was found."""
        draws = run.draw(self.num_draws, self.thinning, bar)
        if draws is None:
            raise KeyboardInterrupt("interrupted before the first draw")
        return self._posterior(target, run, draws, time.perf_counter() - started)

    def resume(
        self, program: Any, posterior: Posterior, num_draws: int | None = None, *, progress: bool = False
    ) -> Posterior:
        """Continue a run without a new warm-up: the earlier draws and `num_draws` further steps of each chain.

        The draws are those that an uninterrupted run would have made.

        Args:
            program: the program of the earlier run.
            posterior: the result of `run` with the same settings, interrupted or not, possibly loaded from a file.
            num_draws: steps to add; by default what an interrupted run still lacks.
            progress: show a bar.

        Raises:
            ArgumentError: the posterior cannot be continued by this method with these settings.
        """
        started = time.perf_counter()
        if posterior.checkpoint is None:
            raise ArgumentError("posterior: it holds no checkpoint, so it cannot be continued; run it again.")
        if "key" not in posterior.checkpoint:
            raise ArgumentError("posterior: it was not made by ChEES, so this method cannot continue it.")
        missing = self.num_draws - posterior.num_draws * self.thinning
        num_draws = check_count("num_draws", max(missing, 0) if num_draws is None else num_draws, minimum=self.thinning)
        key = jax.random.wrap_key_data(jnp.asarray(posterior.checkpoint["key"]))
        target, run = self._prepare(program, key)
        run.restore(posterior.checkpoint, self.num_chains)
        with bar_for(progress, num_draws, f"ChEES, {self.num_chains} chains") as bar:
            draws = run.draw(num_draws, self.thinning, bar)
        if draws is None:
            raise KeyboardInterrupt("interrupted before the first draw")
        more = self._posterior(target, run, draws, posterior.seconds + time.perf_counter() - started)
        values = {name: np.concatenate([posterior[name], more[name]], axis=1) for name in more.sites}
        stats = {
            name: np.concatenate([posterior.sample_stats[name], v], axis=1) for name, v in more.sample_stats.items()
        }
        return dataclasses.replace(more, draws=values, sample_stats=stats, warnings=self._notes(stats, run))

    def _prepare(self, program: Any, key: jax.Array) -> tuple[Any, EnsembleRun]:
        target = gradient_target(program, "ChEES", self.non_centred, self.keep)
        operands = jax.tree.map(jnp.asarray, target.operands)
        programs = programs_for(target, operands, int(self.max_leapfrogs))
        return target, EnsembleRun(programs, operands, key, float(self.target_acceptance))

    def _posterior(self, target: Any, run: EnsembleRun, draws: EnsembleDraws, seconds: float) -> Posterior:
        shape = draws.lp.shape
        rows = {
            n: v if v.ndim == 2 else np.broadcast_to(v[:, None], shape) for n, v in draws._asdict().items() if n != "x"
        }
        stats = {name: np.swapaxes(value, 0, 1) for name, value in rows.items()}
        values = run.constrain(np.asarray(draws.x), self.keep)
        assert run.state is not None
        length = float(np.exp(run.state.trajectory.log_length_average))
        return Posterior(
            draws=values,
            sample_stats=stats,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=f"ChEES, diagonal metric, {self.num_warmup} warm-up steps, trajectories up to {length:.2g}",
            claim="invariant",
            warnings=self._notes(stats, run),
            seconds=seconds,
            is_partial=run.is_interrupted,
            checkpoint=run.checkpoint(),
            model=target.name,
        )

    def _notes(self, stats: Mapping[str, np.ndarray], run: EnsembleRun) -> tuple[str, ...]:
        """Reasons for caution that the sampler itself knows."""
        notes = []
        if not np.all(np.isfinite(stats["lp"])):
            raise InferenceError("The log density of a draw is not finite: the run is not usable.")
        if run.is_interrupted:
            done = stats["lp"].shape[1] * self.thinning
            notes.append(f"Interrupted after {done} of {self.num_draws} draws; ChEES.resume continues.")
        divergences = int(stats["diverging"].sum())
        if divergences:
            notes.append(
                f"{divergences} divergent transition(s): the sampler may be missing regions of high curvature; raise "
                "target_acceptance or reparameterise."
            )
        capped = float(np.mean(stats["n_steps"] >= self.max_leapfrogs))
        if self.max_leapfrogs > 1 and capped > 0.01:
            notes.append(f"{capped:.0%} of the trajectories reached max_leapfrogs={self.max_leapfrogs}: slow mixing.")
        return tuple(notes)
