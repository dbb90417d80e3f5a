"""What ``import mlartifacts`` costs over ``import fsspec``: goal, under 10 ms."""

from __future__ import annotations

import statistics
import subprocess
import sys

_TIMED = """
import time
start = time.perf_counter()
import fsspec
between = time.perf_counter()
import mlartifacts
print(between - start, time.perf_counter() - between)
"""


def measure() -> None:
    """Print the time that each import takes in a fresh process."""
    runs = [
        subprocess.run([sys.executable, "-c", _TIMED], check=True, capture_output=True, text=True)
        for _ in range(15)
    ]
    fsspec, ours = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    print("\nImport, in a fresh process")
    print(f"  {'import fsspec':<46} {statistics.median(fsspec) * 1e3:10.2f} ms")
    print(f"  {'then import mlartifacts':<46} {statistics.median(ours) * 1e3:10.2f} ms", end="")
    print("  (goal: under 10)")
