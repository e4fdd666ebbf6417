"""Subcommands: what a newcomer's files give, and what is said when they are wrong."""

import csv
import io
import os
import re
import subprocess
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from probinf import cli
from probinf.commands import bench, demo, doctor, export, infer
from probinf.commands import filter as filtering
from probinf.commands.shared import model_file, settings, table
from probinf.commands.shared.result import report
from probinf.errors import ArgumentError, UnknownNameError
from probinf.inference.auto import Auto
from probinf.inference.posterior import Posterior
from tests.strictness import relaxed_promotion

pytestmark = pytest.mark.relaxed_promotion("models of users are written for JAX's ordinary settings")

MODELS = '''
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import probinf as pi

@pi.model
def line(x, y):
    slope = pi.sample("slope", dist.Normal(0.0, 5.0))
    with pi.plate("obs", len(x)):
        pi.sample("y", dist.Normal(slope * x, 1.0), obs=y)

@pi.model
def level(n, scale=1.0):
    def step(level, _):
        level = pi.sample("level", dist.Normal(level, scale))
        pi.sample("y", dist.Normal(level, 1.0))
        return level, None
    return jax.lax.scan(step, 0.0, length=n)[0]

@pi.model
def groups(group, y):
    with pi.plate("groups", 2):
        mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(mean[group], 1.0).to_event(1), obs=y)

def plain(x, y=None):
    s = numpyro.sample("s", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(s * x, 1.0), obs=y)

@pi.model
def misspelt(x):
    return pi.sample("z", dits.Normal(x, 1.0))

bound = level(4)
number = 3

@pi.state_space
def boat(drift: float = 0.1):
    """Position and velocity; a position fix with gaps, and a range of the position alone."""
    def move(x, dt):
        return dist.MultivariateNormal(jnp.stack([x[0] + dt * x[1], x[1]]), drift * dt * jnp.eye(2))
    return pi.System(
        prior=dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
        move=move,
        see={
            "fix": pi.Sensor(lambda x: dist.Normal(x, 1.0).to_event(1), missing="nan"),
            "range": lambda x: dist.Normal(x[0], 0.5),
        },
    )

@pi.state_space
def one_sensor(sd):
    return pi.System(
        prior=dist.MultivariateNormal(jnp.zeros(1), jnp.eye(1)),
        move=lambda x, dt, u: dist.MultivariateNormal(x + (0.0 if u is None else u), dt * jnp.eye(1)),
        see={"here": lambda x, offset: dist.Normal(x[0] + offset[0], sd)},
    )

def sunk():
    return pi.System(prior=dist.Normal(jnp.zeros(1), -1.0).to_event(1), move=lambda x, dt: x, see={})

@pi.model
def wander(y):
    scale = pi.sample("scale", dist.LogNormal(0.0, 1.0))
    def step(level, y):
        level = pi.sample("level", dist.Normal(level, scale))
        pi.observe("y", dist.Normal(level, 1.0), y)
        return level, None
    jax.lax.scan(step, 0.0, y)
'''
DATA = "x,y,name\n1,2.1,a\n2,3.9,b\n3,6.2,c\n4,8.0,d\n"
LOG = "time,sensor,value[0],value[1]\n0.0,fix,0.1,0.2\n0.5,range,1.1,\n0.7,fix,,0.3\n0.9,,,\n1.5,fix,1.0,0.4\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A newcomer's folder: a file of models, data, a log."""
    made = tmp_path_factory.mktemp("newcomer")
    for name, text in (("model.py", MODELS), ("data.csv", DATA), ("log.csv", LOG)):
        (made / name).write_text(text)
    return made


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def call(capsys, *words):
    """Exit status, standard output, standard error."""
    status = cli.main([*words])
    return status, *capsys.readouterr()


# -- infer, look, export


@pytest.fixture(scope="module")
def inferred(folder):
    """`probinf infer` on the line, with checkpoints: status, what was printed, the folder with line.npz and run/."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, relaxed_promotion("a user's model"):
        patch.chdir(folder)
        patch.setattr(sys, "stdout", out)
        words = ["--data", "data.csv", "--method", "nuts", "--set", "num_warmup=200", "--set", "dense_metric=False"]
        status = cli.main(["infer", "model.py:line", *words, "--out", "line.npz", "--checkpoint", "run"])
    return status, out.getvalue()


def test_infer_saves_and_summarises_the_posterior(inferred, here):
    """Normal slope, known noise: precision 1/25 + sum x², mean sum x y over it."""
    status, printed = inferred
    posterior = Posterior.load(here / "line.npz")
    assert status == 0, printed
    assert "No problem found." in printed
    assert printed.endswith("saved to line.npz\n")
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.1, 3.9, 6.2, 8.0])
    precision = 1 / 25 + x @ x
    # ESS above 800 (the verdict): false alarm of 4 standard errors 6e-5, and the seed is fixed.
    assert abs(posterior.mean("slope") - x @ y / precision) < 4 / np.sqrt(precision * 800)
    assert posterior.sd("slope") == pytest.approx(precision**-0.5, rel=0.1)


def test_infer_draws_the_parameters_of_a_series_by_pmmh(here, capsys):
    sizes = [word for n in ("particles=20", "warmup=20", "draws=20", "chains=2") for word in ("--set", f"num_{n}")]
    words = ["--data", "data.csv", "--method", "pmmh", *sizes, "--out", "wander.npz"]
    status, printed, _ = call(capsys, "infer", "model.py:wander", *words)
    posterior = Posterior.load(here / "wander.npz")
    assert status == 1, printed  # forty draws are too few, and the summary says so
    assert posterior.method.startswith("PMMH, 20 state particles")
    assert posterior["scale"].shape == (2, 20)
    assert np.all(posterior["scale"] > 0)
    assert np.unique(posterior["scale"]).size > 3


def test_a_verdict_against_the_result_is_the_exit_status(inferred, here, capsys, monkeypatch):
    draws = np.random.default_rng(0).normal(size=(1, 50))
    monkeypatch.setattr("probinf.inference.look.look", lambda folder: Posterior({"a": draws}))
    status, printed, _ = call(capsys, "look", "run", "--out", "now.npz")
    assert status == 1
    assert "! One chain" in printed
    assert (here / "now.npz").exists()


def test_an_interrupted_run_is_not_passed_off_as_done(tmp_path, capsys):
    draws = np.random.default_rng(0).normal(size=(4, 1000))
    for is_partial in (False, True):
        assert report(Posterior({"a": draws}, is_partial=is_partial), None) == int(is_partial)
    assert "interrupted" in capsys.readouterr().out


def test_look_shows_the_run_of_a_checkpoint_folder(inferred, here, capsys):
    status, printed, _ = call(capsys, "look", "run")
    assert status == 0
    assert "slope" in printed
    assert call(capsys, "look", "nowhere")[0] == 1


def test_draws_before_a_breakdown_are_saved(here, capsys, monkeypatch):
    from probinf.errors import InferenceError

    def broken(*_, **__):
        error = InferenceError("the run broke down")
        error.partial = Posterior({"a": np.arange(10.0)[None]})
        raise error

    monkeypatch.setattr("probinf.inference.infer.infer", broken)
    status, printed, said = call(capsys, "infer", "model.py:line", "--data", "data.csv", "--out", "partial.npz")
    assert status == 1
    assert "saved to partial.npz" in printed
    assert "the run broke down" in said
    np.testing.assert_array_equal(Posterior.load(here / "partial.npz")["a"], np.arange(10.0)[None])


def test_the_table_of_draws_has_every_number(tmp_path):
    posterior = Posterior(
        {"a": np.array([[0.1, 0.2], [0.3, 0.4]]), "b": np.arange(8.0).reshape(2, 2, 2)}, log_weights=-np.eye(2)
    )
    posterior.save(tmp_path / "p.npz")
    assert cli.main(["export", str(tmp_path / "p.npz"), str(tmp_path / "p.csv")]) == 0
    header, *rows = csv.reader((tmp_path / "p.csv").read_text().splitlines())
    assert header == ["chain", "draw", "log_weight", "a", "b[0]", "b[1]"]
    assert rows[2] == ["1", "0", "-0.0", "0.3", "4.0", "5.0"]
    assert len(rows) == 4


def test_netcdf_and_zarr_are_written_by_arviz(tmp_path, monkeypatch, capsys):
    """Which writer is called; the tree itself is tested with the export."""
    written = []

    class Tree:
        def to_netcdf(self, path):
            written.append(("netcdf", path))

        def to_zarr(self, path, mode):
            written.append((mode, path))

    Posterior({"a": np.zeros((1, 2))}).save(tmp_path / "p.npz")
    monkeypatch.setattr(Posterior, "to_arviz", lambda self: Tree())
    found = {"h5netcdf", "h5py", "zarr"}
    monkeypatch.setattr(export, "has_package", lambda name: name in found)
    for name in ("p.nc", "p.zarr"):
        assert cli.main(["export", str(tmp_path / "p.npz"), str(tmp_path / name)]) == 0
    assert written == [("netcdf", str(tmp_path / "p.nc")), ("w", str(tmp_path / "p.zarr"))]
    found.remove("h5py")
    status, _, said = call(capsys, "export", str(tmp_path / "p.npz"), str(tmp_path / "p.nc"))
    assert status == cli.WRONG_USE
    assert "pip install netCDF4" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("none.py:line", "model: no file none.py"),
        ("modle.py:line", "Did you mean model.py?"),
        ("model", "expected FILE.py:NAME"),
        ("model.py", "say which model of model.py, as model.py:NAME. Models there: line, level,"),
        ("model.py:lime --data data.csv", "'lime' is not a model of model.py. Did you mean 'line'?"),
        ("model.py:number", "'number' is of type int"),
        ("broken.py:line", "broken.py, line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("syntax.py:line", "syntax.py, line 1: SyntaxError"),
        ("model.py:line", "'x' is not a column of the data (there is no --data)"),
        ("model.py:line --data upper.csv", "model 'line' needs it (else: --arg x=VALUE). Did you mean 'X'?"),
        ("model.py:line --data nan.csv", "nan.csv, row 2 (line 3): column 'y' is missing there, and in 2 of 4 rows"),
        ("model.py:line --data inf.csv", "inf.csv, row 1 (line 2): column 'x' is infinite there"),
        ("model.py:line --data text.csv", "text.csv, row 2 (line 3): column 'y' holds text, 'high'"),
        ("model.py:line --data ragged.csv", "ragged.csv, row 1 (line 2): 3 cells, expected 2"),
        ("model.py:line --data headless.csv", "headless.csv: the first line holds numbers"),
        ("model.py:line --data twice.csv", "two columns are named 'x'"),
        ("model.py:line --data only_header.csv", "only_header.csv: a header and no rows"),
        ("model.py:line --data empty.csv", "empty.csv: empty"),
        ("model.py:line --data latin.csv", "latin.csv: not a text file in UTF-8"),
        ("model.py:line --data absent.csv", "absent.csv: No such file"),
        ("model.py:level --arg n=4 --data other.csv", "no column of other.csv (a, b) has the name of an argument"),
        ("model.py:level --data data.csv --arg m=4", "'m' is not an argument of model 'level'"),
        ("model.py:line --data data.csv --set num_drows=5", "Did you mean 'num_draws'?"),
        ("model.py:line --data data.csv --method nuts --set max_leapfrogs=5", "not a setting of method 'nuts'"),
        ("model.py:line --data data.csv --method nutz", "Did you mean 'nuts'?"),
        ("model.py:line --data data.csv --set num_draws=many", "num_draws: expected an integer, found 'many'"),
        ("model.py:line --data data.csv --set num_draws", "--set: expected NAME=VALUE"),
        ("model.py:line --data data.csv --set seed=1 --set seed=2", "--set: 'seed' is given twice"),
        ("model.py:line --data data.csv --out no/such.npz", "--out: no folder no"),
        ("model.py:line --data data.csv --out .", "--out: . is a folder"),
        ("model.py:line --data data.csv --out line.csv", "--out: expected a name that ends in .npz, found 'line.csv'"),
        ("model.py:line --data data.csv --sead 3", "--sead is not an option. Did you mean --seed?"),
        ("model.py:line data.csv", "'data.csv': one argument too many"),
        ("model.py:groups --data far.csv", "index 2 of 'group' at position (1,) is beyond an axis of size 2"),
    ],
)
@pytest.mark.bad_input
def test_infer_says_what_is_wrong(here, capsys, words, said):
    files = {
        "broken.py": "import os\nimport nowhere\n",
        "syntax.py": "def f(:\n",
        "upper.csv": "X,y\n1,2\n",
        "nan.csv": "x,y\n1,2.1\n2,\n3,NA\n4,8\n",
        "inf.csv": "x,y\ninf,2.1\n",
        "text.csv": "x,y\n1,2\n2,high\n",
        "ragged.csv": "x,y\n1,2,3\n",
        "headless.csv": "1,2\n3,4\n",
        "twice.csv": "x,x\n1,2\n",
        "only_header.csv": "x,y\n",
        "empty.csv": "",
        "other.csv": "a,b\n1,2\n",
        "far.csv": "group,y\n0,1\n2,1\n",
    }
    for name, text in files.items():
        (here / name).write_text(text)
    (here / "latin.csv").write_bytes("x,é\n1,2\n".encode("latin-1"))
    status, printed, text = call(capsys, "infer", *words.split())
    assert status == cli.WRONG_USE
    assert said in text
    assert "Traceback" not in text
    assert not printed


def test_a_mistake_in_the_model_is_placed(here, capsys):
    status, _, said = call(capsys, "infer", "model.py:misspelt", "--data", "data.csv")
    assert status == cli.WRONG_USE
    assert "dits" in said
    assert "line 34" in said


def bound(here, name, data="data.csv", **extra):
    return infer.bind(model_file.load(f"model.py:{name}"), data and str(here / data), extra)


def kinds(program):
    return {site.name: site.kind for site in program.sites}


def test_columns_become_arguments_and_data(here, capsys):
    assert kinds(bound(here, "line")) == {"slope": "sample", "y": "observe"}
    assert capsys.readouterr().err == "not used: name\n"
    for name, extra in (("level", {"n": 4, "scale": 2.0}), ("bound", {})):
        program = bound(here, name, **extra)
        assert kinds(program) == {"level": "sample", "y": "observe"}
        np.testing.assert_array_equal(program.values["y"], [2.1, 3.9, 6.2, 8.0])
    assert kinds(bound(here, "plain")) == {"s": "sample", "y": "observe"}
    assert kinds(bound(here, "bound", None)) == {"level": "sample", "y": "sample"}


def test_whole_numbers_can_be_indices(here, tmp_path):
    (tmp_path / "groups.csv").write_text("group;y\n0;1.5\n1;2.5\n1;3.5\n")
    program = infer.bind(model_file.load("model.py:groups"), str(tmp_path / "groups.csv"), {})
    assert kinds(program) == {"mean": "sample", "y": "observe"}


def test_numbered_columns_are_one_variable(tmp_path):
    (tmp_path / "t.csv").write_text("y[1],y[0],z[1]\n1,2,3\n4,5,6\n")
    read = table.read(str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(read.numbers("y"), [[2, 1], [5, 4]])
    assert read.names == ("y", "z")
    with pytest.raises(UnknownNameError, match="'w' is not a column"):
        read.numbers("w")
    with pytest.raises(Exception, match=r"expected columns z\[0\], found z\[1\]"):
        read.numbers("z")


def test_settings_of_the_default_method_go_to_the_parts_that_know_them():
    method = settings.method(settings.METHODS, "auto", {"num_draws": 123, "max_tree_depth": 5})
    assert isinstance(method, Auto)
    assert (method.chees.num_draws, method.nuts.num_draws, method.nuts.max_tree_depth) == (123, 123, 5)


@pytest.mark.parametrize(("group", "fewest"), [(settings.METHODS, 6), (settings.FILTERS, 5)])
def test_every_registered_method_can_be_imported(group, fewest):
    from probinf.entry_points import entry_points

    kinds = [entry.load() for entry in entry_points(group).values()]
    assert len(kinds) >= fewest
    assert all(isinstance(kind, type) for kind in kinds)


# -- filter


def test_filter_equals_the_kalman_filter(here, capsys):
    """Linear and Gaussian: means, standard deviations and evidence of the rows, in closed form."""
    status, printed, _ = call(capsys, "filter", "model.py:boat", "--data", "log.csv", "--method", "ekf")
    assert status == 0
    header, *rows = csv.reader(printed.splitlines())
    assert header == ["time", "sensor", "mean[0]", "mean[1]", "sd[0]", "sd[1]", "log_evidence"]
    assert [row[1] for row in rows] == ["fix", "range", "fix", "", "fix"]
    both, first, second = np.eye(2), np.eye(2)[:1], np.eye(2)[1:]
    seen = [(0.0, both, [0.1, 0.2], 1.0), (0.5, first, [1.1], 0.25), (0.2, second, [0.3], 1.0)]
    seen += [(0.2, both[:0], [], 1.0), (0.6, both, [1.0, 0.4], 1.0)]
    mean, cov, evidence = np.zeros(2), np.eye(2), 0.0
    for (dt, matrix, value, variance), row in zip(seen, rows, strict=True):
        step = np.array([[1.0, dt], [0.0, 1.0]])
        mean, cov = step @ mean, step @ cov @ step.T + 0.1 * dt * np.eye(2)
        spread = matrix @ cov @ matrix.T + variance * np.eye(len(value))
        error = np.asarray(value) - matrix @ mean
        evidence -= 0.5 * (error @ np.linalg.solve(spread, error) + np.linalg.slogdet(2 * np.pi * spread)[1])
        gain = cov @ matrix.T @ np.linalg.inv(spread)
        mean, cov = mean + gain @ error, cov - gain @ spread @ gain.T
        np.testing.assert_allclose([float(x) for x in row[2:]], [*mean, *np.sqrt(np.diag(cov)), evidence], rtol=1e-6)


def test_arguments_inputs_and_controls_of_a_system(here, capsys, monkeypatch):
    """Known start 0 +- 1; the control moves by 2 in one second (variance 2), the input shifts the value by 10."""
    text = "time,value,input,control\n0,11.0,10,\n1,13.0,10,2\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status, printed, _ = call(capsys, "filter", "model.py:one_sensor", "--arg", "sd=1.0", "--method", "ukf")
    assert status == 0
    last = [float(x) for x in printed.splitlines()[-1].split(",")[2:4]]
    mean, variance = 0.5 + 2.0, 0.5 + 1.0
    gain = variance / (variance + 1.0)
    np.testing.assert_allclose(last, [mean + gain * (3.0 - mean), np.sqrt(variance * (1 - gain))], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0.5,fux,1,1", "'fux' is not a sensor of 'boat'. Did you mean 'fix'?"),
        ("0.5,fix,1", "3 cells, expected 4"),
        ("-1,fix,1,1", "is 1 s older than the belief"),
        ("0.5,fix,inf,1", "infinite values are never accepted"),
        ("0.5,range,nan,", "are NaN"),
        ("0.5,range,1,2", "value: expected 1 number(s), found '1', '2'"),
        ("x,fix,1,1", "time: expected numbers, found 'x'"),
        ("0.5,fix,high,1", "value: expected numbers, found 'high', '1'"),
    ],
)
def test_a_bad_row_is_named_and_earlier_ones_are_kept(here, capsys, monkeypatch, row, said):
    text = f"time,sensor,value[0],value[1]\n0.0,fix,0.1,0.2\n{row}\n3.0,fix,1,1\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    words = ["--method", "ekf", "--out", "beliefs.csv"]
    status, _, text = call(capsys, "filter", "model.py:boat", *words)
    assert status == cli.WRONG_USE
    assert "standard input, row 2 (line 3): " in text
    assert said in text
    assert len((here / "beliefs.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        ("model.py:line", LOG, "--arg: 'line' needs x=VALUE, y=VALUE"),
        ("model.py:number", LOG, "'number' gives int; expected a pi.System"),
        ("model.py:boat --arg drfit=1", LOG, "Did you mean 'drift'?"),
        ("model.py:boat --method ekf --set gat=3", LOG, "Did you mean 'gate'?"),
        ("model.py:boat --method regularised", LOG, "--set: method 'regularised' needs num_particles=VALUE"),
        ("model.py:boat --lag -1 --method ekf", LOG, "lag: expected a finite number of seconds"),
        ("model.py:boat --method ekf", "time,val\n1,1\n", "no column 'value', unknown column 'val'"),
        ("model.py:boat --method ekf", "time,value\n1,1\n", "a column 'sensor' is needed: the system has fix, range"),
        ("model.py:boat --method ekf", "time,value,sensor\n", "standard input: a header and no rows"),
        ("model.py:boat --method ekf", "0.1,fix,1\n", "the first line holds numbers (0.1, fix, 1)"),
        ("model.py:boat --method ekf --arg drift=abc", LOG, "--arg drift: expected a number (its default is 0.1)"),
        ("model.py:boat --method ekf --data log.csv --out log.csv", LOG, "--out: log.csv holds the measurements"),
        ("model.py:sunk --method ekf", LOG, "line 62: ValueError: Normal distribution got invalid scale parameter"),
        ("model.py:boat --method ekf", "", "empty"),
        ("model.py:boat --method ekf --out no/file.csv", LOG, "--out: no folder no"),
    ],
)
def test_filter_says_what_is_wrong(here, capsys, monkeypatch, words, text, said):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status, _, found = call(capsys, "filter", *words.split())
    assert status == cli.WRONG_USE
    assert said in found


def test_a_line_comes_out_for_each_line_that_goes_in(here):
    """The next line is written only after the belief of the one before has been read: nothing is held back."""
    words = [sys.executable, "-m", "probinf.cli", "filter", "model.py:boat", "--method", "ekf"]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    header, *rows = LOG.splitlines(keepends=True)
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=here, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(120.0, process.kill)  # a line held back would be waited for without end
        alarm.start()
        process.stdin.write(header)
        process.stdin.flush()
        assert process.stdout.readline().startswith("time,")
        for row in rows[:3]:
            process.stdin.write(row)
            process.stdin.flush()
            assert process.stdout.readline().split(",")[0] == row.split(",")[0]
        process.stdin.close()
        assert process.wait() == 0
        alarm.cancel()


# -- bench, doctor, demo


def test_bench_lists_what_can_be_run(capsys):
    status, printed, _ = call(capsys, "bench")
    assert status == 0
    listed = [line.split()[0] for line in printed.splitlines()]
    assert "import_time" in listed
    assert "record" not in listed
    assert call(capsys, "bench", "import_tim")[0] == cli.WRONG_USE


def test_bench_runs_what_another_package_registers_and_passes_its_status_on(capsys, monkeypatch, tmp_path):
    file = tmp_path / "registered_benchmark.py"
    file.write_text('"""Of another package."""\nimport sys\nsys.exit(len(sys.argv))\n')
    monkeypatch.setattr(bench, "checkout", lambda: None)
    monkeypatch.setattr(bench, "entry_points", lambda group: {"theirs": EntryPoint("theirs", file.stem, group)})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert call(capsys, "bench") == (0, "theirs  Of another package.\n", "")
    assert cli.main(["bench", "theirs", "--quick", "--seed", "3"]) == 4


def test_outside_a_checkout_bench_says_where_benchmarks_are(capsys, monkeypatch):
    monkeypatch.setattr(bench, "checkout", lambda: None)
    monkeypatch.setattr(bench, "entry_points", lambda group: {})
    status, _, said = call(capsys, "bench")
    assert status == cli.WRONG_USE
    assert "Get a checkout" in said


def test_doctor_tells_what_is_there_and_what_is_missing(capsys, monkeypatch):
    status, printed, _ = call(capsys, "doctor")
    assert status == 0
    rows = {line[:16].strip(): line[16:].strip() for line in printed.splitlines()}
    assert rows["precision"] == "64 bit"
    assert rows["device"].startswith("cpu")
    assert rows["native chains"] == "there"
    assert "jax" in rows["compiled code"]
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("optax", "zarr") else found(name))
    status, printed, _ = call(capsys, "doctor")
    assert status == 1
    assert "! optax is not installed: pip install optax" in printed
    assert "not there; for export to Zarr: pip install 'zarr'" in printed


def test_the_demonstration_copies_its_files_and_their_models_load(tmp_path):
    demo.copy_files(tmp_path)
    schools = infer.bind(model_file.load(str(tmp_path / "schools.py")), str(tmp_path / "schools.csv"), {})
    assert kinds(schools)["effect"] == "observe"
    with (tmp_path / "ranges.csv").open() as lines:
        rows = list(filtering.events(lines, "ranges.csv"))
    assert len(rows) == 1097
    assert [len(part) for part in rows[0][3:]] == [1, 3, 0]


def test_the_model_and_the_data_of_the_page_belong_together(tmp_path, capsys):
    page = (Path(cli.__file__).parent.parent / "docs" / "command-line.md").read_text()
    (model,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (data,) = re.findall(r"```\n(x,y\n.*?)```", page, re.DOTALL)
    (tmp_path / "model.py").write_text(model)
    (tmp_path / "data.csv").write_text(data)
    program = infer.bind(model_file.load(str(tmp_path / "model.py:line")), str(tmp_path / "data.csv"), {})
    assert kinds(program) == {"slope": "sample", "y": "observe"}
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert listed == set(cli.entry_points(cli.GROUP))


def test_without_its_files_the_demonstration_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_FILES", "no_such_folder")
    with pytest.raises(ArgumentError, match="are not installed"):
        demo.copy_files(tmp_path)


@pytest.mark.slow
def test_the_demonstration_runs(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path), "--particles", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "true_effect[0]" in printed
    # Half a metre at 26 m from anchors that stand within 3 m of each other; three times that is no track.
    assert float(printed.partition("root mean squared error ")[2].split()[0]) < 1.5
    assert (tmp_path / "track.png").stat().st_size > 5000
