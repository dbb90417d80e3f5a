"""What crosses the network when a part of a file is asked for, counted on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import mlartifacts
from tests.servers.moto import Moto
from tests.servers.tcp_proxy import Proxy, proxied

ROWS = 50_000
COLUMNS = [f"c{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """20 columns of random numbers, the first of them sorted."""
    rng = np.random.default_rng(3)
    columns = {name: rng.random(ROWS) for name in COLUMNS}
    columns["c00"] = np.arange(ROWS, dtype=np.float64)
    return pa.table(columns)


@pytest.fixture
def proxy(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """S3 behind a proxy that counts."""
    with proxied(moto_server.url) as proxy:
        for name, value in {**moto_server.env, "MLFLOW_S3_ENDPOINT_URL": proxy.url}.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def url(proxy: Proxy, moto_server: Moto, table: pa.Table) -> str:
    """A Parquet file of 8 MB in 10 row groups."""
    uri = f"{moto_server.new_root()}/wide.parquet"
    with mlartifacts.open(uri, "wb") as file:
        pq.write_table(table, file, row_group_size=ROWS // 10, compression="none")
    proxy.reset()
    return uri


def fetched(proxy: Proxy) -> int:
    return sum(request.body for request in proxy.requests)


def size_of(url: str) -> int:
    fs, path = mlartifacts.url_to_fs(url)
    size: int = fs.size(path)
    return size


def test_columns_by_pandas(url: str, proxy: Proxy, table: pa.Table) -> None:
    read = pd.read_parquet(mlartifacts.to_url(url), columns=["c03", "c11"])
    seen = fetched(proxy)
    assert read.equals(table.select(["c03", "c11"]).to_pandas())
    assert seen < 0.2 * size_of(url)


def test_columns_by_a_dataset(url: str, proxy: Proxy, table: pa.Table) -> None:
    fs, path = mlartifacts.url_to_fs(url)
    read = ds.dataset(path, filesystem=fs).to_table(columns=["c03", "c11"])
    seen = fetched(proxy)
    assert read.equals(table.select(["c03", "c11"]))
    assert seen < 0.2 * size_of(url)


def test_row_groups_by_a_dataset(url: str, proxy: Proxy) -> None:
    """The statistics in the footer say which of the ten groups can hold a row that is asked for."""
    fs, path = mlartifacts.url_to_fs(url)
    read = ds.dataset(path, filesystem=fs).to_table(filter=ds.field("c00") == 12_345)
    seen = fetched(proxy)
    assert read.num_rows == 1
    assert seen < 0.25 * size_of(url)


# dask calls what pandas has deprecated since.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index is deprecated")
def test_columns_by_dask(url: str, proxy: Proxy, table: pa.Table) -> None:
    import dask.dataframe as dd

    read = dd.read_parquet(mlartifacts.to_url(url), columns=["c03"])
    total = float(read["c03"].sum().compute(scheduler="synchronous"))
    seen = fetched(proxy)
    assert total == pytest.approx(float(np.sum(table["c03"].to_numpy())))
    assert seen < 0.25 * size_of(url)


def test_columns_by_duckdb(url: str, proxy: Proxy, table: pa.Table) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.register_filesystem(mlartifacts.filesystem(url))
        query = f"SELECT sum(c03) FROM read_parquet('{mlartifacts.to_url(url)}')"
        (row,) = connection.sql(query).fetchall()
    seen = fetched(proxy)
    assert row[0] == pytest.approx(float(np.sum(table["c03"].to_numpy())))
    assert seen < 0.5 * size_of(url)


def test_a_head_and_a_tail(url: str, proxy: Proxy) -> None:
    """A header at the start and an index at the end: the shape of most formats."""

    def peek(file: Any) -> tuple[bytes, bytes]:
        head = file.read(100)
        file.seek(-100, 2)
        return head, file.read()

    with mlartifacts.open(url) as file:
        head, tail = peek(file)
    assert head[:4] == tail[-4:] == b"PAR1"
    assert fetched(proxy) < 100_000
