"""The command line: subcommands are found by their entry points, run, and report by their exit status."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from probinf import cli, entry_points
from probinf.errors import CheckpointError, DataError, InferenceError
from probinf.validity import command, shipped

ROOT = Path(__file__).parent.parent


def test_validate_checks_writes_and_succeeds(capsys, tmp_path):
    table, rows = tmp_path / "table.md", tmp_path / "rows.json"
    only = ["--only", "translate", "population(1, residual"]
    written = ["--markdown", str(table), "--json", str(rows)]
    status = cli.main(["validate", "--level", "exact", *only, "--random", "2", *written])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "holds" in printed
    assert "| `translate` | exact | exact | 1 |" in table.read_text()
    assert all(row["met"] for row in json.loads(rows.read_text())["rows"])


def test_a_claim_that_does_not_hold_fails_the_command(capsys, monkeypatch):
    def broken():
        yield shipped.Transformation("doubled", lambda p: shipped.PROGRAMS["hidden_markov"], programs=("zero_weights",))

    monkeypatch.setattr(shipped, "transformations", broken)
    assert cli.main(["validate", "--level", "exact", "--only", "doubled"]) == 1
    assert "1 FAILED" in capsys.readouterr().out


def test_every_package_that_ships_claims_is_registered():
    names = {module.__name__ for module in command.modules()}
    assert names >= {"probinf.validity.shipped", "smc.validity_cases"}


def test_no_command_is_an_error_with_the_list(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == cli.WRONG_USE
    assert "COMMAND" in capsys.readouterr().err


def test_a_command_that_does_not_exist_gets_the_nearest(capsys):
    assert cli.main(["infre"]) == cli.WRONG_USE
    assert "Did you mean 'infer'?" in capsys.readouterr().err


def test_the_help_lists_every_command_and_imports_neither_jax_nor_numpyro():
    code = (
        "import sys; from probinf import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print(sorted({'jax', 'numpyro', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in ("bench", "demo", "doctor", "export", "filter", "infer", "look", "validate"):
        assert f"\n    {name} " in done.stdout
    assert "exit status:" in done.stdout


@pytest.mark.parametrize("name", ["bench", "demo", "doctor", "export", "filter", "infer", "look", "validate"])
def test_every_command_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    assert f"  probinf {name}" in capsys.readouterr().out.partition("Example:\n")[2]


def test_a_checkout_counts_what_its_project_file_registers(monkeypatch, tmp_path):
    """Installed metadata may be older than the files; where both register a name, the checkout's is taken."""
    installed = [EntryPoint("b", "old", "group"), EntryPoint("c", "installed", "group")]
    monkeypatch.setattr(entry_points.importlib.metadata, "entry_points", lambda group: installed)
    monkeypatch.setattr(entry_points, "checkout", lambda: tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.entry-points.group]\nb = "new"\na = "n"\n'
    )
    found = entry_points.entry_points("group")
    assert {name: entry.value for name, entry in found.items()} == {"a": "n", "b": "new", "c": "installed"}
    assert list(found) == ["a", "b", "c"]
    monkeypatch.setattr(entry_points, "checkout", lambda: None)
    assert set(entry_points.entry_points("group")) == {"b", "c"}


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """A command of another package, `probinf other KIND`, that ends as KIND says."""
    (tmp_path / "other_command.py").write_text(
        '"""Do something else.\n\nMore.\n"""\n'
        "import warnings\n"
        "from probinf import errors\n"
        "def arguments(parser): parser.add_argument('kind')\n"
        "def run(args):\n"
        "    if args.kind == 'warn': warnings.warn('beware', errors.ProbinfWarning)\n"
        "    elif args.kind == 'stop': raise KeyboardInterrupt\n"
        "    elif args.kind == 'bug': return 1 // 0\n"
        "    elif args.kind == 'file': open('/no/such/file')\n"
        "    elif args.kind != 'fine': raise getattr(errors, args.kind)('the message')\n"
        "    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("other", "other_command", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: {"other": entry})
    yield tmp_path / "other_command.py"
    sys.modules.pop("other_command", None)


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("fine", 0, ""),
        ("DataError", cli.WRONG_USE, "probinf other: the message"),
        ("ModelError", cli.WRONG_USE, "probinf other: the message"),
        ("InferenceError", cli.NOT_TO_BE_TRUSTED, "probinf other: the message"),
        ("CheckpointError", cli.NOT_TO_BE_TRUSTED, "probinf other: the message"),
        ("file", cli.WRONG_USE, "probinf other: /no/such/file: No such file or directory"),
        ("stop", cli.INTERRUPTED, "interrupted"),
        ("bug", cli.NOT_TO_BE_TRUSTED, "ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_errors_are_one_message_and_a_status(plugin, kind, status, said, capsys):
    assert cli.main(["other", kind]) == status
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


def test_a_fault_outside_the_library_is_placed(plugin, capsys):
    cli.main(["other", "bug"])
    assert f"({plugin}, line 11)" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--debug", "other", "DataError"], ["other", "DataError", "--debug"]])
def test_debug_shows_the_traceback(plugin, argv):
    with pytest.raises(DataError, match="the message"):
        cli.main(argv)


def test_warnings_are_said_without_their_place(plugin, capsys, monkeypatch):
    monkeypatch.setattr(cli.warnings, "catch_warnings", _showing_all(cli.warnings.catch_warnings))
    assert cli.main(["other", "warn"]) == 0
    assert capsys.readouterr().err == "warning: beware\n"


def _showing_all(catch):
    class Catch(catch):
        def __enter__(self):
            found = super().__enter__()
            cli.warnings.simplefilter("always")
            return found

    return Catch


def test_the_statuses_of_the_help_are_the_statuses():
    assert f"  {cli.NOT_TO_BE_TRUSTED}    a result" in cli._EPILOG
    assert f"  {cli.WRONG_USE}    wrong use" in cli._EPILOG
    assert f"  {cli.INTERRUPTED}  interrupted" in cli._EPILOG
    assert {cli._status(kind("x")) for kind in (InferenceError, CheckpointError)} == {cli.NOT_TO_BE_TRUSTED}
