"""The outcome of checks: a table to read, a verdict to assert, rows to publish."""

from __future__ import annotations

import dataclasses
from typing import Any

#: Total probability that a suite of statistical checks raises a false alarm, shared among them.
FALSE_ALARM_BUDGET = 1e-6
#: Statistical checks that the budget is shared among: ranks of kernels, calibration, evidence, families of
#: distributions. `probinf validate` counts and refuses to make more.
STATISTICAL_CHECKS = 600
#: The smallest p-value that passes.
LEAST_P = FALSE_ALARM_BUDGET / STATISTICAL_CHECKS


@dataclasses.dataclass(frozen=True)
class Check:
    """One claim of one thing, checked on one program.

    Attributes:
        thing: the transformation, kernel or algorithm, with its settings.
        claim: what was checked: "exact", "unbiased", "invariant", "reversible", ...
        program: name of the program it was checked on.
        statistic: what was measured.
        bound: what it is held to: a tolerance, or for statistical checks the smallest p-value that passes.
        level: "exact" or "statistical".
        passed: the verdict; None where the check does not apply.
        note: the reason, where it failed or does not apply.
    """

    thing: str
    claim: str
    program: str
    statistic: float
    bound: float
    level: str = "exact"
    passed: bool | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """In one word."""
        return "-" if self.passed is None else "holds" if self.passed else "FAILS"


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """All checks of one call, failures first when printed."""

    checks: tuple[Check, ...]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return any(c.passed for c in self.checks) and not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed, the smallest program first (checks are made in that order)."""
        return tuple(c for c in self.checks if c.passed is False)

    def __bool__(self) -> bool:
        return self.passed

    def __add__(self, other: Report) -> Report:
        return Report(self.checks + other.checks, self.seconds + other.seconds)

    def summary(self) -> list[dict[str, Any]]:
        """One row per thing and claim: how many programs, which fail (the smallest first), the worst statistic."""
        rows: dict[tuple[str, str, str], list[Check]] = {}
        for check in self.checks:
            if check.passed is not None:
                rows.setdefault((check.thing, check.claim, check.level), []).append(check)
        table = []
        for (thing, claim, level), checks in rows.items():
            # Errors are bad when large, p-values when small.
            worst = (max if level == "exact" else min)(checks, key=lambda c: c.statistic)
            names = list(dict.fromkeys(c.program for c in checks))
            failed = list(dict.fromkeys(c.program for c in checks if c.passed is False))
            table.append(
                {
                    "thing": thing,
                    "claim": claim,
                    "level": level,
                    "programs": len(names),
                    "failed": failed,
                    "worst": worst.statistic,
                    "bound": worst.bound,
                    "verdict": "FAILS" if failed else "holds",
                }
            )
        return table

    def to_markdown(self) -> str:
        """The summary as a table for a page."""
        lines = ["| what | claim | checked | programs | worst | bound | verdict |", "| --- " * 7 + "|"]
        lines += [
            f"| `{row['thing']}` | {row['claim']} | {row['level']} | {row['programs']} | {row['worst']:.1e} | "
            f"{row['bound']:.0e} | {row['verdict']} |"
            for row in self.summary()
        ]
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        rows = self.summary()
        width = min(max([len(str(r["thing"])) for r in rows] + [5]), 60)
        lines = [f"{'':{width}}  {'claim':<12} {'checked':<11} {'programs':>8} {'worst':>9} {'bound':>7}"]
        for r in rows:
            name, failed = str(r["thing"]), r["failed"]
            name = name if len(name) <= width else name[: width - 3] + "..."
            where = f" on {', '.join(failed[:3])}{f' and {len(failed) - 3} more' if len(failed) > 3 else ''}"
            lines.append(
                f"{name:{width}}  {r['claim']:<12} {r['level']:<11} {r['programs']:>8} {r['worst']:>9.1e} "
                f"{r['bound']:>7.0e}  {r['verdict']}{where if failed else ''}"
            )
        done = sum(c.passed is not None for c in self.checks)
        lines.append(
            f"{done} checks, {len(self.failures)} failed, {self.seconds:.1f} s; exact: largest error of any mass; "
            f"statistical: smallest p-value, false alarms of the whole suite at most {FALSE_ALARM_BUDGET:g}"
        )
        if self.failures:
            first = self.failures[0]
            lines.append(f"Smallest failing program: {first.program} ({first.thing}). {first.note}")
        elif self.checks and not done:
            lines.append(f"Nothing could be checked. {self.checks[0].program}: {self.checks[0].note}")
        return "\n".join(lines)


def statistical_check(thing: str, claim: str, program: str, p: float, num_replicates: int, what: str = "") -> Check:
    """A check by a p-value, held to its share of the budget."""
    passed = bool(p >= LEAST_P)  # NaN fails
    note = "" if passed else f"p = {p:.3g} over {num_replicates} replicates{what}."
    return Check(thing, claim, program, float(p), LEAST_P, "statistical", passed, note)
