"""The shipped tasks by name."""

from __future__ import annotations

import importlib
from typing import Any

from probinf.errors import UnknownNameError

#: name -> where its task is made: a class or function without required arguments.
TASKS = {
    "conjugate_2": "transformers_gmm.tasks.conjugate:conjugate_2",
    "conjugate_5": "transformers_gmm.tasks.conjugate:conjugate_5",
    "gaussian_process": "transformers_gmm.tasks.gaussian_process:GaussianProcess",
    "quantum": "transformers_gmm.tasks.quantum:Quantum",
    "quantum_as_run": "transformers_gmm.tasks.quantum:quantum_as_run",
    "growth": "transformers_gmm.tasks.growth:Growth",
    "beacons": "transformers_gmm.tasks.beacons:Beacons",
    "range_bearing": "transformers_gmm.tasks.range_bearing:RangeBearing",
    "fusion_update": "transformers_gmm.tasks.fusion_update:FusionUpdate",
    "range_tracking": "transformers_gmm.tasks.range_tracking:RangeTracking",
    "volatility": "transformers_gmm.tasks.volatility:Volatility",
    "odometry": "transformers_gmm.tasks.odometry:Odometry",
    "walker": "transformers_gmm.tasks.walker:Walker",
    "two_moons": "transformers_gmm.tasks.prior_change.two_moons:TwoMoons",
    "oup": "transformers_gmm.tasks.prior_change.oup:OUP",
    "turin": "transformers_gmm.tasks.prior_change.turin:Turin",
    "causal_inference": "transformers_gmm.tasks.prior_change.causal_inference:CausalInference",
    "published_conjugate_5": "transformers_gmm.tasks.published:published_conjugate_5",
    "published_quantum": "transformers_gmm.tasks.published:published_quantum",
    "published_range_bearing": "transformers_gmm.tasks.published:published_range_bearing",
    "linear_sensors": "transformers_gmm.tasks.linear_sensors:LinearSensors",
}


def make_task(name: str) -> Any:
    """The task of that name, with its published settings.

    Raises:
        UnknownNameError: there is none; the message gives the nearest one and lists all.
    """
    if name not in TASKS:
        raise UnknownNameError(name, TASKS, "task", "transformers_gmm")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()
