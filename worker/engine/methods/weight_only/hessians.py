"""What the calibration samples say about each input of a product, behind float and quantized layers."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from worker.engine.choices.setting import Samples
from worker.engine.load import write_model
from worker.engine.methods.weight_only.blocks import Floats
from worker.engine.methods.weight_only.gptq import Sums
from worker.engine.session import open_session

Tensors = tuple[str, ...]
Pair = tuple[dict[str, npt.NDArray[Any]], ...]  # the tensors of one sample: quantized, float
BUDGET = 1_000_000_000  # bytes of sums that one pass collects
_GROUPS = 24
_BYTES = 2 * 8  # two sums of doubles
_VALUES_AT_ONCE = 1 << 22
_THREADS = 2


def grouped(widths: Mapping[Tensors, int], budget: int = BUDGET) -> list[dict[Tensors, int]]:
    """Cut products, in their order, into at most 24 groups whose sums fit the budget (more if need be).

    Each group costs a pass over the samples.
    """
    groups: list[dict[Tensors, int]] = []
    length = -(-len(widths) // _GROUPS)
    for names, width in widths.items():
        room = budget - sum(w * w for w in groups[-1].values()) * _BYTES if groups else 0
        if not groups or len(groups[-1]) == length or width * width * _BYTES > room:
            groups.append({})
        groups[-1][names] = width
    return groups


def hessians(
    quantized: onnx.ModelProto, float_model: onnx.ModelProto, widths: Mapping[Tensors, int], samples: Samples
) -> dict[Tensors, Sums]:
    """The sums over all samples; few of them are held at a time.

    Args:
        quantized: the prepared model, with the weights that are quantized already in the place of its own.
        float_model: the prepared model.
        widths: tensors of the main graph that meet one weight, with the size of their last axis.
        samples: gives the calibration feeds anew at each call.
    """
    sums = {n: Sums(np.zeros((width, width)), np.zeros((width, width))) for n, width in widths.items()}
    tensors = {name for names in widths for name in names}
    for portion in _portions(_activations((quantized, float_model), tensors, samples)):
        for names, width in widths.items():
            now, before = (
                np.concatenate([_rows(values[name], width) for values in side for name in names])
                for side in zip(*portion, strict=True)
            )
            square, cross = sums[names].square, sums[names].cross
            square += now.T @ now
            cross += before.T @ now
    return sums


def squares(
    model: onnx.ModelProto, widths: Mapping[Tensors, int], samples: Samples
) -> dict[Tensors, npt.NDArray[np.float64]]:
    """The sums of `x.T @ x` alone, [columns, columns]; arguments as of `hessians`."""
    sums = {names: np.zeros((width, width)) for names, width in widths.items()}
    tensors = {name for names in widths for name in names}
    for portion in _portions(_activations((model,), tensors, samples)):
        for names, width in widths.items():
            rows = np.concatenate([_rows(values[name], width) for (values,) in portion for name in names])
            sums[names] += rows.T @ rows
    return sums


def _rows(values: npt.NDArray[Any], width: int) -> Floats:
    return values.astype(np.float32).reshape(-1, width)


def _portions(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    """Samples together: sums over many rows at once are much faster."""
    held: list[Pair] = []
    for pair in pairs:
        held.append(pair)
        if sum(array.size for values in pair for array in values.values()) * len(held) > _VALUES_AT_ONCE:
            yield held
            held = []
    if held:
        yield held


def _activations(
    models: Sequence[onnx.ModelProto], tensors: AbstractSet[str], samples: Samples
) -> Iterator[Pair]:
    """The values of some tensors in each model, sample by sample; inputs are taken as they are fed."""
    fed = tensors & {value.name for value in models[0].graph.input}
    computed = sorted(tensors - fed)
    with tempfile.TemporaryDirectory(prefix="hessians-") as folder:
        sessions = [
            open_session(_exposing(model, computed, Path(folder) / f"{i}.onnx"), _THREADS)
            for i, model in enumerate(models)
        ]
        for feed in samples():
            known = {name: np.asarray(feed[name]) for name in fed}
            found = [session.run(computed, dict(feed)) if computed else () for session in sessions]
            yield tuple(known | dict(zip(computed, values, strict=True)) for values in found)


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
