"""Learners that exact heads are measured against: networks trained by gradient, with and without stored examples."""

from continual.strategies.fine_tuning import FineTuning as FineTuning
from continual.strategies.memory import BalancedMemory as BalancedMemory
from continual.strategies.memory import ReservoirMemory as ReservoirMemory
from continual.strategies.network import Training as Training
from continual.strategies.replay import Replay as Replay
from continual.strategies.stored import GDumb as GDumb
from continual.strategies.stored import Joint as Joint
