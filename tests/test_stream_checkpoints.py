"""Streams and filter runs that are interrupted and taken up again."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.runs import checkpoint
from probinf.streaming import pieces


@pytest.fixture(autouse=True)
def save_always(monkeypatch):
    monkeypatch.setattr(checkpoint, "_MOST_OF_THE_TIME", np.inf)


def system(noise=0.5, drift=0.3):
    return pi.System(
        prior=dist.Normal(jnp.zeros(1), 2.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, drift * jnp.sqrt(dt) + 1e-3).to_event(1),
        see={"gauge": lambda x: dist.Normal(x[0], noise), "offset": lambda x, where: dist.Normal(x[0] - where, noise)},
    )


EVENTS = [
    (0.5, "gauge", 0.3),
    (1.0, "offset", 0.1, 0.4),
    (1.7, "gauge", 0.9),
    (1.4, "gauge", 0.5),  # late
    (2.5, "offset", 0.2, 1.0),
    (3.0, "gauge", 1.4),
]
METHODS = {"particles": smc.ParticleFilter(50), "ekf": smc.EKF()}


def fed(filter, events):
    belief, densities = filter.start(3, 0.0), []
    for event in events:
        belief, info = filter.update(belief, *event)
        densities.append(float(info.predictive_log_density))
    return belief, densities


def same(a, b):
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)
    assert float(a.log_evidence) == float(b.log_evidence)
    assert a.time == b.time


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_goes_on_bit_for_bit_after_every_event(tmp_path, method):
    """A new process after each event, with a late one inside the lag across a restart."""
    whole, densities = fed(system().filter(METHODS[method], lag=1.0), EVENTS)
    seen = []
    for i, event in enumerate(EVENTS):
        filter = system().filter(METHODS[method], lag=1.0)
        with filter.stream(pi.Checkpoint(tmp_path, every=0), key=3, t0=0.0) as stream:
            assert stream.num_events == i
            seen.append(float(stream.update(*event).predictive_log_density))
    same(stream.belief, whole)
    assert seen == densities


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": smc.ParticleFilter(60)}, "method"),
        ({"noise": 0.6}, "sensor 'gauge'"),
        ({"drift": 0.4}, "move"),
        ({"key": 4}, "start"),
        ({"lag": 0.5}, "lag: 1.0 there, 0.5 here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_stream_of_another_system_or_start_is_refused(tmp_path, change, message):
    with system().filter(METHODS["particles"], lag=1.0).stream(tmp_path, key=3) as stream:
        stream.update(*EVENTS[0])
    settings = {"noise": 0.5, "drift": 0.3, "method": METHODS["particles"], "lag": 1.0, "key": 3, **change}
    filter = system(settings["noise"], settings["drift"]).filter(settings["method"], lag=settings["lag"])
    with pytest.raises(pi.CheckpointError, match=message):
        filter.stream(tmp_path, key=settings["key"])


LOG = pi.Log([(0.1 * k, "gauge", np.sin(0.1 * k)) for k in range(1, 24)])


@pytest.mark.parametrize("keep_states", [False, True])
def test_a_log_in_pieces_is_the_log_in_one(tmp_path, monkeypatch, keep_states):
    monkeypatch.setattr(pieces, "PIECE", 5)
    filter = system().filter(METHODS["particles"])
    whole = filter.run(LOG, key=1, keep_states=keep_states)
    advance, calls = pieces._LogLoop.advance, []

    def dying(self):
        calls.append(self.done)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(pieces._LogLoop, "advance", dying)
        with pytest.raises(RuntimeError):
            filter.run(LOG, key=1, keep_states=keep_states, checkpoint=pi.Checkpoint(tmp_path, every=0))
    found = filter.run(LOG, key=1, keep_states=keep_states, checkpoint=tmp_path)
    assert calls == [0, 5, 10, 15]
    np.testing.assert_array_equal(found.means, whole.means)
    np.testing.assert_array_equal(found.predictive_log_densities, whole.predictive_log_densities)
    np.testing.assert_array_equal(found.info.ess, whole.info.ess)
    same(found.belief, whole.belief)
    if keep_states:
        assert jax.tree.leaves(found.states)[0].shape == jax.tree.leaves(whole.states)[0].shape


def test_a_log_in_pieces_stops_at_a_fault_as_in_one(tmp_path, monkeypatch):
    """The second piece holds the fault: every particle gives the value probability zero."""
    monkeypatch.setattr(pieces, "PIECE", 5)
    bounded = pi.System(
        prior=dist.Normal(jnp.zeros(1), 1.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, 0.1).to_event(1),
        see={"gauge": lambda x: dist.Uniform(x[0] - 3.0, x[0] + 3.0)},
    )
    log = pi.Log([(float(k), "gauge", 90.0 if k == 7 else 0.0) for k in range(12)])
    filter = bounded.filter(METHODS["particles"])
    with pytest.raises(pi.InferenceError, match="event 7") as whole:
        filter.run(log)
    with pytest.raises(pi.InferenceError, match="event 7") as found:
        filter.run(log, checkpoint=tmp_path)
    np.testing.assert_array_equal(found.value.partial.means, whole.value.partial.means)


def test_ctrl_c_keeps_the_run_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 5)
    filter = system().filter(METHODS["ekf"])
    advance = pieces._LogLoop.advance

    def stopping(self):
        if self.done == 10:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(pieces._LogLoop, "advance", stopping)
        with pytest.raises(pi.InferenceError, match="interrupted after 10 of 23 events") as caught:
            filter.run(LOG, checkpoint=tmp_path)
    assert len(caught.value.partial) == 10
    np.testing.assert_array_equal(filter.run(LOG, checkpoint=tmp_path).means, filter.run(LOG).means)
