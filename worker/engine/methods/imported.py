"""A model quantized elsewhere: its scales and its bytes stay as they are."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from app.domain.errors import FieldError, Refused
from worker.engine.load import external_tensors, load_model, parse, save_model
from worker.engine.passes.scopes import all_graphs, all_nodes
from worker.engine.session import open_session

_INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
_BLOCKS = frozenset({"MatMulNBits", "GatherBlockQuantized", "MatMulBnb4"})
_HALVES = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
Session: TypeAlias = Any  # ONNX Runtime ships no types
Argument: TypeAlias = Any


def bring_in(imported: Path, original: Path, out: Path) -> tuple[str, ...]:
    """Copy an imported model to `out`, byte by byte; external data is written into the one file.

    Args:
        imported: the model's main file.
        original: the float model whose interface it must have.
        out: where the candidate goes.

    Returns:
        What it is quantized with.

    Raises:
        Refused: `interface_mismatch`, or what opening a model refuses.
    """
    refuse_other_interface(open_session(original), open_session(imported))
    model = parse(imported)
    notes = [f"imported: {_described(model.graph)}; its scales are kept"]
    if any(True for _ in external_tensors(model)):
        save_model(load_model(imported), out)
        notes.append("imported: its external data was written into the model's file")
    else:
        shutil.copyfile(imported, out)
    return tuple(notes)


def refuse_other_interface(float_model: Session, imported: Session) -> None:
    """Hold names, types and shapes against each other; a size matches a dynamic dimension.

    Raises:
        Refused: `interface_mismatch`, with an entry for each input and output that differs.
    """
    errors = (
        *_differences("input", float_model.get_inputs(), imported.get_inputs()),
        *_differences("output", float_model.get_outputs(), imported.get_outputs()),
    )
    if errors:
        what = "; ".join(error.detail for error in errors)
        raise Refused(
            "interface_mismatch",
            f"The imported model cannot take the float model's place: {what}. "
            "Export it with the inputs and outputs of the float model.",
            errors=tuple(errors),
        )


def _differences(noun: str, ours: Sequence[Argument], theirs: Sequence[Argument]) -> Iterator[FieldError]:
    found = {argument.name: argument for argument in theirs}
    for mine in ours:
        pointer = f"/{noun}s/{mine.name.replace('~', '~0').replace('/', '~1')}"
        other = found.pop(mine.name, None)
        if other is None:
            yield FieldError(pointer, f"it has no {noun} {mine.name!r}")
        elif other.type != mine.type:
            yield FieldError(pointer, f"the {noun} {mine.name!r} is {other.type}, not {mine.type}")
        elif not _shapes_agree(mine.shape, other.shape):
            shapes = f"{list(other.shape)}, not {list(mine.shape)}"
            yield FieldError(pointer, f"the {noun} {mine.name!r} has the shape {shapes}")
    for name in found:
        yield FieldError(f"/{noun}s", f"it has a further {noun} {name!r}")


def _shapes_agree(mine: Sequence[int | str | None], theirs: Sequence[int | str | None]) -> bool:
    if not mine or not theirs:  # a shape that is not declared
        return True
    return len(mine) == len(theirs) and all(
        a == b for a, b in zip(mine, theirs, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _described(graph: onnx.GraphProto) -> str:
    """Its kind of quantization, with counts of what tells."""
    counts = Counter(node.op_type for node in all_nodes(graph))
    kinds = list(_kinds(graph, counts))
    return ", ".join(kinds) or "it has no quantized nodes"


def _kinds(graph: onnx.GraphProto, counts: Counter[str]) -> Iterator[str]:
    integer = sum(n for op, n in counts.items() if op.startswith(_INTEGER_OPERATORS))
    if counts["DequantizeLinear"] and not integer:
        pair = f"{counts['QuantizeLinear']} QuantizeLinear and {counts['DequantizeLinear']} DequantizeLinear"
        yield f"QDQ with {pair} nodes"
    if integer:
        yield f"{integer} quantized operators (QOperator or dynamic)"
    blocks = sum(counts[op] for op in _BLOCKS)
    if blocks:
        yield f"{blocks} nodes with weights in blocks"
    kinds = Counter(_HALVES.get(t.data_type) for g in all_graphs(graph) for t in g.initializer)
    yield from (f"{n} constants in {kind}" for kind, n in kinds.items() if kind)
