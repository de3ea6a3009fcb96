"""A classifier of scikit-learn's digits, and the digits as a dataset."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from sklearn.datasets import load_digits

from tests.engine.graphs import build

Array = npt.NDArray[Any]
SIDE = 8


@cache
def digits() -> tuple[Array, Array]:
    """1,797 images as uint8 of [8, 8] in 0 to 240, and their labels."""
    found = load_digits()
    return (found.images * 15).astype(np.uint8), found.target.astype(np.int64)


def classifier(batch: int | str = "batch") -> onnx.ModelProto:
    """Nearest class mean, about 90 % right; its input `x` is [batch, 1, 8, 8] in 0 to 1."""
    images, labels = digits()
    flat = images.reshape(-1, SIDE * SIDE).astype(np.float32) / 255
    means = np.stack([flat[labels == label].mean(0) for label in range(10)])
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "eye"], ["h"], "keep"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "means", "bias"], ["scores"], "nearest", transB=1),
    ]
    constants = {
        "eye": np.eye(SIDE * SIDE, dtype=np.float32),
        "means": means.astype(np.float32),
        "bias": (-(means**2).sum(1) / 2).astype(np.float32),
    }
    return build(nodes, {"x": [batch, 1, SIDE, SIDE]}, {"scores": [batch, 10]}, constants)


def save_digits(path: Path, count: int | None = None, *, labels: bool = True) -> Path:
    """An npz of the first `count` digits."""
    images, targets = digits()
    arrays = {"images": images[:count]} | ({"labels": targets[:count]} if labels else {})
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path
