"""Runs that are interrupted, killed, damaged, looked at, extended."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import continual
import probinf as pi
from probinf.inference import sampling_loop
from probinf.runs import checkpoint, drive
from probinf.runs.checkpoint import CheckpointFolder
from probinf.runs.loop import Loop
from probinf.runs.manifest import generations


@pytest.fixture(autouse=True)
def save_always(monkeypatch):
    """Steps here take no time, so saving would wait for twenty times its own."""
    monkeypatch.setattr(checkpoint, "_MOST_OF_THE_TIME", np.inf)


class Counting(Loop):
    """Adds up random numbers, one a step: the smallest loop there is."""

    label = "Counting"

    def __init__(self, total=20, on_step=None):
        self.rows, self.sum, self.on_step = [], 0.0, on_step
        self._total = total

    done = property(lambda self: len(self.rows))
    total = property(lambda self: self._total)
    is_finished = property(lambda self: self.done >= self._total)

    def start(self):
        self.sum = 1.0

    def advance(self):
        if self.on_step is not None:
            self.on_step(self.done)
        number = np.random.default_rng(self.done).normal()
        self.sum += number
        self.rows.append({"number": np.asarray(number)})
        return {"sum": self.sum}

    def state(self):
        return {"sum": np.asarray(self.sum)}

    def restore(self, state, rows):
        self.sum, self.rows = float(state["sum"]), list(rows)


class Stopped(Exception):
    """A crash."""


def crash_at(step):
    def crash(done):
        if done == step:
            raise Stopped

    return crash


def finished(folder, total=20, **settings):
    loop = Counting(total)
    drive(loop, checkpoint=pi.Checkpoint(folder, every=0, **settings), fingerprint=lambda: {"model": "a"})
    return loop


@pytest.fixture(scope="module")
def whole():
    loop = Counting()
    drive(loop)
    return loop


@pytest.mark.parametrize("step", [0, 1, 7, 19])
def test_a_crash_costs_nothing(tmp_path, whole, step):
    with pytest.raises(Stopped):
        drive(Counting(on_step=crash_at(step)), checkpoint=pi.Checkpoint(tmp_path, every=0))
    loop = Counting()
    drive(loop, checkpoint=pi.Checkpoint(tmp_path, every=0))
    assert loop.sum == whole.sum
    assert loop.rows == whole.rows


def test_a_crash_between_any_two_file_operations_costs_at_most_one_step(tmp_path, whole, monkeypatch):
    """The process dies at the n-th write, rename or removal of a run, for every n: what is left is always whole."""
    originals = {(os, "replace"): os.replace, (os, "fsync"): os.fsync, (Path, "unlink"): Path.unlink}

    def run_until(number, folder):
        counter = itertools.count()

        def counted(original):
            def operation(*args, **kwargs):
                if next(counter) == number:
                    raise Stopped
                return original(*args, **kwargs)

            return operation

        with monkeypatch.context() as patch:
            for (place, name), original in originals.items():
                patch.setattr(place, name, counted(original))
            try:
                drive(Counting(4), checkpoint=pi.Checkpoint(folder, every=0))
            except Stopped:
                return True
        return False

    number, reference = 0, [row["number"] for row in whole.rows[:4]]
    while run_until(number, tmp_path / str(number)):
        loop = Counting(4)
        drive(loop, checkpoint=pi.Checkpoint(tmp_path / str(number), every=0))
        assert [float(row["number"]) for row in loop.rows] == reference, number
        number += 1
    assert number > 30


@pytest.mark.parametrize("trial", range(8))
def test_a_flipped_bit_is_detected_wherever_it_is(tmp_path, trial):
    finished(tmp_path)
    rng = np.random.default_rng(trial)
    last = generations(tmp_path)[-1]
    manifest = json.loads((tmp_path / f"manifest-{last:06d}.json").read_bytes().split(b"\n")[0])
    names = [f"manifest-{last:06d}.json", *manifest["files"]]
    sizes = np.array([(tmp_path / name).stat().st_size for name in names])
    for _ in range(25):  # 200 flips in all
        name = names[rng.choice(len(names), p=sizes / sizes.sum())]
        data = bytearray((tmp_path / name).read_bytes())
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << (bit % 8)
        original = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(bytes(data))
        with pytest.raises(pi.CheckpointError, match="damaged"):
            finished(tmp_path)
        (tmp_path / name).write_bytes(original)
    finished(tmp_path)  # all bits in place again


def test_the_generation_before_a_damaged_one_is_offered_and_continues(tmp_path, whole):
    finished(tmp_path)
    last = generations(tmp_path)[-1]
    (tmp_path / f"state-{last:06d}.npz").write_bytes(b"cut short")
    with pytest.raises(pi.CheckpointError, match=f"Generation {last - 1} is whole.*generation={last - 1}"):
        finished(tmp_path)
    loop = finished(tmp_path, generation=last - 1)
    assert loop.sum == whole.sum
    assert finished(tmp_path).sum == whole.sum  # and the folder is whole again


@pytest.mark.parametrize("name", ["manifest-000001.json", "state-000001.npz"])
def test_without_a_whole_generation_it_says_so(tmp_path, name):
    drive(Counting(1), checkpoint=pi.Checkpoint(tmp_path))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(pi.CheckpointError, match=r"No earlier generation is whole"):
        drive(Counting(1), checkpoint=pi.Checkpoint(tmp_path))


def test_a_pickle_is_never_opened(tmp_path):
    """A state that would run code when unpickled, with a manifest that vouches for it."""
    from probinf.runs.files import sha256
    from probinf.runs.manifest import Manifest

    data = b"cpytest\nfail\n(S'unpickled'\ntR."
    (tmp_path / "state-000001.npz").write_bytes(data)
    manifest = Manifest(1, {}, {"done": 0, "seconds": 0.0}, {"state-000001.npz": sha256(data)})
    (tmp_path / "manifest-000001.json").write_bytes(manifest.encode())
    with pytest.raises(pi.CheckpointError, match="not a file of arrays"):
        drive(Counting(1), checkpoint=pi.Checkpoint(tmp_path))


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    from probinf.runs.manifest import Manifest

    manifest = Manifest(1, {}, {"done": 0, "seconds": 0.0}, {"../secret.npz": "0"})
    (tmp_path / "manifest-000001.json").write_bytes(manifest.encode())
    with pytest.raises(pi.CheckpointError, match="not the manifest"):
        drive(Counting(1), checkpoint=pi.Checkpoint(tmp_path))


def test_a_full_disk_leaves_the_old_checkpoint_and_the_run_goes_on(tmp_path, whole, monkeypatch):
    with pytest.raises(Stopped):
        drive(Counting(on_step=crash_at(7)), checkpoint=pi.Checkpoint(tmp_path, every=0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.warns(pi.ProbinfWarning, match=r"No space left on device.*The run goes on"):
            outcome = drive(loop := Counting(), checkpoint=pi.Checkpoint(tmp_path, every=0))
    assert loop.sum == whole.sum
    assert "No space left" in outcome.notes[0]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    loop = Counting()
    drive(loop, checkpoint=pi.Checkpoint(tmp_path, every=0))
    assert loop.sum == whole.sum


def test_only_two_generations_and_their_rows_are_kept(tmp_path):
    finished(tmp_path)
    kept = generations(tmp_path)
    assert len(kept) == 2
    assert len(list(tmp_path.glob("state-*"))) == 2
    assert len(list(tmp_path.glob("rows-*"))) == 20


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    monkeypatch.undo()
    folder = CheckpointFolder(pi.Checkpoint(tmp_path, every=0), {})
    folder.save(Counting(), 0.0)
    assert not folder.is_due()  # nineteen times as long as that took has not gone by


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folder": 3}, "checkpoint: expected a folder, found 3"),
        ({"folder": "a", "every": -1}, "every: expected a number of seconds"),
        ({"folder": "a", "every": float("nan")}, "every: expected a number of seconds"),
        ({"folder": "a", "generation": 0}, "generation: expected a positive integer"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(pi.ProbinfError, match=message):
        pi.Checkpoint(**settings)


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    loop = Counting(on_step=lambda done: pytest.fail("work was done"))
    with pytest.raises(pi.CheckpointError, match="cannot write to"):
        drive(loop, checkpoint=pi.Checkpoint(tmp_path / "file" / "inside"))


def test_a_generation_that_is_not_there_is_refused(tmp_path):
    finished(tmp_path)
    with pytest.raises(pi.CheckpointError, match="no generation 99; there: 19, 20"):
        finished(tmp_path, generation=99)


# -- samplers ---------------------------------------------------------------------------------------------------------


@pi.model
def line(x):
    """Two latent sites, one of them positive."""
    slope = pi.sample("slope", dist.Normal(0.0, 2.0))
    scale = pi.sample("scale", dist.HalfNormal(1.0))
    pi.sample("y", dist.Normal(slope * x, scale))


X = np.linspace(-1.0, 1.0, 9)


def program(shift=0.0):
    return line(X).given(y=X + shift + 0.3 * np.cos(7.0 * X))


NUTS = pi.NUTS(num_warmup=60, num_draws=60, num_chains=2)
LAPLACE = pi.NUTS(num_warmup=40, num_draws=45, num_chains=2, dense_metric="laplace", thinning=2)
CHEES = pi.ChEES(num_warmup=40, num_draws=40, num_chains=4)


@contextlib.contextmanager
def crash_during(steps):
    """A gradient sampler dies as soon as its chains have taken so many steps."""
    original = sampling_loop.SamplingLoop.advance

    def advance(self):
        if self.next_step >= steps:
            raise Stopped
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_loop.SamplingLoop, "advance", advance)
        patch.setattr(sampling_loop, "_SECONDS_PER_PIECE", 0.0)  # pieces of one step
        try:
            yield
        except Stopped:
            return
        pytest.fail("the run did not come that far")


@pytest.mark.parametrize(
    ("method", "steps"),
    [(NUTS, 10), (NUTS, 40), (NUTS, 100), (LAPLACE, 12), (LAPLACE, 70), (CHEES, 20), (CHEES, 60)],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_a_sampler_goes_on_bit_for_bit(tmp_path, method, steps):
    key = pi.fast_key(3) if steps == 40 else 3
    reference = pi.infer(program(), method, seed=key, progress=False)
    with crash_during(steps):
        pi.infer(program(), method, seed=key, progress=False, checkpoint=pi.Checkpoint(tmp_path, every=0))
    found = pi.infer(program(), method, seed=key, progress=False, checkpoint=tmp_path)
    for site in reference.sites:
        np.testing.assert_array_equal(found[site], reference[site])
    for name, values in reference.sample_stats.items():
        np.testing.assert_array_equal(found.sample_stats[name], values)
    assert not found.is_partial
    assert found.warnings == reference.warnings


def test_a_finished_run_is_extended_by_asking_for_more(tmp_path):
    more = pi.NUTS(num_warmup=60, num_draws=100, num_chains=2)
    first = pi.infer(program(), NUTS, seed=3, progress=False, checkpoint=tmp_path)
    found = pi.infer(program(), more, seed=3, progress=False, checkpoint=tmp_path)
    reference = pi.infer(program(), more, seed=3, progress=False)
    np.testing.assert_array_equal(found["slope"], reference["slope"])
    np.testing.assert_array_equal(first["slope"], reference["slope"][:, :60])
    assert pi.look(tmp_path).num_draws == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": program(shift=1.0)}, r"data.*there.*here"),
        ({"method": pi.NUTS(num_warmup=60, num_draws=60, num_chains=3)}, "num_chains: 2 there, 3 here"),
        ({"method": CHEES}, "method: NUTS there, ChEES here"),
        ({"seed": 4}, "key: .*there"),
        ({"program": line(X[:8]).given(y=X[:8])}, "program: .*there"),
    ],
    ids=["data", "setting", "method", "seed", "model"],
)
def test_a_checkpoint_of_another_run_is_refused_and_every_difference_named(tmp_path, change, message):
    pi.infer(program(), NUTS, seed=3, progress=False, checkpoint=tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    call = {"program": program(), "method": NUTS, "seed": 3, **change}
    with pytest.raises(pi.CheckpointError, match=message):
        pi.infer(call["program"], call["method"], seed=call["seed"], progress=False, checkpoint=tmp_path)
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}  # and nothing was touched


def test_a_constant_inside_the_model_is_part_of_the_program(tmp_path):
    """The jaxpr shows the shape of a captured array, not its values."""

    def made(prior_scale):
        @pi.model
        def inner():
            pi.sample("a", dist.Normal(jnp.zeros(2), prior_scale).to_event(1))

        return inner()

    first, second = made(np.array([1.0, 2.0])), made(np.array([1.0, 3.0]))
    pi.infer(first, NUTS, seed=3, progress=False, checkpoint=tmp_path)
    with pytest.raises(pi.CheckpointError, match="program: "):
        pi.infer(second, NUTS, seed=3, progress=False, checkpoint=tmp_path)


def test_a_run_can_be_looked_at_while_it_runs(tmp_path):
    with crash_during(100):
        pi.infer(program(), NUTS, seed=3, progress=False, checkpoint=pi.Checkpoint(tmp_path, every=0))
    seen = pi.look(tmp_path)
    assert seen.is_partial
    assert 0 < seen.num_draws < 60
    assert "draws so far" in str(seen.summary())
    reference = pi.infer(program(), NUTS, seed=3, progress=False)
    np.testing.assert_array_equal(seen["slope"], reference["slope"][:, : seen.num_draws])


def test_looking_too_early_or_at_the_wrong_place_says_so(tmp_path):
    with pytest.raises(pi.CheckpointError, match="no checkpoint there"):
        pi.look(tmp_path)
    with crash_during(30):
        pi.infer(program(), NUTS, seed=3, progress=False, checkpoint=pi.Checkpoint(tmp_path, every=0))
    with pytest.raises(pi.CheckpointError, match="nothing to see yet"):
        pi.look(tmp_path)


@pytest.mark.parametrize("is_suited", [True, False])
def test_the_default_method_remembers_its_choice(tmp_path, monkeypatch, is_suited):
    if not is_suited:
        monkeypatch.setattr("probinf.inference.auto.objection", lambda last: "nothing suited it")
    method = pi.Auto(chees=CHEES, nuts=NUTS)
    reference = pi.infer(program(), method, seed=3, progress=False)
    with crash_during(70):
        pi.infer(program(), method, seed=3, progress=False, checkpoint=pi.Checkpoint(tmp_path, every=0))
    found = pi.infer(program(), method, seed=3, progress=False, checkpoint=tmp_path)
    assert found.method == reference.method
    np.testing.assert_array_equal(found["slope"], reference["slope"])
    assert pi.look(tmp_path).num_draws == reference.num_draws


def test_a_method_that_cannot_be_continued_says_so(tmp_path):
    import smc

    with pytest.raises(pi.ArgumentError, match="checkpoint: SMC runs this program in one piece"):
        pi.infer(discrete().given(y=1.0), smc.SMC(num_particles=50), progress=False, checkpoint=tmp_path)


@pi.model
def discrete():
    """A static discrete site, which cannot be moved."""
    k = pi.sample("k", dist.Bernoulli(0.5))
    pi.sample("y", dist.Normal(jnp.where(k == 1, 1.0, -1.0), 1.0))


def test_keys_survive_the_trip_through_a_file():
    from probinf.runs.trees import packed, unpacked

    tree = {"a": pi.fast_key(5), "b": jax.random.split(jax.random.key(1), 3), "c": jnp.arange(3.0)}
    back = unpacked(jax.eval_shape(lambda: tree), packed(tree, "t"), "t")
    assert back["a"] == tree["a"]
    assert (back["b"] == tree["b"]).all()
    np.testing.assert_array_equal(back["c"], tree["c"])


def test_a_copied_folder_continues_elsewhere(tmp_path):
    pi.infer(program(), NUTS, seed=3, progress=False, checkpoint=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert pi.look(tmp_path / "there").num_draws == 60


@pytest.mark.parametrize("method", [NUTS, CHEES], ids=["NUTS", "ChEES"])
def test_a_posterior_drawn_with_a_fast_key_is_continued(method):
    long = dataclasses.replace(method, num_draws=method.num_draws + 20)
    first = pi.infer(program(), method, seed=pi.fast_key(3), progress=False)
    found = method.resume(program(), first, 20)
    reference = pi.infer(program(), long, seed=pi.fast_key(3), progress=False)
    np.testing.assert_array_equal(found["slope"], reference["slope"])


@pi.model
def walk(ys):
    """A random walk of unknown step, seen with noise."""

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, spread))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    spread = pi.sample("spread", dist.HalfNormal(1.0))
    jax.lax.scan(step, jnp.zeros(()), ys)


YS = np.array([0.1, 0.4, 0.2, 0.9, 1.3, 1.1])


def arranged(name):
    """A method, its program, the loop it drives and the number of pieces after which it dies."""
    import smc

    cases = {
        "tempered": (smc.TemperedSMC(64, num_runs=2), program(), "smc.tempered_run.TemperedLoop", (1, 2)),
        "waste-free": (smc.TemperedSMC(64, num_runs=2, waste_free=8), program(), "smc.tempered_run.TemperedLoop", (1,)),
        "persistent": (
            smc.TemperedSMC(64, num_runs=2, persistent=True),
            program(),
            "smc.tempered_run.TemperedLoop",
            (2,),
        ),
        "smc2": (smc.SMC2(16, 8, num_runs=2), walk(YS), "smc.smc2_run.SMC2Loop", (3, 8)),
        "mcmc": (
            pi.MCMC(pi.trace_mh(), num_draws=30, num_warmup=10, num_chains=2),
            program(),
            "probinf.inference.mcmc.MCMCLoop",
            (4, 12),
        ),
    }
    return cases[name]


@pytest.mark.parametrize("name", ["tempered", "waste-free", "persistent", "smc2", "mcmc"])
def test_other_methods_go_on_bit_for_bit(tmp_path, monkeypatch, name):
    method, target, loop, deaths = arranged(name)
    reference = pi.infer(target, method, seed=5, progress=False)
    for death in deaths:
        folder = tmp_path / str(death)
        pieces = itertools.count()
        with monkeypatch.context() as patch:
            module, _, kind = loop.rpartition(".")
            original = getattr(importlib.import_module(module), kind).advance

            def advance(self, original=original, pieces=pieces, death=death):
                if next(pieces) == death:
                    raise Stopped
                return original(self)

            patch.setattr(f"{loop}.advance", advance)
            with pytest.raises(Stopped):
                pi.infer(target, method, seed=5, progress=False, checkpoint=pi.Checkpoint(folder, every=0))
        found = pi.infer(target, method, seed=5, progress=False, checkpoint=folder)
        for site in reference.sites:
            np.testing.assert_array_equal(found[site], reference[site])
        assert found.log_evidence == reference.log_evidence
        assert found.warnings == reference.warnings
        seen = pi.look(folder)
        assert not seen.is_partial
        np.testing.assert_array_equal(seen.weights, reference.weights)


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def default_handler():
    """A background job may have been started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(*steps):
    def on_step(done):
        if done in steps:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


@pytest.mark.usefixtures("default_handler")
def test_ctrl_c_ends_the_piece_and_saves(tmp_path, whole):
    loop = Counting(on_step=press(7))
    outcome = drive(loop, checkpoint=pi.Checkpoint(tmp_path, every=1000))
    assert not outcome.is_finished
    assert loop.done == 8  # the piece in which it came was finished
    loop = Counting()
    drive(loop, checkpoint=pi.Checkpoint(tmp_path))
    assert loop.sum == whole.sum
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_handler")
def test_a_second_ctrl_c_does_not_wait():
    def twice(done):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second was not raised")

    loop = Counting(on_step=twice)
    assert not drive(loop).is_finished
    assert loop.done == 3


@pytest.mark.usefixtures("default_handler")
def test_work_inside_work_shares_the_notice():
    inner = []

    class Outer(Counting):
        def advance(self):
            inner.append(drive(Counting(5, on_step=press(2) if self.done == 1 else None)).is_finished)
            return super().advance()

    outer = Outer()
    assert not drive(outer).is_finished
    assert inner == [True, False]
    assert outer.done == 2


@pytest.mark.usefixtures("default_handler")
def test_an_interrupted_continual_run_hands_over_its_stages():
    class Pressed(continual.BayesianLinearHead):
        def update(self, belief, t, *rest, **named):
            if t == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().update(belief, t, *rest, **named)

    stream = continual.toy_gaussians()
    with pytest.raises(pi.InferenceError, match=f"interrupted after 2 of {len(stream.tasks)} tasks") as caught:
        continual.run(Pressed(stream.num_classes), stream)
    whole = continual.run(continual.BayesianLinearHead(stream.num_classes), stream)
    np.testing.assert_array_equal(caught.value.partial.accuracy, whole.accuracy[:2])


@pytest.mark.usefixtures("default_handler")
def test_a_handler_of_the_users_own_is_left_alone():
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    assert drive(Counting(on_step=press(2))).is_finished
    assert heard == [signal.SIGINT]


@pytest.mark.usefixtures("default_handler")
def test_a_thread_leaves_the_signal_alone():
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(drive(Counting())))
    thread.start()
    thread.join()
    assert outcomes[0].is_finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_process_makes_the_same_fingerprint():
    """NumPyro orders the fields of a distribution by Python's hashes, which are seeded anew in every process."""
    code = (
        "import jax, json, numpy as np, numpyro.distributions as dist, probinf as pi\n"
        "from probinf.inference.fingerprint import fingerprint\n"
        "@pi.model\n"
        "def line(prior, x):\n"
        "    b = pi.sample('b', prior)\n"
        "    pi.sample('y', dist.StudentT(4.0, b * x, 1.0).to_event(1))\n"
        "program = line(dist.StudentT(3.0, 0.0, 2.0), np.arange(3.0)).given(y=np.arange(3.0))\n"
        "print(json.dumps(fingerprint(program, pi.NUTS(), jax.random.key(0))))\n"
    )
    found = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
