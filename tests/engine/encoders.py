"""A small encoder as exporters write it: three axes, a bias behind each product, sizes asked for anew."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.engine.graphs import Array, build, weights
from worker.engine.passes.inference import infer_shapes

CHANNELS, HEADS = 8, 2
DYNAMIC: Sequence[int | str] = ("batch", "sequence", CHANNELS)


class Builder:
    """Nodes and constants of an encoder, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def node(self, op_type: str, inputs: Sequence[str | Array], output: str, **attributes: Any) -> str:
        names = []
        for place, value in enumerate(inputs):
            if not isinstance(value, str):
                self.constants[f"{output}_{place}"] = value
            names.append(value if isinstance(value, str) else f"{output}_{place}")
        self.nodes.append(helper.make_node(op_type, names, [output], output, **attributes))
        return output

    def product(self, source: str, output: str, width: int = CHANNELS) -> str:
        """A product with a weight and a bias."""
        seed = len(self.nodes)
        columns = CHANNELS if source != "gelu" else 2 * CHANNELS
        made = self.node("MatMul", [source, weights(columns, width, seed=seed)], f"{output}_product")
        return self.node("Add", [weights(width, 1, seed=seed + 1)[:, 0], made], output)

    def size(self, source: str, axis: int, output: str) -> str:
        """One size of a tensor, as exporters ask for it."""
        shape = self.node("Shape", [source], f"{output}_shape")
        at = self.node("Gather", [shape, np.array(axis)], f"{output}_at")
        return self.node("Unsqueeze", [at, np.array([0])], output)

    def heads(self, source: str, shape: str, output: str) -> str:
        """Heads of attention, apart."""
        split = self.node("Reshape", [source, shape], f"{output}_split", allowzero=0)
        return self.node("Transpose", [split], output, perm=[0, 2, 1, 3])

    def normalized(self, a: str, b: str, output: str) -> str:
        """A residual sum, normalized."""
        total = self.node("Add", [a, b], f"{output}_sum")
        rows = [np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)]
        return self.node("LayerNormalization", [total, *rows], output, axis=2)

    def block(self, x: str, number: int, shape: Array | None = None) -> str:
        """Attention and two dense layers, with the sizes asked for anew or by a constant shape."""
        name = f"b{number}"
        query, key, value = (self.product(x, f"{name}_{part}") for part in ("query", "key", "value"))
        batch, length = self.size(x, 0, f"{name}_batch"), self.size(x, 1, f"{name}_length")
        each = np.array([HEADS]), np.array([CHANNELS // HEADS])
        split = self.node("Concat", [batch, length, *each], f"{name}_heads", axis=0)
        if shape is not None:
            self.constants[f"{name}_constant"] = shape
            split = f"{name}_constant"
        q, k, v = (self.heads(part, split, f"{part}_heads") for part in (query, key, value))
        turned = self.node("Transpose", [k], f"{name}_turned", perm=[0, 1, 3, 2])
        scores = self.node("MatMul", [q, turned], f"{name}_scores")
        shares = self.node("Softmax", [scores], f"{name}_shares")
        context = self.node("MatMul", [shares, v], f"{name}_context")
        back = self.node("Transpose", [context], f"{name}_back", perm=[0, 2, 1, 3])
        whole = self.node("Concat", [batch, length, np.array([CHANNELS])], f"{name}_whole", axis=0)
        joined = self.node("Reshape", [back, whole], f"{name}_joined")
        middle = self.normalized(self.product(joined, f"{name}_out"), x, f"{name}_middle")
        wide = self.product(middle, f"{name}_wide", 2 * CHANNELS)
        half = self.node("Relu", [wide], f"{name}_relu")
        columns = weights(2 * CHANNELS, CHANNELS, seed=number)
        narrow = self.node("MatMul", [half, columns], f"{name}_narrow")
        biased = self.node("Add", [narrow, weights(CHANNELS, 1)[:, 0]], f"{name}_biased")
        return self.normalized(biased, middle, f"{name}_end")


def encoder(
    blocks: int = 2, size: Sequence[int | str] = DYNAMIC, shape: Array | None = None
) -> onnx.ModelProto:
    """Blocks of a transformer from x to y, with all shapes recorded."""
    builder, last = Builder(), "x"
    for number in range(blocks):
        last = builder.block(last, number, shape)
    builder.node("Neg", [last], "negative")
    builder.node("Transpose", ["negative"], "y", perm=[0, 2, 1])
    turned = [size[0], size[2], size[1]]
    model = build(builder.nodes, {"x": size}, {"y": turned}, builder.constants)
    return infer_shapes(model)[0]
