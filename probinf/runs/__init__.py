"""Long work that can be watched, interrupted and continued: one host loop for everything in the library."""

from probinf.runs.checkpoint import Checkpoint as Checkpoint
from probinf.runs.loop import Loop as Loop
from probinf.runs.loop import drive as drive
