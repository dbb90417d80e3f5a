"""What ``import mlartifacts`` costs over ``import fsspec``: goal, under 10 ms."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import interleaved, table


def measure() -> None:
    """Print the time of a process that imports each."""
    ways = {
        "import fsspec": "import fsspec",
        "import fsspec, mlartifacts": "import fsspec, mlartifacts",
    }
    seconds = interleaved({name: lambda code=code: run(code) for name, code in ways.items()}, 15)
    table("Import (a whole process)", seconds, "import fsspec")
    over = seconds["import fsspec, mlartifacts"] - seconds["import fsspec"]
    print(f"  {'over fsspec':<46} {over * 1e3:10.2f} ms  (goal: under 10)")


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
