"""Element types of all tensors by walking forward, where no inference knows the operators."""

from collections.abc import Iterable

import onnx

from worker.engine.passes.scopes import attribute, subgraphs, tensor_types

_T = onnx.TensorProto
_FIXED = {
    "ArgMax": (_T.INT64,),
    "ArgMin": (_T.INT64,),
    "ConvInteger": (_T.INT32,),
    "DequantizeLinear": (_T.FLOAT,),
    "DynamicQuantizeLinear": (_T.UINT8, _T.FLOAT, _T.UINT8),
    "DynamicQuantizeMatMul": (_T.FLOAT,),
    "MatMulInteger": (_T.INT32,),
    "MatMulIntegerToFloat": (_T.FLOAT,),
    "NonMaxSuppression": (_T.INT64,),
    "NonZero": (_T.INT64,),
    "Shape": (_T.INT64,),
    "Size": (_T.INT64,),
} | dict.fromkeys(
    (
        "And",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Xor",
    ),
    (_T.BOOL,),
)
_TYPED_BY = {  # the input whose type the result has
    "EmbedLayerNormalization": 2,
    "GatherBlockQuantized": 2,
    "OneHot": 2,
    "QAttention": 3,
    "QEmbedLayerNormalization": 8,
    "QGemm": 8,  # where it is left out, the result is float
    "QuantizeLinear": 2,
    "Where": 1,
}
_SECOND_IS_INDEX = frozenset({"TopK", "Unique", "MaxPool"})


def element_types(graph: onnx.GraphProto, outer: dict[str, int] | None = None) -> dict[str, int]:
    """The element type of every tensor of a graph and below, as far as it can be told.

    1. Recorded types are taken as they are.
    2. Shapes, indices and comparisons have types of their own; Cast and Constant say theirs.
    3. Control flow gives what its subgraphs give; any other node gives what its first typed input is.
    """
    types = {**(outer or {}), **tensor_types(graph)}
    for node in graph.node:
        inner = [(below, element_types(below, types)) for below in subgraphs(node)]
        for below, known in inner:
            types.update({name: kind for name, kind in known.items() if name not in types})
            _record(
                types, node.output, [known.get(value.name, 0) for value in below.output][-len(node.output) :]
            )
        _record(types, node.output, _results(node, types))
    return types


def _record(types: dict[str, int], names: Iterable[str], kinds: Iterable[int]) -> None:
    for name, kind in zip(names, kinds, strict=False):
        if name and kind:
            types.setdefault(name, kind)


def _results(node: onnx.NodeProto, types: dict[str, int]) -> list[int]:
    if node.op_type in _FIXED:
        return list(_FIXED[node.op_type])
    if node.op_type == "Cast":
        return [attribute(node, "to", 0)]
    if node.op_type in {"Constant", "ConstantOfShape"}:
        value = attribute(node, "value", None)
        return [value.data_type if value is not None else _T.FLOAT]
    inputs = list(node.input[_TYPED_BY.get(node.op_type, 0) :])
    kind = next((types[name] for name in inputs if types.get(name)), _T.FLOAT)
    rest = _T.INT64 if node.op_type in _SECOND_IS_INDEX else kind
    return [kind] + [rest] * (len(node.output) - 1)
