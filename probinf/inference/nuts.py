"""The No-U-Turn sampler as an inference method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from probinf.errors import ArgumentError
from probinf.inference.gradient_method import AbstractGradientMethod, divergence_notes
from probinf.inference.gradient_target import check_init, gradient_target
from probinf.inference.method import check_count, check_fraction, check_option
from probinf.inference.nuts_run import NUTSLoop
from probinf.inference.posterior import Posterior
from probinf.kernels.adaptation import Metric
from probinf.kernels.chains import ChainMethod
from probinf.kernels.nuts import Draws


@dataclasses.dataclass(frozen=True)
class NUTS(AbstractGradientMethod):
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
    def metric(self) -> Metric:
        """What warm-up learns about the scale."""
        if self.dense_metric == "laplace":
            return "fixed"
        return "dense" if self.dense_metric else "diagonal"

    @property
    def warmup(self) -> int:
        """Steps of warm-up, the default filled in."""
        if self.num_warmup is not None:
            return int(self.num_warmup)
        return 400 if self.dense_metric == "laplace" else 1000

    def loop(self, program: Any, key: jax.Array) -> NUTSLoop:
        return NUTSLoop(self, gradient_target(program, "NUTS", self.non_centred, self.keep), key)

    def check_restorable(self, loop: NUTSLoop, stored: Mapping[str, np.ndarray]) -> None:
        dim = loop.programs.layout.dim
        if "shift" not in stored or "keys_0" not in stored:
            raise ArgumentError("posterior: it was not made by NUTS, so this method cannot continue it.")
        num_chains, was_fixed = len(stored["keys_0"]), stored["scale_0"].size > 0
        if (
            num_chains != self.num_chains
            or stored["shift"].shape != (dim,)
            or was_fixed != (self.metric == "fixed")
            or int(stored["next_step"]) < loop.num_warmup
        ):
            raise ArgumentError(
                f"posterior: it was made with {num_chains} chains in {stored['shift'].size} dimensions; this model and "
                f"method have {self.num_chains} chains in {dim} dimensions, dense_metric={self.dense_metric!r}."
            )

    def posterior_of(self, loop: NUTSLoop, draws: Draws, values: Mapping[str, np.ndarray], how: str) -> Posterior:
        """The posterior of some draws, `values` the sites' at their positions."""
        target = loop.target
        stats = {name: np.asarray(value) for name, value in draws._asdict().items() if name != "x"}
        stats["reached_max_treedepth"] = stats["tree_depth"] >= self.max_tree_depth
        metric = {False: "diagonal metric", True: "dense metric", "laplace": "Laplace metric"}[self.dense_metric]
        return Posterior(
            draws=values,
            sample_stats=stats,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=f"NUTS, {metric}, {self.warmup} warm-up steps, {how} chains",
            claim="invariant",
            warnings=self.notes(loop, stats),
            is_partial=loop.is_partial,
            checkpoint=loop.state(),
            model=target.name,
        )

    def notes(self, loop: NUTSLoop, stats: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        notes = divergence_notes(stats)
        if loop.is_repaired:
            notes.append("Laplace metric: the mean curvature is not positive definite; is the model proper?")
        capped = float(np.mean(stats["reached_max_treedepth"]))
        if capped > 0.01:
            notes.append(f"{capped:.0%} of the trees reached max_tree_depth={self.max_tree_depth}: slow mixing.")
        return tuple(notes)
