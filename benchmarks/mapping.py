"""From a URI to a cached filesystem and a path: goal, within 30 µs of fsspec's own."""

from __future__ import annotations

import fsspec.core

import mlartifacts
from benchmarks.timing import interleaved, table

URIS = {
    "s3://bucket/1/8f2c1d/artifacts/model.pkl": {"anon": True},
    "gs://bucket/1/8f2c1d/artifacts/model.pkl": {"token": "anon"},
    "file:///tmp/mlruns/1/8f2c1d/artifacts/model.pkl": {},
}


def measure() -> None:
    """Print the time of a call, the filesystem being there already."""
    for uri, options in URIS.items():
        raw, ours = f"fsspec.core.url_to_fs({uri[:5]}...)", "mlartifacts.url_to_fs"
        seconds = interleaved(
            {
                raw: lambda uri=uri, options=options: fsspec.core.url_to_fs(uri, **options),
                ours: lambda uri=uri, options=options: mlartifacts.url_to_fs(uri, **options),
                "mlartifacts.locate": lambda uri=uri, options=options: mlartifacts.locate(
                    uri, **options
                ),
            },
            number=2000,
        )
        table(f"Mapping {uri}", seconds, raw, "µs")
        over = seconds[ours] - seconds[raw]
        print(f"  {'over fsspec':<46} {over * 1e6:10.2f} µs  (goal: under 30)")
