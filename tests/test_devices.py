"""Filters on several devices: same bits as on one, and the same evidence from two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import smc
from probinf.errors import ArgumentError, ArgumentTypeError

ROOT = Path(__file__).parent.parent


def started(num_devices, *arguments):
    # The compiler's own settings: bits are promised for what users run, not for the suite's quick compilation.
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    command = [sys.executable, "-W", "ignore", "-m", "tests.device_cases", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process, seconds=300):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def four():
    """What four virtual devices gave beside one, in float32, where a last bit would soon flip an ancestor."""
    return finished(started(4, "four"))


def test_the_particle_axis_may_be_split_without_changing_a_bit(four):
    found = dict(four["exact"])
    assert four["resampled"] >= 5  # there were ancestors to get wrong
    assert found.pop("moments") < 1e-5
    assert found == dict.fromkeys(found, True)


@pytest.mark.slow
def test_draws_do_not_depend_on_the_number_of_devices():
    """Bits of NUTS, ChEES and tempered SMC, in processes with one and with four virtual devices."""
    one, many = (finished(process) for process in [started(1, "draws"), started(4, "draws")])
    assert (one.pop("devices"), many.pop("devices")) == (1, 4)
    assert one == many


def test_every_device_holds_its_own_particles(four):
    assert four["pieces"] == [[25, 128, 2]] * 4


def test_islands_do_not_depend_on_the_devices(four):
    found = dict(four["islands"])
    assert found.pop("moments") < 1e-5
    assert found == dict.fromkeys(found, True)


def test_what_cannot_be_split_is_refused(four):
    for case in ("fast key", "fast key, islands"):
        assert "threefry2x32" in four[case]
        assert "philox4x32" in four[case]
    assert "510" in four["uneven"]
    assert "508 or 512" in four["uneven"]
    assert "num_islands" in four["uneven islands"]


def test_devices_that_share_a_batch_train_the_network_that_one_would(four):
    found = four["training"]
    assert found["moved"] > 1e-3
    assert max(found["gradients"], found["losses"], found["held out"]) < 1e-5
    assert "batch 66 is no multiple of 4 devices" in found["uneven"]


@pytest.mark.slow
def test_two_processes_give_the_evidence_of_one(four):
    """Over loopback, with gloo; two devices in each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [started(2, "pair", port, rank) for rank in (0, 1)]
    for found in [finished(process) for process in pair]:
        assert (found["devices"], found["here"]) == (4, 2)
        assert found["log_evidence"] == four["log_evidence"]


class Walk(smc.StateSpaceModel):
    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, t, x):
        return dist.Normal(0.9 * x, 0.5)

    def observation(self, t, x):
        return dist.Normal(x, 0.5)


@pytest.mark.bad_input
def test_arguments_are_checked_at_the_door():
    ys = np.zeros(3)
    with pytest.raises(ArgumentTypeError, match="expected a jax"):
        smc.particle_filter(Walk(), ys, mesh=jax.devices())
    for settings, message in (
        ({"num_particles": 10, "num_islands": 4}, "multiple of num_islands=4"),
        ({"num_islands": 0}, "num_islands"),
        ({"exchange": 1.0}, "exchange: expected a share"),
        ({"threshold": 2.0}, "threshold"),
    ):
        with pytest.raises(ArgumentError, match=message):
            smc.island_filter(Walk(), ys, **settings)
