"""Faults seeded in the library and faults made by rule, and which check finds each.

    python -m benchmarks.mutants [--quick] [--json FILE] [--seed 0] [--automatic 60] [--seconds 240]

A mutant is the library with one module changed (`mutant_catalogue`, `automatic_mutants`), run in a process of its own.
It is killed by the first check (`mutant_checks`) that fails or cannot be run. For the interpreter's faults the table
also shows the relative error of E[Zhat], which is all that a test of the evidence could find, and the largest error of
the measure on whole traces relative to Z. A seeded fault that survives makes the program exit with status 1; automatic
mutants that survive are listed with their place, for a person to call them equivalent (`equivalent_mutants`) or to add
the check that is missing.
"""

from __future__ import annotations

import collections
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.automatic_mutants import Change, sampled
from benchmarks.equivalent_mutants import EQUIVALENT
from benchmarks.mutant_catalogue import MUTANTS, QUICK, P, R
from benchmarks.mutant_loading import Seeding, forked, prepare
from benchmarks.record import Row, parser, write

ROOT = Path(__file__).parent.parent


def _said(error: Exception) -> str:
    """What an exception says in one line, without the folder that the library stands in."""
    first = (str(error).splitlines() or [""])[0].replace(f"{ROOT}/", "")
    return f"raises {type(error).__name__}: {first}"[:200]


def killed(
    module: str, source: str | None, own: tuple[str, str, float] | None = None, first: str = ""
) -> dict[str, Any]:
    """Run a module's checks until one fails; in the mutant's own process."""
    if source is not None:
        sys.meta_path.insert(0, Seeding(module, source))
    found: dict[str, Any] = {"evidence": None, "measure": None, "tier": None, "check": None, "found": None}
    try:
        import benchmarks.mutant_checks as suite
    except Exception as error:
        return {**found, "tier": "import", "check": "import", "found": _said(error)}
    try:
        if own is not None:
            found["evidence"], found["measure"] = suite.errors_of(*own)
            if not found["measure"] <= 1e-12:
                what = f"{own[0]}: masses off by {found['measure']:.2g}"
                return {**found, "tier": suite.MEASURE, "check": "errors_of", "found": what}
        for check in sorted(suite.BY_MODULE[module], key=lambda c: c.name != first):
            found.update(tier=check.tier, check=check.name)
            if what := check.run():
                return {**found, "found": what}
    except Exception as error:
        found["tier"] = found["tier"] or suite.MEASURE
        found["check"] = found["check"] or "errors_of"
        return {**found, "found": _said(error)}
    return {**found, "tier": None, "check": None}


def examined(module: str, source: str | None, seconds: float, own: Any = None, first: str = "") -> dict[str, Any]:
    """`killed` in a fork; a mutant that does not come back is killed as well."""
    result = forked(lambda: killed(module, source, own, first), seconds)
    if "stopped" in result:
        result = {"evidence": None, "measure": None, "tier": "stopped", "check": None, "found": result["stopped"]}
    return result


def seeded_faults(*, quick: bool, seconds: float, known: dict[str, Any]) -> list[dict[str, Any]]:
    """The kill matrix of the catalogue; on a quick run every `QUICK`-th of it. `known` rows are not run again."""
    print(f"{'fault':<56} {'E[Zhat]/Z-1':>11} {'measure/Z':>10}  killed by", flush=True)
    rows = []
    for mutant in MUTANTS[::QUICK] if quick else MUTANTS:
        if mutant.name in known:
            rows.append(known[mutant.name])
            continue
        own = (
            (mutant.program, mutant.scheme, mutant.threshold) if mutant.module in (P, R) and not mutant.first else None
        )
        result = examined(mutant.module, mutant.source(), seconds, own, mutant.first)
        rows.append({"fault": mutant.name, "module": mutant.module, **result})
        numbers = ["-" if result[k] is None else f"{result[k]:+.1%}" for k in ("evidence", "measure")]
        by = f"{result['tier']}: {result['check']}: {result['found']}" if result["tier"] else "SURVIVES"
        print(f"{mutant.name:<56} {numbers[0]:>11} {numbers[1]:>10}  {by[:150]}", flush=True)
    return rows


def automatic_faults(
    count: int, seed: int, seconds: float, until: float, known: dict[str, Any]
) -> list[dict[str, Any]]:
    """A sample of the automatic mutants, as far as the time reaches; `known` rows are judged and not run again."""
    rows = []
    for change in sampled(count, seed):
        if row := known.get((change.place, change.mutated_line())):
            rows.append({**row, "change": change.identity, "verdict": _verdict(change, row)})
            continue
        if time.monotonic() > until:
            break
        result = examined(change.module, change.source(), seconds)
        verdict = _verdict(change, result)
        place = change.place
        rows.append({"place": place, "rule": change.rule, "change": change.identity, "verdict": verdict, **result})
        rows[-1]["line"] = change.mutated_line()
        by = f"{result['tier']}: {result['check']}" if result["tier"] else EQUIVALENT.get(change.identity, "")
        print(f"{verdict:<10} {place:<52} {change.rule:<18} {by[:60]}", flush=True)
        if verdict == "survived":
            print(f"           {change.identity}", flush=True)
    return rows


def _verdict(change: Change, result: dict[str, Any]) -> str:
    found = result["found"] or ""
    if "raises TypeError" in found and "missing" in found and "argument" in found:
        return "not legal"  # a removed argument that the callee requires: no mutant
    if result["tier"]:
        return "killed"
    return "equivalent" if change.identity in EQUIVALENT else "survived"


def _tiers(rows: list[dict[str, Any]]) -> str:
    counts = collections.Counter(row["tier"] for row in rows if row["tier"])
    return ", ".join(f"{tier} {n}" for tier, n in counts.most_common())


def main(argv: list[str] | None = None) -> int:
    """Print the tables; the exit status is 1 if a seeded fault survives."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--automatic", type=int, default=60, help="number of automatic mutants")
    options.add_argument("--seconds", type=float, default=240.0, help="limit of one mutant")
    options.add_argument("--minutes", type=float, default=600.0, help="start no automatic mutant after so long")
    options.add_argument("--cache", type=Path, help="folder that keeps compiled code for the next run")
    options.add_argument("--trust", action="store_true", help="do not run the checks on the unchanged library first")
    options.add_argument("--resume", action="store_true", help="go on with the file of --json: the same source only")
    chosen = options.parse_args(argv)
    before: dict[str, Any] = {"seeded": [], "automatic": []}
    if chosen.resume:
        before = json.loads(chosen.json.read_text())
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        prepare(chosen.cache or Path(cache))
        if not (chosen.quick or chosen.trust):
            for module in dict.fromkeys(m.module for m in MUTANTS):
                result = examined(module, None, 10 * chosen.seconds)
                if result["tier"]:
                    raise SystemExit(f"the library itself fails: {module}: {result}")
            print(f"the library itself passes every check ({time.monotonic() - begin:.0f} s)", flush=True)
        faults = seeded_faults(
            quick=chosen.quick, seconds=chosen.seconds, known={row["fault"]: row for row in before["seeded"]}
        )
        middle = time.monotonic()
        count = min(chosen.automatic, 4) if chosen.quick else chosen.automatic
        # What survived is run again: the checks may have grown since.
        known = {(row["place"], row["line"]): row for row in before["automatic"] if row["verdict"] != "survived"}
        made = automatic_faults(count, chosen.seed, chosen.seconds, begin + 60 * chosen.minutes, known)
    end = time.monotonic()
    alive = [row["fault"] for row in faults if not row["tier"]]
    verdicts = collections.Counter(row["verdict"] for row in made)
    real = verdicts["killed"] + verdicts["survived"]
    rows = [
        Row("seeded faults in all", len(faults), "faults", None if chosen.quick else 45, "higher"),
        Row(
            "seeded faults killed",
            1 - len(alive) / len(faults),
            "share",
            1.0,
            "higher",
            f"{_tiers(faults)}{'; alive: ' + ', '.join(alive) if alive else ''}",
            n=len(faults),
            seconds=middle - begin,
        ),
        Row(
            "automatic mutants killed, of those not equivalent",
            verdicts["killed"] / real if real else None,
            "share",
            0.95,
            "higher",
            f"{verdicts['killed']} killed, {verdicts['survived']} survived, {verdicts['equivalent']} equivalent, "
            f"{verdicts['not legal']} not legal; seed {chosen.seed}; {_tiers(made)}",
            n=real,
            seconds=end - middle,
        ),
    ]
    for row in rows:
        print(row, flush=True)
    content = write(None, "mutants", chosen.quick, rows)
    content |= {"seeded": faults, "automatic": made}
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
