"""Timing two ways of doing one thing so that a machine's moods hit both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int = 7, number: int = 1
) -> dict[str, float]:
    """Median seconds of each way, run in turn: A B A B ... after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(number):
                way()
            if turn:
                taken[name].append((time.perf_counter() - started) / number)
    return {name: statistics.median(values) for name, values in taken.items()}


def table(title: str, seconds: Mapping[str, float], against: str, unit: str = "ms") -> None:
    """Print each way's median, and its ratio to the way it is measured against."""
    scale = {"s": 1, "ms": 1e3, "µs": 1e6}[unit]
    print(f"\n{title}")
    for name, value in seconds.items():
        ratio = "" if name == against else f"{value / seconds[against]:8.2f} x"
        print(f"  {name:<46} {value * scale:10.2f} {unit}{ratio}")
