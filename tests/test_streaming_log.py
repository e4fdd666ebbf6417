"""Logs: what they accept, how they order it, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probinf.errors import ArgumentError, DataError, ProbinfError, UnknownNameError
from probinf.streaming import Log

EVENTS = [
    (2.0, "range", 4.0, [1.0, 2.0]),
    (1.0, "gps", [0.5, np.nan]),
    (2.0, "range", 5.0, [3.0, 4.0]),
    (0.5, None),
]


def test_a_list_of_tuples_becomes_sorted_padded_arrays():
    log = Log(EVENTS)
    assert log.sensors == ("range", "gps")
    np.testing.assert_array_equal(log.times, [0.5, 1.0, 2.0, 2.0])
    np.testing.assert_array_equal(log.sensor_index, [-1, 1, 0, 0])
    np.testing.assert_array_equal(log.values[:, 0], [0.0, 0.5, 4.0, 5.0])
    np.testing.assert_array_equal(log.observed, [[False, False], [True, False], [True, False], [True, False]])
    np.testing.assert_array_equal(log.inputs[2:], [[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(log.dt(0.25), [0.25, 0.5, 1.0, 0.0])
    assert list(log.sensor_names) == [None, "gps", "range", "range"]
    assert log.controls is None


def test_events_come_back_as_they_went_in():
    log = Log(EVENTS)
    again = Log(list(log))
    for name in ("times", "sensor_names", "values", "observed", "inputs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(log, name))
    event = log[1]
    assert (event.time, event.sensor, event.inputs) == (1.0, "gps", None)
    np.testing.assert_array_equal(event.value, [0.5, np.nan])
    assert log[-1].value.shape == ()


def test_a_dictionary_of_arrays_is_the_same_log():
    log = Log(
        {
            "range": ([2.0, 2.0], [4.0, 5.0], [[1.0, 2.0], [3.0, 4.0]]),
            "gps": {"times": [1.0], "values": [[0.5, np.nan]]},
        }
    )
    expected = Log(EVENTS[:3])
    for name in ("times", "sensor_names", "values", "observed", "inputs"):
        np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))


class Frame:
    """What a data frame looks like from outside."""

    def __init__(self, **columns):
        self._data = {name: np.asarray(column) for name, column in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name):
        return self._data[name]


def test_frames_are_read_by_column():
    frame = Frame(time=[1.0, 0.0], sensor=np.array(["a", "b"], object), value=[5, 6])
    log = Log(frame)
    assert list(log.sensor_names) == ["b", "a"]
    np.testing.assert_array_equal(log.values[:, 0], [6.0, 5.0])
    wide = Log.from_frame(Frame(t=[0.0, 1.0], x=[1.0, 2.0], y=[3.0, 4.0]), time="t", sensor="gps", value=["x", "y"])
    np.testing.assert_array_equal(wide.values, [[1.0, 3.0], [2.0, 4.0]])
    with pytest.raises(UnknownNameError, match=r"'tim' is not a column.*Did you mean 'time'"):
        Log.from_frame(frame, time="tim")


def test_slices_keep_shapes_and_names():
    log = Log(EVENTS)
    part = log.between(1.0, 2.0)
    assert len(part) == 1
    assert part.sensors == log.sensors
    assert part.values.shape == (1, 2)
    assert len(log.between(9.0, 10.0)) == 0
    assert list(log.select("gps").sensor_names) == ["gps"]
    assert len(log[1:3]) == 2
    merged = Log.merge(log.select("range"), log.select("gps"))
    np.testing.assert_array_equal(merged.times, [1.0, 2.0, 2.0])
    assert "range: 2" in repr(log)


def test_controls_follow_their_events():
    log = Log([(1.0, "z", 0.1, None, [1.0, 0.0]), (0.0, None, None, None, [0.0, 2.0])])
    np.testing.assert_array_equal(log.controls, [[0.0, 2.0], [1.0, 0.0]])
    assert log[0].sensor is None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), min_size=1, max_size=30))
def test_ties_keep_the_order_in_which_they_came(rows):
    log = Log([(float(t), name, float(i)) for i, (t, name) in enumerate(rows)])
    expected = sorted(range(len(rows)), key=lambda i: rows[i][0])  # Python's sort is stable
    np.testing.assert_array_equal(log.values[:, 0], expected)


BAD = {
    "a time that is not a number": ([(np.nan, "z", 1.0)], "sensor 'z', times: 1 of 1 values are not finite"),
    "an infinite value": ([(0.0, "z", 1.0), (1.0, "z", np.inf)], "sensor 'z', values: .* first at index 1 .*never"),
    "an input that is missing": ([(0.0, "z", 1.0, [np.nan])], "sensor 'z', inputs"),
    "a word for a value": ([(0.0, "z", "high")], "sensor 'z', values: expected real numbers"),
    "values of two shapes": ([(0.0, "z", 1.0), (1.0, "z", [1.0, 2.0])], "event 1 of its kind has shape"),
    "no value": ([(0.0, "z", None)], "event 0 of its kind has none"),
    "a sensor that is a number": ([(0.0, 3, 1.0)], "must be a string"),
    "a row that is too short": ([(0.0,)], "event 0 is not a tuple"),
    "as many times as values": ({"z": ([0.0, 1.0], [1.0])}, "sensor 'z': 2 times but values of shape"),
    "an unknown entry": ({"z": {"times": [0.0], "value": [1.0]}}, "sensor 'z': expected 'times'"),
    "a ragged list": ({"z": ([0.0, 1.0], [[1.0], [1.0, 2.0]])}, "sensor 'z', values"),
    "a number": (3.0, "Log: expected a dictionary"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_log_is_refused_by_name(case):
    source, message = BAD[case]
    with pytest.raises(ProbinfError, match=message):
        Log(source)


def test_a_start_after_the_first_event_is_refused():
    with pytest.raises(ArgumentError, match="t0: 1 s is after the first event, at 0"):
        Log([(0.0, "z", 1.0)]).dt(1.0)
    assert issubclass(DataError, ValueError)
