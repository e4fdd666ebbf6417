"""The tables and the pictures of `examples/outdoor_uwb.py`."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.uwb_recording import STRETCH

if TYPE_CHECKING:
    from examples.outdoor_uwb import Result

UNITS = {"range_sd": "m", "acceleration": "m²/s³", "outlier_share": None}


def report(result: Result) -> str:
    """The tables, as text."""
    lines = [
        "Filters (horizontal error; NEES of 2 dimensions; nats per range; microseconds per update)",
        f"{'recording':<10}{'method':<17}{'RMSE m':>8}{'NEES':>9}{'log score':>11}{'log evidence':>14}"
        f"{'scan us':>9}{'stream us':>11}",
    ]
    lines += [
        f"{s.recording:<10}{s.method:<17}{s.rmse:>8.2f}{s.nees:>9.2f}{s.log_score:>11.2f}{s.log_evidence:>14.1f}"
        f"{s.update_us:>9.0f}{s.streamed_us:>11.0f}"
        for s in result.scores
    ]
    lines += [
        "",
        f"Noise levels from {STRETCH['seconds']:g} s of {STRETCH['recording']} starting at {STRETCH['start']:g} s "
        "(mean ± sd)",
        f"{'parameter':<15}{'NUTS':>18}{'SMC²':>18}{'apart, MCSE':>13}{'sd ratio':>10}",
    ]
    for row in result.agreement:
        nuts, smc2 = (f"{m:.3f} ± {s:.3f}" for m, s in (row.nuts, row.smc2))
        verdict = "agree" if row.agree else "DISAGREE"
        lines.append(
            f"{row.parameter:<15}{nuts:>18}{smc2:>18}{row.errors_apart:>13.1f}{row.sd_ratio:>10.2f}  {verdict}"
        )
    evidence = result.posteriors["SMC²"].log_evidence
    lines.append(f"log evidence of the stretch by SMC²: {evidence:.1f} nats")
    return "\n".join(lines)


def figures(result: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw and save the pictures; their paths."""
    import matplotlib.pyplot as plt

    from probinf.plots.cloud import plot_cloud
    from probinf.plots.evidence import plot_ess_and_evidence
    from probinf.plots.marginal import plot_marginal
    from probinf.plots.style import style
    from probinf.plots.track import plot_track

    paths = []

    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=130)
        plt.close(figure)
        paths.append(out / name)

    with style():
        for recording in result.recordings:
            run = result.runs[recording.name]["particle filter"]
            figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
            plot_track(
                np.asarray(run.means)[:, :2],
                np.asarray(run.covs)[:, :2, :2],
                truth=recording.truth[:, 1:],
                landmarks=recording.anchors[:, :2],
                label="particle filter",
                ax=ax,
            )
            ax.set_title(f"{recording.name}: the particle filter's track and the truth")
            save(figure, f"track_{recording.name}.png")
        first = result.recordings[0]
        run = result.runs[first.name]["particle filter"]
        figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
        second = np.floor(run.times).astype(int)  # 36 events a second are a solid block: show the worst of each
        seconds, begins = np.unique(second, return_index=True)
        num_particles = run.belief.state.particles.shape[0]
        plot_ess_and_evidence(
            seconds,
            np.minimum.reduceat(run.ess, begins),
            np.cumsum(run.predictive_log_densities)[np.append(begins[1:], len(second)) - 1],
            num_particles=num_particles,
            threshold=0.5 * num_particles,
            time_unit="s",
            ax=ax,
        )
        ax.set_title(f"{first.name}: lowest effective sample size of each second, and evidence")
        save(figure, "ess_and_evidence.png")
        when, particles, log_weights, truth = result.hard_moment
        figure, ax = plt.subplots(figsize=(5.2, 5.2), layout="constrained")
        plot_cloud(particles, log_weights=log_weights, truth=truth, names=("x", "y"), unit="m", ax=ax)
        ax.set_title(f"{first.name}, t = {when:.1f} s: the belief is an arc (x is drawn wider than y)")
        save(figure, "arc.png")
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
        for ax, (name, unit) in zip(axes, UNITS.items(), strict=True):
            for (label, posterior), color in zip(result.posteriors.items(), ("#1f6f8b", "#d1713a"), strict=True):
                plot_marginal(
                    posterior[name],
                    log_weights=posterior.log_weights,
                    name=name,
                    unit=unit,
                    label=label,
                    color=color,
                    ax=ax,
                )
        for ax in axes[1:]:
            ax.get_legend().remove()
        save(figure, "noise_levels.png")
    return paths
