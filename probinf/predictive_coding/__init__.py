"""Networks of beliefs: the generalised Hierarchical Gaussian Filter."""

from probinf.predictive_coding.approximation import divergence_from
from probinf.predictive_coding.comparison import ModelComparison, RandomEffects, compare_models
from probinf.predictive_coding.corrected import CorrectedRun, corrected_filter
from probinf.predictive_coding.evidence import SubjectEvidence, SubjectModel, subject_evidence
from probinf.predictive_coding.families import Family, family
from probinf.predictive_coding.fitting import GroupPrior, group_program, starting_values, subject_program
from probinf.predictive_coding.laws import NetworkLaws
from probinf.predictive_coding.model_recovery import ModelRecovery, recover_models
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
from probinf.predictive_coding.simulated_subjects import simulate_responses
from probinf.predictive_coding.simulation import sample_predictive, simulate
from probinf.predictive_coding.stream import ClosedForm
from probinf.predictive_coding.structure_jump import StructureDraws, jump_structures
from probinf.predictive_coding.structure_learning import StructureSearch, learn_structure
from probinf.predictive_coding.supernetwork import Supernetwork
from probinf.predictive_coding.unbounded import Unbounded
from probinf.predictive_coding.updates import Enhanced, Standard

__all__ = [
    "AbstractResponse",
    "ClosedForm",
    "CorrectedRun",
    "Enhanced",
    "Family",
    "FunctionResponse",
    "GaussianReport",
    "GroupPrior",
    "Mode",
    "ModelComparison",
    "ModelRecovery",
    "MomentMatched",
    "Network",
    "NetworkLaws",
    "NetworkRun",
    "RandomEffects",
    "Recovery",
    "Softmax",
    "Standard",
    "StructureDraws",
    "StructureSearch",
    "SubjectEvidence",
    "SubjectModel",
    "Supernetwork",
    "Unbounded",
    "UnitSquareSigmoid",
    "binary_hgf",
    "categorical_hgf",
    "compare_models",
    "continuous_hgf",
    "corrected_filter",
    "divergence_from",
    "family",
    "group_program",
    "jump_structures",
    "learn_structure",
    "maximum_a_posteriori",
    "plot_beliefs",
    "plot_network",
    "recover",
    "recover_models",
    "rescorla_wagner",
    "response_log_likelihood",
    "sample_predictive",
    "simulate",
    "simulate_responses",
    "social_learning",
    "starting_values",
    "subject_evidence",
    "subject_program",
    "two_armed_bandit",
]
