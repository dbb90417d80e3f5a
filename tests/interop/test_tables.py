"""Tables of other libraries, read and written where they lie, on every store."""

from __future__ import annotations

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

import mlartifacts
from tests.interop.conftest import stores

#: Of stores that differ in their names alone, one.
BY_DUCKDB = (
    *("local", "s3", "wasbs", "gcs", "sftp", "ftp", "hdfs"),
    *("runs-local", "runs-s3", "mlflow-artifacts", "mlflow-artifacts-s3"),
)

TABLE = pd.DataFrame({"x": range(100), "word": [f"wörd {n}" for n in range(100)]})


@stores()
def test_pandas(harbour):
    options = harbour.options or None
    for name, write, read in (
        ("table.parquet", TABLE.to_parquet, pd.read_parquet),
        ("folder of/table.csv", lambda u, **o: TABLE.to_csv(u, index=False, **o), pd.read_csv),
        ("table.csv.gz", lambda u, **o: TABLE.to_csv(u, index=False, **o), pd.read_csv),
    ):
        url = mlartifacts.to_url(harbour.uri(name))
        write(url, storage_options=options)
        pd.testing.assert_frame_equal(read(url, storage_options=options), TABLE)
    assert set(harbour.stored()) == {"table.parquet", "folder of/table.csv", "table.csv.gz"}


@stores("s3", "gcs", "hdfs", "wasbs")
def test_plain_urls_after_register(harbour, registered):
    """By URLs that pandas and dask leave to fsspec; others they open in ways of their own."""
    import dask.dataframe as dd

    url = harbour.uri("table.csv")
    TABLE.to_csv(url, index=False)
    assert set(harbour.stored()) == {"table.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(url), TABLE)
    with dask.config.set(scheduler="synchronous"):
        frame = dd.read_csv(url).compute()
    assert frame["x"].tolist() == TABLE["x"].tolist()


@stores()
def test_pandas_that_fails_leaves_what_was(harbour):
    class Bad:
        def __str__(self):
            raise ZeroDivisionError

    harbour.seed({"table.csv": b"old"})
    url = mlartifacts.to_url(harbour.uri("table.csv"))
    with pytest.raises(ZeroDivisionError):
        pd.DataFrame({"x": [1, Bad()]}).to_csv(url, storage_options=harbour.options or None)
    assert harbour.stored() == {"table.csv": b"old"}


@stores()
def test_pyarrow_reads_only_the_columns_and_row_groups_asked_for(harbour, fs, root):
    rng = np.random.default_rng(1)
    table = pa.table({f"c{n:02}": rng.random(20_000) for n in range(20)})
    path = f"{root}/wide.parquet"
    with fs.open(path, "wb") as file:
        pq.write_table(table, file, row_group_size=5_000, compression="none")
    size = fs.info(path)["size"]
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        assert parquet.read(columns=["c03"]).equals(table.select(["c03"]))
        assert parquet.read_row_group(2, columns=["c07"]).num_rows == 5_000
        if cache := getattr(file, "cache", None):  # a local file needs none
            assert cache.total_requested_bytes < 0.25 * size
    dataset = ds.dataset(path, filesystem=fs)
    assert dataset.to_table(columns=["c03"]).equals(table.select(["c03"]))


@stores()
def test_pyarrow_datasets_of_many_files(harbour, fs, root):
    table = pa.table({"part": ["a", "a", "b"], "x": [1, 2, 3]})
    pq.write_to_dataset(table, f"{root}/parts", partition_cols=["part"], filesystem=fs)
    dataset = ds.dataset(f"{root}/parts", filesystem=fs, partitioning="hive")
    assert dataset.to_table(filter=ds.field("part") == "a")["x"].to_pylist() == [1, 2]


@stores("s3", "wasbs", "sftp", "local", "runs-s3", "mlflow-artifacts-s3")
def test_pyarrow_by_url(harbour, registered):
    harbour.seed({"x.csv": b"x\n1\n"})
    url = f"fsspec+{mlartifacts.to_url(harbour.uri('x.csv'))}"
    assert ds.dataset(url, format="csv").to_table().to_pydict() == {"x": [1]}


@stores()
def test_dask(harbour):
    import dask.dataframe as dd

    url = mlartifacts.to_url(harbour.uri("table.parquet"))
    options = harbour.options or None
    TABLE.to_parquet(url, storage_options=options)
    frame = dd.read_parquet(url, storage_options=options)
    assert int(frame["x"].sum().compute(scheduler="synchronous")) == 4950


@stores(*BY_DUCKDB)
def test_duckdb(harbour, fs, root):
    import duckdb

    with fs.open(f"{root}/table.parquet", "wb") as file:
        TABLE.to_parquet(file)
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        url = mlartifacts.to_url(harbour.uri("table.parquet"))
        found = connection.sql(f"SELECT sum(x) FROM read_parquet('{url}')").fetchall()
    assert found == [(4950,)]


@stores(*BY_DUCKDB)
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_duckdb_that_fails_leaves_what_was(harbour, fs, format):
    import duckdb

    harbour.seed({"old": b"old"})
    query = (
        "SELECT CASE WHEN n = 400000 THEN error('mine') ELSE n::VARCHAR END FROM range(500000) t(n)"
    )
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        for name in ("old", "new"):
            url = mlartifacts.to_url(harbour.uri(name))
            with pytest.raises(duckdb.Error, match="mine"):
                connection.sql(f"COPY ({query}) TO '{url}' (FORMAT {format})")
    assert harbour.stored() == {"old": b"old"}


@stores()
def test_pyarrow_stream_that_fails_leaves_what_was(harbour, fs, root):
    harbour.seed({"file": b"old"})
    arrow = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs))
    with pytest.raises(ZeroDivisionError), arrow.open_output_stream(f"{root}/file") as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert harbour.stored() == {"file": b"old"}
    with arrow.open_output_stream(f"{root}/file") as stream:
        stream.write(b"new")
    assert harbour.stored() == {"file": b"new"}


@stores()
def test_polars(harbour, fs, root):
    """By a file, or lazily by a pyarrow dataset: polars' own readers know other clients."""
    import polars as pl

    path = f"{root}/table.parquet"
    with fs.open(path, "wb") as file:
        pl.DataFrame({"x": list(range(100))}).write_parquet(file)
    with fs.open(path, "rb") as file:
        assert pl.read_parquet(file)["x"].sum() == 4950
    lazy = pl.scan_pyarrow_dataset(ds.dataset(path, filesystem=fs))
    assert lazy.filter(pl.col("x") > 97).collect()["x"].to_list() == [98, 99]


# It has no path flavour of its own for these, takes its default, and says so.
@pytest.mark.filterwarnings("ignore:Could not find default for known protocol:UserWarning")
@stores("s3", "wasbs", "gcs", "runs-local", "runs-s3")
def test_universal_pathlib(harbour, fs, root):
    from upath import UPath

    url = harbour.base if harbour.scheme in {"wasbs", "runs"} else fs.unstrip_protocol(root)
    mlartifacts.register()
    try:
        path = UPath(url, **harbour.options) / "folder" / "a b.txt"
        path.write_text("über")
        assert harbour.stored() == {"folder/a b.txt": "über".encode()}
        assert path.read_text() == "über"
        assert [each.name for each in path.parent.iterdir()] == ["a b.txt"]
        path.unlink()
        assert harbour.stored() == {}
    finally:
        mlartifacts.unregister()
