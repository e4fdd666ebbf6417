"""Streams of sensor events: systems, logs, filters and their beliefs."""

from probinf.streaming.filter import Filter
from probinf.streaming.log import Event, Log
from probinf.streaming.masking import masked_log_prob
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.results import FilterRun, Forecast, SmootherRun
from probinf.streaming.stream_belief import StreamBelief, stack_beliefs, unstack_beliefs
from probinf.streaming.system import Sensor, System, state_space

__all__ = [
    "AbstractFilterMethod",
    "Event",
    "Fault",
    "Filter",
    "FilterRun",
    "Forecast",
    "Log",
    "Sensor",
    "SmootherRun",
    "StreamBelief",
    "System",
    "UpdateInfo",
    "masked_log_prob",
    "stack_beliefs",
    "state_space",
    "unstack_beliefs",
]
