"""Write the tables of docs/black-box.md from a recorded run of benchmarks/steering.py.

    python -m benchmarks.steering_table [benchmarks/results/steering.json]

Prints what is missing or missed.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
#: What halving spends where the others spend 48, 192 and 768 calls.
HALVED = {24: 48, 90: 192, 360: 768}
PAGE = ROOT / "docs" / "black-box.md"


def letter_table(claims: list[dict]) -> str:
    """Mean estimate and mean Z^ / Z of every method, case and size."""
    pattern = re.compile(r"case (\w), (\d+) generator calls, (.*): answer right")
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in claims:
        match = pattern.fullmatch(row["claim"])
        told = re.search(r"mean estimate ([\d.]+); E Z\^/Z ([\d.]+)", row["peer"])
        if match and told:
            case, calls, method = match[1], int(match[2]), match[3]
            right, ratio = told.groups()
            size = round(calls / 12) if "look-ahead" not in method else round(calls / 23)
            found.setdefault(method, {})[case, size] = f"{float(right):.3f} ({float(ratio):.2g})"
    columns = [(case, size) for case in "ABCD" for size in (4, 16, 64)]
    lines = ["| method | " + " | ".join(f"{c}: {n}" for c, n in columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {m} | " + " | ".join(cells.get(c, "missing") for c in columns) + " |" for m, cells in found.items()]
    return "\n".join(lines)


def accuracy_table(claims: list[dict]) -> str:
    """Success of the answer at the budgets of 48, 192 and 768 generator calls."""
    pattern = re.compile(r"case (\w), (at most )?(\d+) generator calls, (.*): answer right")
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in claims:
        match = pattern.fullmatch(row["claim"])
        if match:
            calls, method = int(match[3]), match[4]
            if "look-ahead" in method:
                calls = 12 * round(calls / 23)
            elif "halved" in method:
                calls = HALVED[calls]
            found.setdefault(method, {})[match[1], calls] = f"{row['value']:.3f}"
    columns = [(case, calls) for case in "ABCD" for calls in (48, 192, 768)]
    lines = ["| method | " + " | ".join(f"{c}: {n}" for c, n in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for method, cells in found.items():
        shown = {c: cells.get(c, cells.get((c[0], 12), "") if method == "greedy" else "") for c in columns}
        lines.append(f"| {method} | " + " | ".join(shown[c] for c in columns) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Replace what stands between the markers of the page."""
    path = pathlib.Path(argv[0]) if argv else ROOT / "benchmarks" / "results" / "steering.json"
    rows = json.loads(path.read_text())["rows"]
    text = PAGE.read_text()
    for name, table in (("letters", letter_table(rows)), ("accuracy", accuracy_table(rows))):
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, rest = text.split(start)
        text = head + start + "\n" + table + "\n" + end + rest.split(end)[1]
    PAGE.write_text(text)
    for row in rows:
        if row["met"] is False:
            print(f"missed: {row['claim']}: {row['value']} (target {row['target']})")


if __name__ == "__main__":
    main(sys.argv[1:])
