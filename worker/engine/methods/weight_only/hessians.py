"""What the calibration samples say about each input of a product: the sum of `x.T @ x`."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.load import write_model
from worker.engine.methods.setting import Samples
from worker.engine.methods.weight_only.gptq import Doubles
from worker.engine.session import open_session

Tensors = tuple[str, ...]
BUDGET = 1_000_000_000  # bytes of sums that one pass collects
_GROUPS = 8
_DOUBLE = 8  # bytes


def grouped(widths: Mapping[Tensors, int], budget: int = BUDGET) -> list[dict[Tensors, int]]:
    """Cut products, in their order, into at most 8 groups whose sums fit the budget (more if need be).

    Each group costs a pass over the samples.
    """
    groups: list[dict[Tensors, int]] = []
    length = -(-len(widths) // _GROUPS)
    for names, width in widths.items():
        room = budget - sum(w * w for w in groups[-1].values()) * _DOUBLE if groups else 0
        if not groups or len(groups[-1]) == length or width * width * _DOUBLE > room:
            groups.append({})
        groups[-1][names] = width
    return groups


def hessians(
    model: onnx.ModelProto, widths: Mapping[Tensors, int], samples: Samples
) -> dict[Tensors, Doubles]:
    """The sums [width, width] over all samples; one sample is held at a time.

    Args:
        model: the prepared model.
        widths: tensors of the main graph that meet one weight, with the size of their last axis.
        samples: gives the calibration feeds anew at each call.
    """
    sums = {names: np.zeros((width, width)) for names, width in widths.items()}
    for values in _activations(model, {name for names in widths for name in names}, samples):
        for names, width in widths.items():
            for name in names:
                rows = values[name].astype(np.float64).reshape(-1, width)
                sums[names] += rows.T @ rows
    return sums


def _activations(
    model: onnx.ModelProto, tensors: AbstractSet[str], samples: Samples
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The values of some tensors, sample by sample; inputs of the model are taken as they are fed."""
    fed = {value.name for value in model.graph.input}
    computed = sorted(tensors - fed)
    with tempfile.TemporaryDirectory(prefix="hessians-") as folder:
        session = open_session(_exposing(model, computed, Path(folder) / "model.onnx"))
        for feed in samples():
            found = session.run(computed, dict(feed)) if computed else []
            yield {name: np.asarray(feed[name]) for name in tensors & fed} | dict(
                zip(computed, found, strict=True)
            )


def _exposing(model: onnx.ModelProto, tensors: Sequence[str], path: Path) -> Path:
    """The model up to these tensors, as its outputs; without any, as it is."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if tensors:
        last = max(i for i, node in enumerate(shown.graph.node) if set(tensors) & set(node.output))
        del shown.graph.node[last + 1 :]
        del shown.graph.output[:]
        shown.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
        )
    write_model(shown, path)
    return path
