"""Parquet files as Hugging Face's datasets write them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arro3.core import Array, DataType, Field, RecordBatch, Schema, list_array, struct_array
from arro3.io import write_parquet

BYTES = DataType.binary()
FILE = DataType.struct([Field("bytes", BYTES), Field("path", DataType.string())])
Column = tuple[DataType, Any]


def files(contents: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> Column:
    names = Array(paths or [f"{i}.png" for i in range(len(contents))], DataType.string())
    return FILE, struct_array([Array(contents, BYTES), names], fields=FILE.fields)


def plain(values: Sequence[Any], kind: DataType) -> Column:
    return kind, Array(values, kind)


def objects(boxes: Sequence[Sequence[Sequence[float]]], categories: Sequence[Sequence[int]]) -> Column:
    """A struct of lists for each row: `bbox`, each left, top, width and height, and `category`."""
    flat = [number for row in boxes for box in row for number in box]
    each = list_array(offsets([4] * (len(flat) // 4)), Array(flat, DataType.float64()))
    found = list_array(offsets([len(row) for row in boxes]), each)
    kinds = Array([kind for row in categories for kind in row], DataType.int64())
    numbered = list_array(offsets([len(row) for row in categories]), kinds)
    fields = [Field("bbox", found.type), Field("category", numbered.type)]
    return DataType.struct(fields), struct_array([found, numbered], fields=fields)


def offsets(lengths: Sequence[int]) -> Array:
    return Array(np.cumsum([0, *lengths]).tolist(), DataType.int32())


def parquet(path: Path, columns: Mapping[str, Column], names: Sequence[str] = (), **options: Any) -> Path:
    """One row group of these columns; `names` are the classes of the column `label`."""
    features = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    metadata = {b"huggingface": json.dumps(features).encode()} if names else {}
    schema = Schema([Field(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)
    batch = RecordBatch.from_arrays([array for _, array in columns.values()], schema=schema)
    write_parquet(batch, path, **options)
    return path
