"""What each quantized node costs: in its weights, on float inputs, inside the model, and to the outputs."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from app.domain.note import Note
from app.domain.recipe import Calibrated, Imported, Recipe
from app.domain.report import LayerError, Layers
from worker.engine.data.dataset import Array
from worker.engine.evaluate.fidelity import Closeness, headline
from worker.engine.evaluate.stored_weights import stored_weights
from worker.engine.layer_graphs import Layer, alone, comparable, find_layers, sums
from worker.engine.load import load_model, save_model, tensor_bytes
from worker.engine.methods import Setting, quantize
from worker.engine.methods.static_int8 import corrected_float, is_rescaled
from worker.engine.passes.opset import CannotConvert, raise_opset
from worker.engine.passes.scopes import array, initializers, opset, tensor_types
from worker.engine.ready import Feed
from worker.engine.session import open_bytes, reason
from worker.engine.sqnr import sqnr

MOST_BYTES = 500_000_000  # of float weights: both models are held side by side, in one protobuf
WORST_SHARE = 0.1  # of the nodes, by local error: these are tried alone
_DIGITS = 3


def layers_of(
    model: Path, candidate: Path, recipe: Recipe, setting: Setting, feeds: Sequence[Feed]
) -> tuple[Layers | None, tuple[Note, ...]]:
    """The layers of a candidate, or a note why they are not known; nothing here fails the candidate.

    QLinear operators and integer inputs hide the tensors in between: then the same recipe is looked at as
    pairs of QuantizeLinear and DequantizeLinear. Equalization and SmoothQuant rescale tensors: then the float
    model is rescaled too. Nodes of a model that was quantized elsewhere are paired by what they write.

    Args:
        model: the prepared float model.
        candidate: the result.
        recipe: resolved, as the result was made by it.
        setting: as the result was made with it.
        feeds: inputs of the model.
    """
    if not feeds:
        return None, _why("there are no inputs to look at them with")
    try:
        with tempfile.TemporaryDirectory(prefix="layers-") as folder:
            pairs = _with_pairs(model, candidate, recipe, setting, Path(folder))
            found = layers(_rescaled(model, recipe, setting, Path(folder)), pairs, feeds)
    except Exception as error:  # noqa: BLE001 - a candidate is good without its diagnosis
        return None, _why(f"could not be measured: {reason(error, candidate) or type(error).__name__}")
    if not found:
        return None, _why("the model is too large, or too different, to hold side by side")
    if not found.layers:
        return None, _why("no quantized node of the main graph writes a tensor that the float model has too")
    return found, _trained(len(found.layers)) if isinstance(recipe, Imported) else ()


def _why(detail: str) -> tuple[Note, ...]:
    return (Note("layers", detail),)


def _trained(count: int) -> tuple[Note, ...]:
    return _why(f"{count} nodes were paired by what they write; what training changed counts as error too")


def _rescaled(model: Path, recipe: Recipe, setting: Setting, folder: Path) -> Path:
    if not isinstance(recipe, Calibrated) or not is_rescaled(recipe):
        return model
    rescaled = folder / "rescaled.onnx"
    save_model(corrected_float(load_model(model), recipe, setting), rescaled)
    return rescaled


def _with_pairs(model: Path, candidate: Path, recipe: Recipe, setting: Setting, folder: Path) -> Path:
    if not isinstance(recipe, Calibrated) or (recipe.format == "qdq" and not recipe.quantize_io):
        return candidate
    pairs = folder / "pairs.onnx"
    quantize(model, pairs, replace(recipe, format="qdq", quantize_io=False), setting)
    return pairs


def layers(base: Path, candidate: Path, feeds: Sequence[Feed]) -> Layers | None:
    """Measure the quantized nodes of a candidate, the most harmful first.

    One run of a graph that holds the float model, the candidate and each quantized node on float inputs gives
    sums of squares, so memory does not grow with the inputs. Nodes inside subgraphs are not looked at.

    Args:
        base: the prepared float model.
        candidate: made of it; nodes and tensors are told by their names.
        feeds: the model's inputs; at most 64.

    Returns:
        None where both cannot be put side by side: above 500 MB, or where operator sets do not agree.
    """
    before, after = load_model(base), load_model(candidate)
    if not comparable(before, after) or tensor_bytes(before) > MOST_BYTES:
        return None
    try:
        before, after = (_at_least(one, opset(other)) for one, other in ((before, after), (after, before)))
    except CannotConvert:
        return None
    found = _float_layers(before, after)
    return Layers(tuple(_measured(before, after, found, feeds)), len(feeds))


def _at_least(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    return raise_opset(model, [version]) if opset(model) < version else model


def _float_layers(before: onnx.ModelProto, after: onnx.ModelProto) -> list[Layer]:
    types = tensor_types(before.graph)
    every = find_layers(before.graph, after.graph)
    return [layer for layer in every if types.get(layer.output, 1) == onnx.TensorProto.FLOAT]


def _measured(
    before: onnx.ModelProto, after: onnx.ModelProto, found: Sequence[Layer], feeds: Sequence[Feed]
) -> list[LayerError]:
    if not found:
        return []
    errors = _sums(before, after, found, feeds)
    worst = sorted(range(len(found)), key=lambda i: (_of(errors[i].local_sqnr_db), i))
    tried = worst[: math.ceil(WORST_SHARE * len(found))]
    reference = _outputs(before, feeds)
    for index in tried:
        impact = _impact(alone(before, after, found[index]), reference, feeds)
        errors[index] = replace(errors[index], impact_db=impact)
    return sorted(errors, key=lambda e: (_of(e.impact_db), _of(e.local_sqnr_db)))


def _sums(
    before: onnx.ModelProto, after: onnx.ModelProto, found: Sequence[Layer], feeds: Sequence[Feed]
) -> list[LayerError]:
    total = sums(before, after, found, feeds)
    floats, constants = initializers(before.graph), initializers(after.graph)
    return [
        LayerError(
            node=layer.node.name,
            op_type=layer.node.op_type,
            weight_sqnr_db=_weight_error(layer, floats, constants),
            local_sqnr_db=_db(signal, local),
            cumulative_sqnr_db=_db(signal, cumulative),
            impact_db=None,
        )
        for layer, (signal, local, cumulative) in zip(found, total.tolist(), strict=True)
    ]


def _weight_error(
    layer: Layer, floats: Mapping[str, onnx.TensorProto], constants: Mapping[str, onnx.TensorProto]
) -> float | None:
    """Of the node's largest constant."""
    names = [name for name in layer.node.input if name in floats]
    if not names:
        return None
    name = max(names, key=lambda n: math.prod(floats[n].dims))
    stored, values = stored_weights(layer.quantized, constants, name), array(floats[name])
    if stored is not None and stored.shape == values.shape[::-1] and stored.shape != values.shape:
        stored = stored.T  # blocks lie along the rows that a product sums
    if stored is None or stored.ndim != values.ndim:
        return None
    stored = stored[tuple(slice(size) for size in values.shape)]  # first layers are padded with zero channels
    if stored.shape != values.shape:
        return None
    plain = values.astype(np.float64)
    straight = _db(float((plain**2).sum()), float(((plain - stored) ** 2).sum()))
    if values.ndim != 2 or values.shape[0] != values.shape[1]:  # noqa: PLR2004 - a square may be turned
        return straight
    turned = _db(float((plain**2).sum()), float(((plain - stored.T) ** 2).sum()))
    return max(straight or -math.inf, turned or -math.inf)


def _outputs(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[dict[str, Array]]:
    session = open_bytes(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]


def _impact(
    model: onnx.ModelProto, reference: Sequence[Mapping[str, Array]], feeds: Sequence[Feed]
) -> float | None:
    closeness: dict[str, Closeness] = {}
    for expected, found in zip(reference, _outputs(model, feeds), strict=True):
        for name, values in expected.items():
            if values.dtype.kind == "f" and values.shape == found[name].shape:
                closeness.setdefault(name, Closeness(name)).add(values, found[name])
    if not closeness:
        return None
    fidelity = headline(closeness)[0].sqnr_db
    return round(fidelity, _DIGITS) if math.isfinite(fidelity) else None


def _db(signal: float, noise: float) -> float | None:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return None
    return round(sqnr(signal, noise), _DIGITS)


def _of(figure: float | None) -> float:
    return math.inf if figure is None else figure
