"""Sequential Bayes over tasks by sampling all weights of a small network.

The posterior after a task is the prior of the next: kept as a fitted density (`PosteriorAsPrior`), as particles with
the data (`TaskSMC`), or made anew from all data, the oracle (`JointSampling`).
"""

from continual.sequential_sampling.densities import AbstractEstimator as AbstractEstimator
from continual.sequential_sampling.densities import Aligned as Aligned
from continual.sequential_sampling.densities import GaussianEstimator as GaussianEstimator
from continual.sequential_sampling.densities import MixtureEstimator as MixtureEstimator
from continual.sequential_sampling.flow import FlowEstimator as FlowEstimator
from continual.sequential_sampling.joint import JointSampling as JointSampling
from continual.sequential_sampling.posterior_as_prior import PosteriorAsPrior as PosteriorAsPrior
from continual.sequential_sampling.task_smc import TaskSMC as TaskSMC
from continual.sequential_sampling.weight_models import AbstractWeightModel as AbstractWeightModel
from continual.sequential_sampling.weight_models import LinearGaussian as LinearGaussian
from continual.sequential_sampling.weight_models import SoftmaxNetwork as SoftmaxNetwork
