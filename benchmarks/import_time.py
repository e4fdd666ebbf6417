"""Time to import probinf, beside the imports of JAX and NumPyro that nobody who uses it can avoid.

    python -m benchmarks.import_time --json benchmarks/results/import_time.json

Each import is made in fresh processes, turn by turn, after one of each that fills the caches of files.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmarks.record import Row, parser, quartiles, rows_of, write

TARGET = 1.3
CODES = {
    "jax and numpyro": "import jax, numpyro",
    "probinf": "import jax, numpyro, probinf",
    "probinf and its verbs": "import jax, numpyro, probinf as pi; pi.model, pi.infer, pi.NUTS, pi.System, pi.Filter",
    "probinf alone": "import probinf",
}


def seconds(code: str) -> float:
    """Time that a statement takes in a fresh process, without the start of Python."""
    timed = f"import time; begin = time.perf_counter()\n{code}\nprint(time.perf_counter() - begin)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def measure(repetitions: int) -> list[Row]:
    """Medians of all imports, and ratios to that of JAX and NumPyro."""
    for code in CODES.values():
        seconds(code)
    times = {name: [] for name in CODES}
    for _ in range(repetitions):
        for name, code in CODES.items():
            times[name].append(seconds(code))
    base = np.asarray(times["jax and numpyro"])
    rows = [Row("import of jax and numpyro", float(np.median(base)), "s", None, n=repetitions, spread=quartiles(base))]
    targets = {"probinf": TARGET, "probinf and its verbs": None, "probinf alone": None}
    for name, target in targets.items():
        found = np.asarray(times[name])
        detail = f"median {np.median(found):.3f} s"
        ratio = float(np.median(found) / np.median(base))
        rows.append(
            Row(f"import of {name}", ratio, "ratio", target, peer=detail, n=repetitions, spread=quartiles(found / base))
        )
    return rows


def main() -> None:
    """Measure and write."""
    args = parser(__doc__ or "").parse_args()
    rows = rows_of("import of probinf", "ratio", TARGET, lambda: measure(3 if args.quick else 15))
    write(args.json, "import_time", args.quick, rows)


if __name__ == "__main__":
    main()
