"""The time from a measurement to the belief after it, one track and a thousand, beside other packages.

python -m benchmarks.streaming --json benchmarks/results/streaming.json

Peers come from an environment of their own: `make peers`. A peer that is not installed is named in the rows. All
compute in float32 but those in NumPy (filterpy, Stone Soup: float64). Rows called "bound" time the parts of an update
alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

import smc
from benchmarks import record
from benchmarks import tracking_peers as peers
from benchmarks.record import Row, quartiles, rows_of
from benchmarks.tracking_peers import Step

_PEERS: dict[str, Callable[[int], Step]] = {
    "plain JAX": peers.plain_jax,
    "cuthbert": peers.by_cuthbert,
    "filterpy": peers.by_filterpy,
    "Stone Soup": peers.by_stonesoup,
}


def latencies(steps: dict[str, Step], series: np.ndarray, skip: int = 10) -> dict[str, np.ndarray]:
    """Milliseconds of every update, packages in turn; the first `skip`, which compile, are left out.

    The order is drawn anew every time: who comes after a package that fills the caches is slower.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for z in series:
        for name in rng.permutation(list(steps)):
            began = time.perf_counter()
            steps[name](z)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(times[skip:]) for name, times in taken.items()}


def single(quick: bool, seed: int, num: int) -> Iterator[Row]:
    """Latency of one update of one track."""
    steps: dict[str, Step] = {
        "standard generator": peers.ours(smc.ParticleFilter(num)),
        "fast generator": peers.ours(smc.ParticleFilter(num), fast=True),
    }
    missing = []
    for name, make in _PEERS.items():
        try:
            steps[name] = make(num)
        except ImportError as error:
            missing.append(f"{name} not installed ({error})")
    found = latencies(steps, peers.radar_series(seed, 40 if quick else 400))
    theirs = {name: float(np.median(found[name])) for name in _PEERS if name in found}
    best = min(theirs, key=lambda name: theirs[name])
    said = ", ".join(f"{name} {ms:.3g} ms (fastest {np.min(found[name]):.3g})" for name, ms in theirs.items())
    for name in ("standard generator", "fast generator"):
        mine = float(np.median(found[name]))
        yield Row(
            f"one update, range-bearing tracking, N = {num}, {name}: time over the best peer's",
            mine / theirs[best],
            "ratio",
            0.5,
            peer=f"{mine:.3g} ms (fastest {np.min(found[name]):.3g}) beside {said}"
            + "".join(f"; {m}" for m in missing),
            n=len(found[name]),
            spread=quartiles(found[name] / theirs[best]),
        )


def kalman(quick: bool, seed: int) -> Row:
    """Latency of one update of the extended Kalman filter: what the door and the dispatch cost."""
    steps = {"ours": peers.ours(smc.EKF()), "plain JAX": peers.plain_ekf()}
    found = latencies(steps, peers.radar_series(seed, 40 if quick else 400))
    mine, theirs = (float(np.median(found[name])) for name in ("ours", "plain JAX"))
    return Row("one update, extended Kalman filter: time", mine, "ms", None, peer=f"plain JAX {theirs:.3g} ms", n=400)


def parts(quick: bool, num: int, tracks: int | None = None) -> Iterator[Row]:
    """What the parts of an update take alone: their sum is a bound that no way of putting them together gets under."""
    found = latencies(peers.parts(num, tracks), np.zeros(20 if quick or tracks else 200), skip=4)
    what = f"one update, N = {num}" if tracks is None else f"{tracks} tracks in one call, N = {num}"
    for name, taken in found.items():
        value, fastest = float(np.median(taken)), float(np.min(taken))
        peer = f"fastest {fastest:.3g} ms"
        yield Row(f"bound: {what}: {name}", value, "ms", None, peer=peer, n=len(taken), spread=quartiles(taken))


def batched(quick: bool, seed: int, num: int) -> Iterator[Row]:
    """Tracks per second when a thousand are updated in one call."""
    tracks = 20 if quick else 1000
    length = 14 if quick else 30
    series = np.stack([peers.radar_series(seed + k, length) for k in range(tracks)], 1)
    steps = {
        "standard generator": peers.ours_batched(smc.ParticleFilter(num), tracks, fast=False),
        "fast generator": peers.ours_batched(smc.ParticleFilter(num), tracks, fast=True),
        "plain JAX under vmap": peers.plain_jax_batched(num, tracks),
    }
    found = latencies(steps, series, skip=4)
    looped = latencies({"one": peers.plain_jax(num)}, series[:, 0].repeat(10, 0))["one"]
    times = {"plain JAX under vmap": float(np.median(found["plain JAX under vmap"])), "plain JAX in a loop": 0.0}
    times["plain JAX in a loop"] = tracks * float(np.median(looped))
    for name in ("standard generator", "fast generator"):
        mine = float(np.median(found[name]))
        for (peer, theirs), target in zip(times.items(), (4.0, 20.0), strict=True):
            yield Row(
                f"{tracks} tracks in one call, N = {num}, {name}: throughput over {peer}",
                theirs / mine,
                "ratio",
                target,
                "higher",
                peer=f"{1e3 * tracks / mine:.3g} updates per second; {mine:.3g} ms beside {theirs:.3g} ms",
                n=len(found[name]),
                spread=quartiles(theirs / found[name]),
            )


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write the rows."""
    args = record.parser(__doc__.splitlines()[0]).parse_args(argv)
    rows: list[Row] = []
    for num in (1000,) if args.quick else (1000, 10_000):
        rows.extend(rows_of(f"one update, N = {num}", "ratio", 0.5, lambda num=num: single(args.quick, args.seed, num)))
        rows.extend(rows_of("bound: parts of an update", "ms", None, lambda num=num: parts(args.quick, num)))
        record.write(args.json, "streaming", args.quick, rows)
    rows.extend(rows_of("extended Kalman filter", "ms", None, lambda: kalman(args.quick, args.seed)))
    rows.extend(rows_of("tracks in one call", "ratio", 4.0, lambda: batched(args.quick, args.seed, 1000)))
    tracks = 20 if args.quick else 1000
    rows.extend(rows_of("bound: parts of a batch", "ms", None, lambda: parts(args.quick, 1000, tracks)))
    record.write(args.json, "streaming", args.quick, rows)
    met = [row.met for row in rows]
    print(f"{met.count(True)} met, {met.count(False)} missed, {met.count(None)} shown")
    return rows


if __name__ == "__main__":
    main()
