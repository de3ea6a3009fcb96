"""HDF5 files in AI Hub's layout, and what can be wrong with them."""

from pathlib import Path

import h5py
import numpy as np

from worker.engine.requests import Data

Arrays = dict[str, list[np.ndarray]]
PIXELS = np.arange(60, dtype=np.float32).reshape(5, 1, 3, 4)


def write(path: Path, arrays: Arrays) -> Data:
    """As qai_hub 0.56 writes them."""
    with h5py.File(path, "w") as file:
        for place, (name, batches) in enumerate(arrays.items()):
            for n, array in enumerate(batches):
                file.create_dataset(f"data/{place}/batch_{n}", data=array, compression="gzip")
            file[f"data/{place}"].attrs.update({"order": place, "name": name, "batch_count": len(batches)})
    return Data(path=path)


def linked(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file["data/0/batch_1"] = h5py.ExternalLink("/etc/passwd", "/")


def soft(file: h5py.File) -> None:
    file["more"] = file["data"]
    del file["data"]
    file["data"] = h5py.SoftLink("/more")


def raw(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file.create_dataset("data/0/batch_1", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def virtual(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (3,))  # noqa: S108 - is never opened
    file.create_virtual_dataset("data/0/batch_1", layout)


def vast(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file.create_dataset("data/0/batch_1", (2**40,), "f4", chunks=(1024,))


def chunky(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file.create_dataset("data/0/batch_1", (3,), "f4", chunks=(2**28,), maxshape=(None,))


def many_zeros(file: h5py.File) -> None:
    for n in range(5, 10):
        file.create_dataset(f"data/0/batch_{n}", (2**24,), "f4", chunks=(2**20,), compression="gzip")


def strings(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file["data/0/batch_1"] = "text"


def unnamed(file: h5py.File) -> None:
    del file["data/0"].attrs["name"]


def skipped(file: h5py.File) -> None:
    del file["data/0/batch_1"]


def nested(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file.create_group("data/0/batch_1/deeper")


def renamed(file: h5py.File) -> None:
    file.move("data", "images")


def without_space(file: h5py.File) -> None:
    del file["data/0/batch_1"]
    file["data/0/batch_1"] = h5py.Empty("f4")


def twice(file: h5py.File) -> None:
    file.copy("data/0", "data/1")


def nameless(file: h5py.File) -> None:
    file["data/0"].attrs["name"] = ""
