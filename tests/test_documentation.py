"""The README's model is run as it stands and its printed numbers compared with exact ones; so are the pages' blocks."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probinf as pi
from benchmarks import tables
from tests.kalman import local_level_log_evidence

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.relaxed_promotion("documentation is written for JAX's ordinary settings")


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_readme_prints_what_it_says_and_that_is_right(capsys):
    text = (ROOT / "README.md").read_text()
    (code,) = blocks("README.md")
    assert len(code.strip().splitlines()) < 20
    scope: dict = {}
    with jax.enable_x64(False):  # as a newcomer's JAX is set up; the simulated series depends on it
        exec(code, scope)
    printed = capsys.readouterr().out.strip()
    drifts = np.linspace(1e-3, 3.0, 1500)
    log_joint = np.array([local_level_log_evidence(np.asarray(scope["y"]), q, 1.0) for q in drifts])
    log_joint += np.log(2 / np.sqrt(2 * np.pi)) - drifts**2 / 2
    weights = np.exp(log_joint - log_joint.max())
    evidence = np.log(weights.sum() * (drifts[1] - drifts[0])) + log_joint.max()
    mean = (weights * drifts).sum() / weights.sum()
    # The README quotes the exact values to the digits shown.
    assert f"{mean:.3f} and {evidence:.2f}" in text
    first, second, estimate = map(float, re.findall(r"-?\d+\.\d+", printed))
    # Posterior sd 0.063; 0.02 is more than 4 standard errors of either method, and 0.5 nats of the evidence's.
    assert abs(first - mean) < 0.02
    assert abs(second - mean) < 0.025
    assert abs(estimate - evidence) < 0.5


def test_the_quickstart_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = jnp.linspace(-1.0, 1.0, 20)
    scope: dict = {"x": x, "y": 2.0 * x + 0.1 * jnp.sin(9.0 * x), "jax": jax}
    lines = [f"{float(a)},{float(b)}" for a, b in zip(x, scope["y"], strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["x,y", *lines]))
    for code in blocks("docs/quickstart.md"):
        exec(code, scope)
    assert abs(scope["posterior"].mean("slope") - 2.0) < 0.2
    assert (tmp_path / "line.npz").exists()
    assert (tmp_path / "line.png").exists()
    assert scope["kind"].tolist() == [1, 0, 1]


@pytest.fixture
def few_programs(monkeypatch):
    """A suite of two programs, so that pages which validate something are quick."""
    from probinf.validity import validate

    suite = {name: validate.PROGRAMS[name] for name in ("zero_weights", "hidden_markov")}
    monkeypatch.setattr(validate, "PROGRAMS", suite)


def test_the_validity_page_runs(few_programs):
    (code,) = blocks("docs/validity.md")
    lines = code.strip().splitlines()
    reports = [eval(line.split("  #")[0], {"pi": pi}) for line in lines if line.startswith("pi.")]
    assert len(reports) == 2
    assert all(reports)


@pytest.mark.slow
def test_the_building_blocks_page_runs(few_programs):
    first, assembled, second, third = blocks("docs/building-blocks.md")
    scope: dict = {}
    exec(first.replace("num_draws=1000", "num_draws=50, num_warmup=20"), scope)
    assert set(scope["posterior"].sites) == {"many", "means", "mean"}
    exec(assembled, scope)
    assert all(scope["checks"])
    said = repr(scope["report"]).splitlines()
    page = (ROOT / "docs/building-blocks.md").read_text()
    assert all(line in page for line in (*said[:2], said[-1]))
    exec(second, scope)
    assert scope["posterior"].num_draws == 512
    exec(third, scope)
    assert scope["pmmh"].kernel.claim == "reversible"
    assert scope["gibbs"].kernel.claim == "invariant"


def test_the_streaming_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("time,sensor,value\n0.1,gps,\n0.2,range,11.5\n")
    scope: dict = {}
    for code in blocks("docs/streaming.md"):
        exec(code, scope)
    assert scope["belief"].as_mixture(4).means.shape == (4, 4)
    assert float(scope["belief"].time) == 0.3
    assert scope["events"][1] == (0.2, "range", 11.5)
    np.testing.assert_allclose(sum(float(p) for p in scope["chances"].values()), 1, rtol=1e-6)


@pytest.mark.slow
def test_the_state_space_page_runs():
    scope: dict = {}
    for code in blocks("docs/state-space.md"):
        exec(code.replace("500)", "60)").replace("2000", "200"), scope)
    truth = np.asarray(scope["states"])
    assert np.corrcoef(truth, np.asarray(scope["run"].mean))[0, 1] > 0.3
    assert scope["population"].run(0)[0].log_weights.shape == (60,)
    gears = np.asarray(scope["gears"])
    assert np.mean(np.asarray(scope["switching"].summary)[:, 1][gears == 1]) > 0.5
    assert scope["learnt"].mean["scale"].shape == (60,)
    assert abs(float(scope["fast"].log_evidence - scope["run"].log_evidence)) < 3.0


@pytest.mark.slow
def test_the_smoothing_page_runs():
    scope: dict = {}
    for code in blocks("docs/smoothing.md"):
        exec(code.replace("num_draws=500", "num_draws=5"), scope)
    # Smoothed means correlate with the truth far above what 100 unrelated numbers would do by chance (0.1).
    assert np.corrcoef(np.asarray(scope["states"]), np.asarray(scope["smoothed"].mean))[0, 1] > 0.5
    assert np.abs(np.asarray(scope["cheap"].mean - scope["smoothed"].mean)).max() < 0.5
    assert scope["weights"].shape == (100, 500)


@pytest.mark.slow
def test_the_devices_page_runs():
    scope: dict = {}
    for code in blocks("docs/devices.md"):
        exec(code, scope)
    assert abs(float(scope["run"].log_evidence) - float(scope["islands"].log_evidence)) < 2.0


def test_every_page_is_in_the_navigation():
    pages = {p.name for p in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r": (\S+\.md)", (ROOT / "mkdocs.yml").read_text()))


def test_the_page_of_benchmarks_is_what_the_recorded_runs_say():
    text, _ = tables.page()
    assert (tables.PAGE).read_text() == text, "run python -m benchmarks.tables"
