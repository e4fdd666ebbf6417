"""Networks of beliefs: the generalised Hierarchical Gaussian Filter."""

from probinf.predictive_coding.approximation import divergence_from
from probinf.predictive_coding.families import Family, family
from probinf.predictive_coding.fitting import GroupPrior, group_program, starting_values, subject_program
from probinf.predictive_coding.modes import Mode, maximum_a_posteriori
from probinf.predictive_coding.moment_matching import MomentMatched
from probinf.predictive_coding.network import Network
from probinf.predictive_coding.plots import plot_beliefs, plot_network
from probinf.predictive_coding.premade import (
    binary_hgf,
    categorical_hgf,
    continuous_hgf,
    rescorla_wagner,
    social_learning,
    two_armed_bandit,
)
from probinf.predictive_coding.recovery import Recovery, recover
from probinf.predictive_coding.responses import (
    AbstractResponse,
    FunctionResponse,
    GaussianReport,
    Softmax,
    UnitSquareSigmoid,
    response_log_likelihood,
)
from probinf.predictive_coding.run import NetworkRun
from probinf.predictive_coding.simulation import sample_predictive, simulate
from probinf.predictive_coding.stream import ClosedForm
from probinf.predictive_coding.unbounded import Unbounded
from probinf.predictive_coding.updates import Enhanced, Standard

__all__ = [
    "AbstractResponse",
    "ClosedForm",
    "Enhanced",
    "Family",
    "FunctionResponse",
    "GaussianReport",
    "GroupPrior",
    "Mode",
    "MomentMatched",
    "Network",
    "NetworkRun",
    "Recovery",
    "Softmax",
    "Standard",
    "Unbounded",
    "UnitSquareSigmoid",
    "binary_hgf",
    "categorical_hgf",
    "continuous_hgf",
    "divergence_from",
    "family",
    "group_program",
    "maximum_a_posteriori",
    "plot_beliefs",
    "plot_network",
    "recover",
    "rescorla_wagner",
    "response_log_likelihood",
    "sample_predictive",
    "simulate",
    "social_learning",
    "starting_values",
    "subject_program",
    "two_armed_bandit",
]
