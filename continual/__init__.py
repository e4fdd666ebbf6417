"""Learning that goes on while tasks arrive: streams of tasks, Bayesian learners that must not forget, and the metrics.

A learner answers the streaming protocol of the filters, with the index of a task or batch as time: `start`, `predict`,
`update`, and `predictor` for class probabilities. The package may import `probinf` and `smc`, never `transformers_gmm`.
"""

from continual.datasets import Dataset as Dataset
from continual.datasets import load as load
from continual.export import as_table as as_table
from continual.export import write_csv as write_csv
from continual.export import write_json as write_json
from continual.features import Pixels as Pixels
from continual.features import RandomFourier as RandomFourier
from continual.features import RandomPatches as RandomPatches
from continual.features import Whitening as Whitening
from continual.heads import BayesianLinearHead as BayesianLinearHead
from continual.heads import NormalInverseWishart as NormalInverseWishart
from continual.heads import SharedCovarianceGaussian as SharedCovarianceGaussian
from continual.learner import AbstractLearner as AbstractLearner
from continual.learner import AbstractPredictor as AbstractPredictor
from continual.learner import Featured as Featured
from continual.learner import UpdateInfo as UpdateInfo
from continual.metrics import Summary as Summary
from continual.metrics import over_seeds as over_seeds
from continual.metrics import summarise as summarise
from continual.regression import BayesianLinearRegression as BayesianLinearRegression
from continual.running import Result as Result
from continual.running import run as run
from continual.strategies import EWC as EWC
from continual.strategies import VCL as VCL
from continual.strategies import BalancedMemory as BalancedMemory
from continual.strategies import FineTuning as FineTuning
from continual.strategies import FlaxNetwork as FlaxNetwork
from continual.strategies import FunctionSpaceVI as FunctionSpaceVI
from continual.strategies import GDumb as GDumb
from continual.strategies import Joint as Joint
from continual.strategies import Laplace as Laplace
from continual.strategies import PredictiveCoding as PredictiveCoding
from continual.strategies import ProtoCL as ProtoCL
from continual.strategies import ReleasedProtoCL as ReleasedProtoCL
from continual.strategies import Replay as Replay
from continual.strategies import ReservoirMemory as ReservoirMemory
from continual.strategies import Shifts as Shifts
from continual.strategies import SynapticIntelligence as SynapticIntelligence
from continual.strategies import Training as Training
from continual.streams import Examples as Examples
from continual.streams import Task as Task
from continual.streams import TaskStream as TaskStream
from continual.streams import blurry as blurry
from continual.streams import cut as cut
from continual.streams import imbalanced as imbalanced
from continual.streams import permuted as permuted
from continual.streams import rotated as rotated
from continual.streams import split as split
from continual.toys import toy_gaussians as toy_gaussians
