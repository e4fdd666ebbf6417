"""Deep predictive-coding networks: layers that predict each other, relaxed by energy, trained locally."""

from probinf.predictive_coding.deep.clamping import Clamp
from probinf.predictive_coding.deep.energy import (
    AbstractEnergy,
    Bernoulli,
    CrossEntropy,
    FunctionEnergy,
    Gaussian,
    NoEnergy,
)
from probinf.predictive_coding.deep.incremental import Incremental
from probinf.predictive_coding.deep.layered_hgf import LayeredHGF, layered_hgf
from probinf.predictive_coding.deep.layered_hgf_learning import ClosedFormLearning
from probinf.predictive_coding.deep.layers import Dense, FlaxLayer, Residual
from probinf.predictive_coding.deep.learning import AbstractRule, AfterInference
from probinf.predictive_coding.deep.linear_exact import ExactLinear
from probinf.predictive_coding.deep.memory import recall, reconstruct
from probinf.predictive_coding.deep.mupc import mupc, mupc_scales
from probinf.predictive_coding.deep.network import DeepNetwork, mlp, trainable
from probinf.predictive_coding.deep.nudging import CentredNudging
from probinf.predictive_coding.deep.plots import plot_energies, plot_images
from probinf.predictive_coding.deep.relaxation import (
    AbstractRelaxation,
    Equilibrium,
    FixedSteps,
    RelaxationInfo,
    ToConvergence,
    relax,
)
from probinf.predictive_coding.deep.training import Trained, Training, one_hot, train

__all__ = [
    "AbstractEnergy",
    "AbstractRelaxation",
    "AbstractRule",
    "AfterInference",
    "Bernoulli",
    "CentredNudging",
    "Clamp",
    "ClosedFormLearning",
    "CrossEntropy",
    "DeepNetwork",
    "Dense",
    "Equilibrium",
    "ExactLinear",
    "FixedSteps",
    "FlaxLayer",
    "FunctionEnergy",
    "Gaussian",
    "Incremental",
    "LayeredHGF",
    "NoEnergy",
    "RelaxationInfo",
    "Residual",
    "ToConvergence",
    "Trained",
    "Training",
    "layered_hgf",
    "mlp",
    "mupc",
    "mupc_scales",
    "one_hot",
    "plot_energies",
    "plot_images",
    "recall",
    "reconstruct",
    "relax",
    "train",
    "trainable",
]
