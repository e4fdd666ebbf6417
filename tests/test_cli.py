"""The command line: subcommands are found by their entry points, run, and report by their exit status."""

import importlib.metadata
import json

import pytest

from probinf import cli
from probinf.validity import command, shipped


def registered():
    return bool(importlib.metadata.entry_points(group=cli.GROUP))


pytestmark = pytest.mark.skipif(not registered(), reason="the distribution is not installed, so nothing is registered")


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
    with pytest.raises(SystemExit):
        cli.main([])
    assert "COMMAND" in capsys.readouterr().err
