"""Sequential Monte Carlo: filters for streams, samplers for programs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "BackwardSampling": "smc.smoothing.backward_sampling",
    "FixedLag": "smc.smoothing.fixed_lag",
    "Lagged": "smc.smoothing.fixed_lag",
    "smooth_fixed_lag": "smc.smoothing.fixed_lag",
    "AdditiveSmoothing": "smc.smoothing.paris",
    "smooth_additive": "smc.smoothing.paris",
    "island_filter": "smc.islands",
    "Genealogy": "smc.smoothing.genealogy",
    "MarginalSmoothing": "smc.smoothing.marginal",
    "Smoothed": "smc.smoothing.smooth",
    "smooth": "smc.smoothing.smooth",
    "SmoothingMethod": "smc.smoothing.method",
    "TwoFilter": "smc.smoothing.two_filter",
    "Bootstrap": "smc.proposals",
    "ConditionallyLinear": "smc.conditionally_linear",
    "EnsembleKalmanFilter": "smc.ensemble",
    "FilterRun": "smc.filtering",
    "Gaussian": "smc.conditionally_linear",
    "GaussianSum": "smc.gaussian_sum",
    "Guided": "smc.proposals",
    "InteractingMultipleModels": "smc.interacting",
    "LinearGaussian": "smc.conditionally_linear",
    "SmoothedPath": "smc.parallel_in_time",
    "kalman_smoother": "smc.parallel_in_time",
    "Linearised": "smc.proposals",
    "LiuWestRun": "smc.liu_west",
    "Proposal": "smc.proposals",
    "StateSpaceModel": "smc.state_space_model",
    "filter_program": "smc.filtering",
    "particle_filter": "smc.filtering",
    "EKF": "smc.extended",
    "ParticleFilter": "smc.particles",
    "RaoBlackwellRun": "smc.rao_blackwell",
    "RegularisedParticleFilter": "smc.regularised",
    "rao_blackwell_filter": "smc.rao_blackwell",
    "rao_blackwell_program": "smc.rao_blackwell",
    "learn_online": "smc.liu_west",
    "Population": "probinf.representations.population",
    "Resampling": "probinf.transformations.population",
    "SCHEMES": "probinf.transformations.resampling",
    "SMC": "smc.method",
    "PMMH": "smc.pmmh_method",
    "SMC2": "smc.smc2",
    "TemperedSMC": "smc.tempered",
    "UKF": "smc.unscented",
    "differentiable_log_evidence": "smc.differentiable",
    "effective_sample_size": "probinf.transformations.resampling",
    "history": "smc.evidence",
    "population": "probinf.transformations.algorithms",
    "marginal": "smc.compositions",
    "particle_marginal": "smc.compositions",
    "pmmh": "smc.compositions",
    "pimh": "smc.compositions",
    "particle_gibbs": "smc.compositions",
    "smc_squared": "smc.compositions",
    "ibis": "smc.compositions",
    "spawn": "smc.pipeline",
    "resample": "smc.pipeline",
    "move": "smc.pipeline",
    "at_each_observation": "smc.pipeline",
    "finish": "smc.pipeline",
    "Algorithm": "smc.pipeline",
    "transport": "smc.optimal_transport",
    "without_its_value": "smc.differentiable",
    "waste_free": "smc.waste_free_sampler",
    "BlackBox": "smc.steering.box",
    "Budget": "smc.steering.core",
    "EntropicAnnealing": "smc.steering.annealing",
    "FloorAnnealing": "smc.steering.annealing",
    "Potential": "smc.steering.potential",
    "Resampler": "smc.steering.resampler",
    "SteeringRun": "smc.steering.run",
    "bootstrap_resampler": "smc.steering.resampler",
    "entropic_particle_filter": "smc.steering.resampler",
    "Sweeps": "smc.steering.sweeps",
    "each": "smc.steering.calls",
    "gibbs_sweeps": "smc.steering.sweeps",
    "seeds_of": "smc.steering.box",
    "steer": "smc.steering.steer",
    "Beam": "smc.steering.search_rules",
    "DiverseTree": "smc.steering.search_rules",
    "Halving": "smc.steering.search_rules",
    "greedy": "smc.steering.baselines",
    "best_of_n": "smc.steering.baselines",
    "beam_search": "smc.steering.baselines",
    "diverse_tree_search": "smc.steering.baselines",
    "best_first_search": "smc.steering.best_first",
    "refine": "smc.steering.refinement",
    "adaptive_best_of_n": "smc.steering.adaptive",
    "allocate": "smc.steering.allocation",
    "expected_coverage": "smc.steering.allocation",
    "fit_scaling": "smc.steering.scaling",
    "steer_without_replacement": "smc.steering.without_replacement",
    "check_potential": "smc.steering.check_potential",
    "tempered_sweeps": "smc.steering.sweeps",
}

__all__ = [*sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import smc` stays quick."""
    if name not in _WHERE:
        raise AttributeError(f"module 'smc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from probinf.representations.population import Population
    from probinf.transformations.algorithms import population
    from probinf.transformations.population import Resampling
    from probinf.transformations.resampling import SCHEMES, effective_sample_size
    from smc.compositions import ibis, marginal, particle_gibbs, particle_marginal, pimh, pmmh, smc_squared
    from smc.conditionally_linear import ConditionallyLinear, Gaussian, LinearGaussian
    from smc.differentiable import differentiable_log_evidence, without_its_value
    from smc.ensemble import EnsembleKalmanFilter
    from smc.evidence import history
    from smc.extended import EKF
    from smc.filtering import FilterRun, filter_program, particle_filter
    from smc.gaussian_sum import GaussianSum
    from smc.interacting import InteractingMultipleModels
    from smc.islands import island_filter
    from smc.liu_west import LiuWestRun, learn_online
    from smc.method import SMC
    from smc.optimal_transport import transport
    from smc.parallel_in_time import SmoothedPath, kalman_smoother
    from smc.particles import ParticleFilter
    from smc.pipeline import Algorithm, at_each_observation, finish, move, resample, spawn
    from smc.pmmh_method import PMMH
    from smc.proposals import Bootstrap, Guided, Linearised, Proposal
    from smc.rao_blackwell import RaoBlackwellRun, rao_blackwell_filter, rao_blackwell_program
    from smc.regularised import RegularisedParticleFilter
    from smc.smc2 import SMC2
    from smc.smoothing.backward_sampling import BackwardSampling
    from smc.smoothing.fixed_lag import FixedLag, Lagged, smooth_fixed_lag
    from smc.smoothing.genealogy import Genealogy
    from smc.smoothing.marginal import MarginalSmoothing
    from smc.smoothing.method import SmoothingMethod
    from smc.smoothing.paris import AdditiveSmoothing, smooth_additive
    from smc.smoothing.smooth import Smoothed, smooth
    from smc.smoothing.two_filter import TwoFilter
    from smc.state_space_model import StateSpaceModel
    from smc.steering.adaptive import adaptive_best_of_n
    from smc.steering.allocation import allocate, expected_coverage
    from smc.steering.annealing import EntropicAnnealing, FloorAnnealing
    from smc.steering.baselines import beam_search, best_of_n, diverse_tree_search, greedy
    from smc.steering.best_first import best_first_search
    from smc.steering.box import BlackBox, seeds_of
    from smc.steering.calls import each
    from smc.steering.check_potential import check_potential
    from smc.steering.core import Budget
    from smc.steering.potential import Potential
    from smc.steering.refinement import refine
    from smc.steering.resampler import Resampler, bootstrap_resampler, entropic_particle_filter
    from smc.steering.run import SteeringRun
    from smc.steering.scaling import fit_scaling
    from smc.steering.search_rules import Beam, DiverseTree, Halving
    from smc.steering.steer import steer
    from smc.steering.sweeps import Sweeps, gibbs_sweeps, tempered_sweeps
    from smc.steering.without_replacement import steer_without_replacement
    from smc.tempered import TemperedSMC
    from smc.unscented import UKF
    from smc.waste_free_sampler import waste_free
