"""A page about a comparison that stands alone: the table, curves and accuracy matrices, all in one file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from continual.metrics import over_seeds, summarise
from continual.plots import plot_average_accuracy, plot_mean_accuracy
from continual.running import Result

_COLUMNS = (
    ("average_accuracy", "average accuracy", "%", 100.0),
    ("forgetting", "forgetting", "%", 100.0),
    ("nll", "negative log likelihood", "nats", 1.0),
    ("calibration_error", "calibration error", "%", 100.0),
    ("ood_auroc", "out-of-distribution AUROC", "", 1.0),
    ("seconds", "training", "s", 1.0),
    ("memory", "kept between tasks", "MiB", 2**-20),
)
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;"
    "text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}figure{display:inline-block;margin:.5rem;vertical-align:top;width:19rem}figcaption{font-weight:600}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}img{background:#fff}}"
)


def page(title: str, notes: Sequence[str], runs: Mapping[str, Sequence[Result]]) -> str:
    """The page as HTML, pictures included.

    Args:
        title: of the comparison.
        notes: what the reader has to know about the settings, a paragraph each.
        runs: name of a learner to its runs, one for each seed.

    Raises:
        InferenceError: Matplotlib is not installed.
    """
    ranked = dict(sorted(runs.items(), key=lambda item: -_mean(item[1], "average_accuracy")))
    curves = _picture(lambda ax: plot_average_accuracy(ranked, ax=ax), (9.0, 4.5))
    matrices = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f"{_picture(lambda ax, r=results: plot_mean_accuracy(r, ax=ax), (4.2, 3.4))}</figure>"
        for name, results in ranked.items()
    )
    paragraphs = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{paragraphs}{_table(ranked)}"
        f"<h2>Average accuracy</h2>{curves}<h2>Accuracy matrices</h2>{matrices}</body></html>\n"
    )


def _table(runs: Mapping[str, Sequence[Result]]) -> str:
    head = "".join(f"<th>{name}{f' [{unit}]' if unit else ''}</th>" for _, name, unit, _ in _COLUMNS)
    rows = []
    for name, results in runs.items():
        found = over_seeds([summarise(result) for result in results])
        cells = "".join(f"<td>{_shown(*found[field][:2], factor)}</td>" for field, _, _, factor in _COLUMNS)
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{len(results)}</td>{cells}</tr>")
    return f"<table><tr><th>learner</th><th>seeds</th>{head}</tr>{''.join(rows)}</table>"


def _shown(mean: float, spread: float, factor: float) -> str:
    if mean != mean:
        return "–"
    text = f"{factor * mean:.3g}" if abs(factor * mean) < 10 else f"{factor * mean:.1f}"
    return text if spread != spread else f"{text} ± {factor * spread:.2g}"


def _mean(results: Sequence[Result], field: str) -> float:
    return over_seeds([summarise(result) for result in results])[field][0]


def _picture(draw: Callable[[Any], Any], size: tuple[float, float]) -> str:
    from probinf.plots.style import style

    with style():
        from matplotlib.figure import Figure

        figure, buffer = Figure(figsize=size), io.BytesIO()
        draw(figure.subplots())
        figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
