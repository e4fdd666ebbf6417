"""The bar shows the numbers that matter on a terminal and is silent everywhere else."""

import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from probinf import progress
from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error is a terminal, and nothing turns the bars off."""
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))  # pytest takes sys.stderr back
    monkeypatch.delenv("PROBINF_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "_enabled", None)
    return stream


def work():
    with Progress(10, "SMC", unit="temperature") as bar:
        bar.update(4, ess=812.34567, log_evidence=jnp.asarray(-4.25), divergences=np.int64(3))
        bar.update(6, ess=900.0)
    return bar


def test_a_terminal_sees_label_count_and_numbers(terminal):
    with Progress(10, "SMC", unit="temperature") as bar:
        bar._bar.mininterval = 0.0  # draw at every update, however fast the machine
        bar.update(4, ess=812.34567, log_evidence=jnp.asarray(-4.25), divergences=np.int64(3))
        bar.update(6)
    shown = terminal.getvalue()
    for part in ("SMC", "10/10", "temperature", "ess=812.3", "log evidence=-4.25", "divergences=3"):
        assert part in shown


def test_work_of_unknown_length_is_counted(terminal):
    with Progress(None, "stream", unit="event") as bar:
        bar.update(3)
    assert "3 event" in terminal.getvalue()


def test_the_bar_is_closed_when_the_work_fails(terminal):
    def fail():
        with Progress(10, "SMC") as bar:
            bar.update(2)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert "2/10" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_a_stream_that_is_no_terminal_stays_empty(terminal, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    assert work().done == 10
    assert stream.getvalue() == ""


@pytest.mark.parametrize("value", ["0", "false", "No", " off "])
def test_the_environment_turns_it_off(terminal, monkeypatch, value):
    monkeypatch.setenv("PROBINF_PROGRESS", value)
    assert work().done == 10
    assert terminal.getvalue() == ""


def test_the_program_turns_it_off_and_on_again(terminal, monkeypatch):
    progress.set_enabled(False)
    work()
    assert terminal.getvalue() == ""
    monkeypatch.setenv("PROBINF_PROGRESS", "0")
    progress.set_enabled(True)  # the program's word goes before the environment's
    work()
    assert "SMC" in terminal.getvalue()
    progress.set_enabled(None)
    assert not progress.is_shown()


def test_a_process_without_standard_error_is_served(terminal, monkeypatch):
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=None))
    assert work().done == 10


@pytest.mark.parametrize("bad", [np.ones(2), "high", [1.0]])
def test_a_number_that_is_no_scalar_is_refused_even_when_silent(bad):
    with Progress(1, "SMC") as bar, pytest.raises(ArgumentTypeError, match="ess: expected a scalar"):
        bar.update(1, ess=bad)


def test_negative_counts_are_refused():
    with pytest.raises(ArgumentError, match="total"):
        Progress(-1, "SMC")
    with Progress(1, "SMC") as bar, pytest.raises(ArgumentError, match="n: expected"):
        bar.update(-1)


@pytest.mark.bad_input
def test_enabled_is_a_bool():
    with pytest.raises(ArgumentTypeError, match="enabled"):
        progress.set_enabled("no")
