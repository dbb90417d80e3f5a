"""The main job in one minute: write artifacts of a run, and read them back where they lie.

Run it with ``make demo``. It needs no server and no credentials: the artifact root is a local
folder. Set ``ARTIFACT_ROOT`` to any artifact URI (``s3://bucket/demo``, ``sftp://user@host/demo``,
...) to do the same there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds

import mlartifacts

HERE = Path(__file__).parent
BOLD, DIM, GREEN, PLAIN = (
    ("\033[1m", "\033[2m", "\033[32m", "\033[0m") if os.isatty(1) else ("", "", "", "")
)


def main() -> None:
    started = time.perf_counter()
    root = os.environ.get("ARTIFACT_ROOT") or "demo-artifacts"
    run = root.rstrip("/") + "/0/8f2c1d/artifacts"
    url = mlartifacts.to_url(run)  # the spelling that pandas hands to fsspec

    step(f"A run logs its artifacts under {run}")
    penguins = pd.read_csv(HERE / "penguins" / "penguins.csv")
    penguins.to_csv(f"{url}/data/penguins.csv", index=False)
    did("pandas wrote  data/penguins.csv", f"{len(penguins)} penguins, {penguins.shape[1]} columns")
    penguins.to_parquet(f"{url}/data/penguins.parquet", index=False)
    did("pandas wrote  data/penguins.parquet", "the same table, in columns")
    card = {
        "name": "penguin-weight",
        "task": "body mass from flipper length",
        "data": "Palmer penguins, CC0 1.0",
        "grams_per_millimetre": round(slope(penguins), 1),
    }
    with mlartifacts.open(f"{run}/model/card.json", "w") as file:
        json.dump(card, file, indent=2)
    did("open() wrote  model/card.json", "published only when the block ended well")

    step("The tree, as any fsspec filesystem lists it")
    fs, path = mlartifacts.url_to_fs(run)
    print(f"{DIM}{indent(fs.tree(path, display_size=True))}{PLAIN}")

    step("Read back where it lies: nothing is downloaded first")
    table = pd.read_csv(f"{url}/data/penguins.csv")
    if not table.equals(penguins):
        raise SystemExit("The CSV came back different.")
    did("pandas read   data/penguins.csv", f"{len(table)} rows, equal to what was written")

    columns = ds.dataset(path + "/data/penguins.parquet", filesystem=fs).to_table(
        columns=["species", "body_mass_g"]
    )
    did("pyarrow read  two columns of data/penguins.parquet", f"{columns.num_rows} rows")
    means = columns.to_pandas().groupby("species")["body_mass_g"].mean()
    for species, grams in means.items():
        print(f"      {species:<10} {bar(grams)} {grams / 1000:.2f} kg")

    with mlartifacts.open(f"{run}/model/card.json", "r") as file:
        read = json.load(file)
    if read != card:
        raise SystemExit("The model card came back different.")
    did("open() read   model/card.json", f"{read['grams_per_millimetre']} g a mm of flipper")

    step("A write that fails leaves what was there")
    try:
        with mlartifacts.open(f"{run}/model/card.json", "w") as file:
            file.write('{"half a ca')
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        with mlartifacts.open(f"{run}/model/card.json", "r") as file:
            kept = json.load(file) == card
    if not kept:
        raise SystemExit("The model card was lost.")
    did("interrupted   model/card.json", "and still whole")

    print(
        f"\n{GREEN}Done{PLAIN} in {time.perf_counter() - started:.1f} s. The same lines work on"
        " s3://, gs://, wasbs://, sftp://, ftp:// and hdfs://;\nthe README's table says which"
        " credentials each store takes.\n"
    )


def slope(penguins: pd.DataFrame) -> float:
    pairs = penguins[["flipper_length_mm", "body_mass_g"]].dropna()
    centred = pairs - pairs.mean()
    return float(
        (centred.flipper_length_mm * centred.body_mass_g).sum()
        / (centred.flipper_length_mm**2).sum()
    )


def step(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}")


def did(what: str, how: str) -> None:
    print(f"  {GREEN}✓{PLAIN} {what:<50} {DIM}{how}{PLAIN}")


def bar(grams: float) -> str:
    return "█" * round(grams / 250)


def indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


if __name__ == "__main__":
    main()
