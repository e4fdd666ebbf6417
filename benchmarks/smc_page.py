"""Write the tables and the picture of docs/smc-performance.md from the recorded rows.

python -m benchmarks.smc_page --json benchmarks/results/smc.json
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from typing import Any

_ROOT = pathlib.Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "smc-performance.md"
_PICTURE = _ROOT / "docs" / "images" / "filter-scaling.png"

# Heading of a table: what its claims begin with.
TABLES = {
    "Bootstrap filter": ("bootstrap filter, ",),
    "Programs": ("bootstrap filter as a program",),
    "Resampling": ("systematic", "stratified", "multinomial", "residual", "killing", "ssp"),
    "Smoothing": ("backward sampling",),
    "PMMH": ("PMMH",),
    "SMC²": ("SMC²",),
    "Tempered samplers": ("logistic regression", "skewed", "bimodal"),
    "Memory": ("particle filter, history",),
    "Growth": ("particle filter, standard generator: exponent", "particle filter, fast generator: exponent"),
}
_POINT = re.compile(r"particle filter, (.*), time as (\w) grows, \w = (\d+)$")
_LABELS = {
    "N": ("particles N\n(d = 1)", "ns a particle-step"),
    "T": ("steps T\n(N = 1000, d = 1)", "µs a step"),
    "d": ("state dimension d\n(N = 5000, T = 100)", "ns a particle-step and coordinate"),
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    if not rows:
        return "No recorded run yet."
    lines = ["| what | found | target | |", "| --- | --- | --- | --- |"]
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        sign = "≤" if row["better"] == "lower" else "≥"
        target = "" if row["target"] is None else f"{sign} {row['target']:g}"
        mark = {True: "met", False: "**missed**", None: ""}[row["met"]]
        why = f" ({row['peer']})" if row["value"] is None else ""
        lines.append(f"| {row['claim']}{why} | {value} | {target} | {mark} |")
    return "\n".join(lines)


def _short(value: int) -> str:
    return f"1e{len(str(value)) - 1}" if value >= 10_000 else str(value)


def picture(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Time by what it should be proportional to, as N, T and d grow; bars are quartiles."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from probinf.plots.style import style

    points: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for row in rows:
        match = _POINT.match(row["claim"])
        if match and row["value"] is not None:
            generator, axis, value = match.groups()
            points.setdefault((axis, generator), []).append((int(value), row["value"], *row["spread"]))
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(10, 3))
        for panel, (axis, (across, up)) in zip(panels, _LABELS.items(), strict=True):
            for (which, generator), found in points.items():
                if which != axis:
                    continue
                x, y, low, high = zip(*sorted(found), strict=True)
                below = [max(b - a, 0) for a, b in zip(low, y, strict=True)]
                above = [max(b - a, 0) for a, b in zip(y, high, strict=True)]
                panel.errorbar(x, y, (below, above), marker="o", markersize=4, capsize=2, label=generator)
            values = sorted({x for (which, _), found in points.items() if which == axis for x, *_ in found})
            panel.set(xscale="log", xlabel=across, ylabel=up)
            panel.set_xticks(values, [_short(x) for x in values], minor=False)
            panel.set_xticks([], minor=True)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
        panels[0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
        plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Write the page's tables and the picture; print what is missing or missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, default=_ROOT / "benchmarks" / "results" / "smc.json")
    parser.add_argument("--page", type=pathlib.Path, default=_PAGE)
    parser.add_argument("--picture", type=pathlib.Path, default=_PICTURE)
    args = parser.parse_args(argv)
    content = json.loads(args.json.read_text())
    rows = content["rows"]
    picture(rows, args.picture)
    page = args.page.read_text()
    for heading, starts in TABLES.items():
        chosen = [row for row in rows if row["claim"].startswith(starts)]
        if not chosen:
            print(f"missing: no rows for {heading}")
        begin, end = f"<!-- {heading} -->", "<!-- end -->"
        head, rest = page.split(begin, 1)
        page = head + begin + "\n" + table(chosen) + "\n" + end + rest.split(end, 1)[1]
    args.page.write_text(page)
    for row in rows:
        if row["met"] is False:
            print(f"missed: {row['claim']}: {row['value']} {row['unit']} (target {row['target']})")


if __name__ == "__main__":
    main()
