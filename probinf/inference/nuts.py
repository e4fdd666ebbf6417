"""The No-U-Turn sampler as an inference method."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, InferenceError
from probinf.inference.gradient_target import check_init, gradient_target
from probinf.inference.method import AbstractMethod, check_count, check_fraction, check_option
from probinf.inference.nuts_run import Run, bar_for, laplace_geometry, programs_for
from probinf.inference.posterior import Posterior
from probinf.inference.starts import find_starts
from probinf.kernels.adaptation import Metric
from probinf.kernels.chains import ChainMethod
from probinf.kernels.nuts import Draws, Geometry
from probinf.random import as_key


@dataclasses.dataclass(frozen=True)
class NUTS(AbstractMethod):
    """The No-U-Turn sampler with multinomial trajectories: BlackJAX's kernel, Stan's warm-up schedule.

    Args:
        num_warmup: warm-up steps of each chain, discarded. Default 1000, or 400 with the Laplace metric.
        num_draws: steps of each chain after warm-up.
        num_chains: number of chains.
        target_acceptance: mean acceptance rate that the step size is adapted to; nearer 1 for fewer divergences.
        max_tree_depth: at most 2**max_tree_depth - 1 gradients a step.
        dense_metric: `False` learns a scale for each coordinate, `True` the full covariance (up to some hundred
            dimensions), `"laplace"` takes it from the curvature of the log density and learns the step size only: for
            posteriors of many, badly scaled dimensions such as the states of a time series.
        init: `"uniform"` on (-2, 2) in unconstrained space, `"prior"` for draws from the prior, or a dict from each
            latent site to its value, of the site's shape or with a leading axis of length `num_chains`.
        non_centred: names of Normal or MultivariateNormal sites to be sampled through their standardised value: for
            hierarchies and for the states of time series whose noise level is unknown.
        thinning: keep every `thinning`-th draw.
        keep: names of the sites to store; all latent and deterministic ones by default.
        chain_method: `"native"` compiles a chain into one native function and runs chains in threads (CPU);
            `"vectorized"` runs all chains in lockstep; `"auto"` takes the first where it can be compiled and pays.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.

    References:
        Hoffman & Gelman (2014), The No-U-Turn Sampler. Betancourt (2017), A Conceptual Introduction to Hamiltonian
        Monte Carlo, appendix A (multinomial trajectories).
    """

    num_warmup: int | None = None
    num_draws: int = 1000
    num_chains: int = 4
    target_acceptance: float = 0.8
    max_tree_depth: int = 10
    dense_metric: bool | Literal["laplace"] = False
    init: str | Mapping[str, Any] = "uniform"
    non_centred: Sequence[str] = ()
    thinning: int = 1
    keep: Sequence[str] | None = None
    chain_method: ChainMethod = "auto"

    def __post_init__(self) -> None:
        if self.num_warmup is not None:
            check_count("num_warmup", self.num_warmup, minimum=0)
        check_count("num_draws", self.num_draws)
        check_count("num_chains", self.num_chains)
        check_fraction("target_acceptance", self.target_acceptance)
        check_count("max_tree_depth", self.max_tree_depth, maximum=20)
        check_option("dense_metric", self.dense_metric, (False, True, "laplace"))
        check_option("chain_method", self.chain_method, ("auto", "native", "vectorized"))
        check_count("thinning", self.thinning)
        if self.thinning > self.num_draws:
            raise ArgumentError(f"thinning: {self.thinning} keeps none of num_draws={self.num_draws} draws.")
        check_init(self.init)
        for name in ("keep", "non_centred"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    @property
    def _metric(self) -> Metric:
        if self.dense_metric == "laplace":
            return "fixed"
        return "dense" if self.dense_metric else "diagonal"

    @property
    def _num_warmup(self) -> int:
        if self.num_warmup is not None:
            return int(self.num_warmup)
        return 400 if self.dense_metric == "laplace" else 1000

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
        key_start, key_mode, key_chains = jax.random.split(as_key(key, argument="key"), 3)
        target, run = self._prepare(program, list(jax.random.split(key_chains, self.num_chains)))
        layout, programs, operands = run.programs.layout, run.programs, run.operands
        starts = find_starts(programs.starts, target, layout, operands, key_start, self.num_chains, self.init)
        with bar_for(progress, self._num_warmup + self.num_draws, f"NUTS, {self.num_chains} chains") as bar:
            if self.dense_metric == "laplace":
                run.geometry, z = laplace_geometry(programs, target, operands, key_mode, starts)
                run.warm_up_laplace(z, self._num_warmup, bar)
                if run.is_repaired:
                    run.notes.append(
                        "Laplace metric: the mean curvature is not positive definite; is the model proper?"
                    )
            else:
                run.warm_up(jnp.asarray(starts), self._num_warmup, bar)
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
        missing = self.num_draws - posterior.num_draws * self.thinning
        num_draws = check_count("num_draws", max(missing, 0) if num_draws is None else num_draws, minimum=self.thinning)
        stored = posterior.checkpoint
        keys = [jax.random.wrap_key_data(jnp.asarray(data)) for data in stored["keys"]]
        target, run = self._prepare(program, keys)
        dim = run.programs.layout.dim
        was_fixed = stored["scale_0"].size > 0
        if len(keys) != self.num_chains or stored["shift"].shape != (dim,) or was_fixed != (self._metric == "fixed"):
            raise ArgumentError(
                f"posterior: it was made with {len(keys)} chains in {stored['shift'].size} dimensions; this model and "
                f"method have {self.num_chains} chains in {dim} dimensions, dense_metric={self.dense_metric!r}."
            )
        run.restore(stored)
        with bar_for(progress, num_draws, f"NUTS, {self.num_chains} chains") as bar:
            draws = run.draw(num_draws, self.thinning, bar)
        if draws is None:
            raise KeyboardInterrupt("interrupted before the first draw")
        more = self._posterior(target, run, draws, posterior.seconds + time.perf_counter() - started)
        joined = {name: np.concatenate([posterior[name], more[name]], axis=1) for name in more.sites}
        stats = {
            name: np.concatenate([posterior.sample_stats[name], v], axis=1) for name, v in more.sample_stats.items()
        }
        notes = _notes(stats, self.max_tree_depth, run.notes)
        return dataclasses.replace(more, draws=joined, sample_stats=stats, warnings=notes)

    def _prepare(self, program: Any, keys: list[jax.Array]) -> tuple[Any, Run]:
        target = gradient_target(program, "NUTS", self.non_centred, self.keep)
        operands = jax.tree.map(jnp.asarray, target.operands)
        programs = programs_for(
            target, operands, self.num_chains, self._metric, int(self.max_tree_depth), self.chain_method
        )
        layout = programs.layout
        geometry = Geometry(jnp.zeros(layout.dim, layout.dtype), jnp.zeros(0, layout.dtype))
        return target, Run(programs, operands, keys, float(self.target_acceptance), geometry)

    def _posterior(self, target: Any, run: Run, draws: Draws, seconds: float) -> Posterior:
        stats = {name: np.asarray(value) for name, value in draws._asdict().items() if name != "x"}
        stats["reached_max_treedepth"] = stats["tree_depth"] >= self.max_tree_depth
        values = run.constrain(np.asarray(draws.x), self.keep)
        if run.is_interrupted:
            done = draws.lp.shape[1] * self.thinning
            run.notes.insert(0, f"Interrupted after {done} of {self.num_draws} draws; NUTS.resume continues.")
        metric = {False: "diagonal metric", True: "dense metric", "laplace": "Laplace metric"}[self.dense_metric]
        how = "native" if run.chains.is_native else "vectorized"
        return Posterior(
            draws=values,
            sample_stats=stats,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=f"NUTS, {metric}, {self._num_warmup} warm-up steps, {how} chains",
            claim="invariant",
            warnings=_notes(stats, self.max_tree_depth, run.notes),
            seconds=seconds,
            is_partial=run.is_interrupted,
            checkpoint=run.checkpoint(),
            model=target.name,
        )


def _notes(stats: Mapping[str, np.ndarray], max_tree_depth: int, others: Sequence[str]) -> tuple[str, ...]:
    """Reasons for caution that the sampler itself knows."""
    notes = list(others)
    divergences = int(stats["diverging"].sum())
    if divergences:
        notes.append(
            f"{divergences} divergent transition(s): the sampler may be missing regions of high curvature; raise "
            "target_acceptance or reparameterise."
        )
    capped = float(np.mean(stats["reached_max_treedepth"]))
    if capped > 0.01:
        notes.append(f"{capped:.0%} of the trees reached max_tree_depth={max_tree_depth}: slow mixing.")
    if not np.all(np.isfinite(stats["lp"])):
        raise InferenceError("The log density of a draw is not finite: the run is not usable.")
    return tuple(notes)
