"""The main job's claims: evidence and filters that are exact where they should be, speed, NUTS, four models.

    python -m benchmarks.main_job --json benchmarks/results/main_job.json --reference FOLDER

FOLDER holds the reference posteriors, `posteriordb/NAME.json` and `own/NAME.json`; the environment variable
PROBINF_REFERENCE may name it instead. Without it their rows say so and miss.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable

import jax

import probinf as pi
from benchmarks import filter_accuracy, four_models, record
from benchmarks.filter_speed import compile_time, run_time
from benchmarks.posteriordb_models import CASES, compare, read
from benchmarks.record import Row, rows_of

QUICK_CASES = ("posteriordb/kidiq-kidscore_momiq",)
GROUPS = ("evidence", "filters", "speed", "nuts", "code", "time")


def nuts_row(name: str, folder: pathlib.Path, quick: bool, seed: int) -> Row:
    """NUTS against a reference posterior: the worst scalar, as a share of what is allowed.

    Allowed are means 4 joint Monte Carlo standard errors apart and standard deviations 10 % apart.
    """
    reference = read(folder / f"{name}.json")
    settings = {"num_draws": 2500, **CASES[name].settings}
    if quick:
        settings.update(num_draws=1000)
    posterior = pi.infer(CASES[name].program(reference["data"]), pi.NUTS(**settings), seed=seed, progress=False)
    found = compare(posterior, reference)
    (mean_of, apart), (sd_of, ratio) = found.worst_mean, found.worst_sd
    divergences = int(posterior.sample_stats["diverging"].sum())
    return Row(
        f"NUTS, {name}: worst of {len(found.names)} scalars, share of 4 joint MCSE (means) and 10 % (sds)",
        max(apart / 4.0, abs(ratio - 1.0) / 0.1),
        "share",
        1.0,
        peer=f"mean of {mean_of} {apart:.2f} MCSE apart, sd of {sd_of} times {ratio:.3f}; "
        f"smallest ESS {found.ess.min():.0f} of {posterior.num_chains} x {posterior.num_draws}; "
        f"{divergences} divergences; {posterior.sample_stats['n_steps'].mean():.0f} gradients a draw; "
        f"{posterior.method}; {settings}",
        n=posterior.num_chains * posterior.num_draws,
        seconds=posterior.seconds,
    )


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure the groups asked for, print and write the rows."""
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--reference", type=pathlib.Path, default=os.environ.get("PROBINF_REFERENCE"))
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of rows")
    parser.add_argument("--case", nargs="+", help="reference posteriors whose name contains one of these")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    rows: list[Row] = []

    def add(group: str, claim: str, make: Callable[[], Row | Iterable[Row]], target: float | None = None) -> None:
        if group in args.only:
            rows.extend(rows_of(claim, "", target, make))
            record.write(args.json, "main_job", quick, rows)  # what is done is not lost

    quick, seed = args.quick, args.seed
    add("evidence", "linear-Gaussian program", lambda: filter_accuracy.linear_gaussian(quick, seed), 3.0)
    add("evidence", "Nile", lambda: filter_accuracy.nile(quick, seed), 3.0)
    add("filters", "lidar-radar file", lambda: filter_accuracy.lidar_radar(quick, seed), 1.0)
    add("speed", "bootstrap filter as a program: run time", lambda: run_time(quick, seed), 1.25)
    add("speed", "bootstrap filter as a program: compile time", lambda: compile_time(quick, seed), 1.5)
    names = QUICK_CASES if quick else tuple(CASES)
    if args.case:
        names = tuple(name for name in CASES if any(part in name for part in args.case))
    for name in names:
        if args.reference is None:
            missing = Row(f"NUTS, {name}", None, "share", 1.0, peer="no --reference FOLDER and no PROBINF_REFERENCE")
            add("nuts", name, lambda missing=missing: missing)
        else:
            folder = pathlib.Path(args.reference)
            add("nuts", f"NUTS, {name}", lambda name=name, folder=folder: nuts_row(name, folder, quick, seed), 1.0)
    add("code", "lines of code", four_models.code_rows, 0.0)
    for name in ("eight_schools",) if quick else four_models.MODELS:
        claim = f"{name}: time to the first posterior"
        add("time", claim, lambda name=name: four_models.time_row(name, quick, seed))
    met = [row.met for row in rows]
    print(f"{met.count(True)} met, {met.count(False)} missed, {met.count(None)} shown")
    return rows


if __name__ == "__main__":
    main()
