"""Networks trained by gradient, with all that is done against forgetting: what exact heads are measured against."""

from continual.strategies.architecture import Dense as Dense
from continual.strategies.augmentation import Shifts as Shifts
from continual.strategies.ewc import EWC as EWC
from continual.strategies.fine_tuning import FineTuning as FineTuning
from continual.strategies.flax_network import FlaxNetwork as FlaxNetwork
from continual.strategies.function_space import FunctionSpaceVI as FunctionSpaceVI
from continual.strategies.laplace import Laplace as Laplace
from continual.strategies.memory import BalancedMemory as BalancedMemory
from continual.strategies.memory import ReservoirMemory as ReservoirMemory
from continual.strategies.network import Training as Training
from continual.strategies.predictive_coding import PredictiveCoding as PredictiveCoding
from continual.strategies.protocl import ProtoCL as ProtoCL
from continual.strategies.protocl_released import ReleasedProtoCL as ReleasedProtoCL
from continual.strategies.replay import Replay as Replay
from continual.strategies.si import SynapticIntelligence as SynapticIntelligence
from continual.strategies.stored import GDumb as GDumb
from continual.strategies.stored import Joint as Joint
from continual.strategies.vcl import VCL as VCL
