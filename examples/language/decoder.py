"""A small decoder as ONNX, from arrays: with a cache of keys and values, and without.

Tokens pass through layers of attention with rotary positions (Su et al., 2021) and SwiGLU (Shazeer, 2020),
with root-mean-square norms before each, as in LLaMA. Inputs and outputs have the names of Hugging Face's
exports: what came out of `present.0.key` goes into `past_key_values.0.key`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
EPSILON = 1e-5
BASE = 10_000.0
MASKED = -1e4
Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Size:
    """How big a decoder is; `context` is the longest text that it takes, in tokens."""

    vocabulary: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 256
    context: int = 256

    @property
    def head(self) -> int:
        """Values of one head."""
        return self.width // self.heads


def random_weights(size: Size, seed: int = 0) -> Weights:
    """Weights to begin with, by name; matrices are [in, out]."""
    draw = np.random.default_rng(seed)
    shapes = {"embedding": (size.vocabulary, size.width)}
    for layer in range(size.layers):
        shapes |= {
            f"layers.{layer}.{name}": (size.width,) * 2 for name in ("query", "key", "value", "output")
        }
        shapes |= {f"layers.{layer}.{name}": (size.width, size.hidden) for name in ("gate", "up")}
        shapes[f"layers.{layer}.down"] = (size.hidden, size.width)
    shapes["head"] = (size.width, size.vocabulary)
    weights = {
        name: draw.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }
    norms = [
        "norm",
        *(f"layers.{i}.{n}" for i in range(size.layers) for n in ("before_attention", "before_gate")),
    ]
    return weights | {name: np.ones(size.width, np.float32) for name in norms}


def rotation(size: Size) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines by which a head is turned at each position, [context, head] each."""
    rates = BASE ** -(np.arange(0, size.head, 2) / size.head)
    angles = np.tile(np.outer(np.arange(size.context), rates), 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def to_onnx(weights: Weights, size: Size, *, cached: bool) -> onnx.ModelProto:
    """The decoder as a model: input_ids [batch, sequence] to logits [batch, sequence, vocabulary].

    With `cached`, keys and values of earlier tokens go in and out besides, [batch, heads, tokens, head] each.
    """
    graph = Graph(size, cached=cached)
    logits = graph.decoder(weights)
    graph.node("Identity", "logits", [logits])
    inputs, outputs = _interface(size, cached=cached)
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fewbits-example-language",
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


class Graph:
    """An ONNX graph under construction; a node's only output carries the node's name."""

    def __init__(self, size: Size, *, cached: bool) -> None:
        self.size = size
        self.cached = cached
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def decoder(self, weights: Weights) -> str:
        """All of it; returns the name of the logits."""
        for name, array in weights.items():
            self.constant(name, array)
        for name, value in (("one", np.int64(1)), ("zero", np.int64(0))):
            self.constant(name, value)
        self.constant("epsilon", np.float32(EPSILON))
        self.constant("two", np.float32(2))
        self.constant("masked", np.float32(MASKED))
        self.constant("split", np.array([-1, self.size.heads, self.size.head], np.int64))
        self.constant("joined", np.array([0, 0, self.size.width], np.int64))
        self.constant("scale", np.float32(self.size.head**-0.5))
        self.positions()
        x = self.node("Gather", "embedded", ["embedding", "input_ids"])
        for layer in range(self.size.layers):
            x = self.layer(f"layers.{layer}", layer, x)
        return self.node("MatMul", "scores", [self.norm("norm", x), "head"])

    def positions(self) -> None:
        """Rotations of the tokens, and which of those before each may look at."""
        self.node("Shape", "batch_shape", ["input_ids"], start=0, end=1)
        self.length("sequence", "input_ids", 1)
        if self.cached:
            self.length("past", "past_key_values.0.key", 2)
            self.node("Add", "total", ["past", "sequence"])
        begin, end = ("past", "total") if self.cached else ("zero", "sequence")
        places = self.node("Range", "places", [begin, end, "one"])
        for name, table in zip(("cosine", "sine"), rotation(self.size), strict=True):
            self.node("Gather", name, [self.constant(f"{name}s", table), places])
        keys = self.node("Range", "key_places", ["zero", end, "one"])
        queries = self.node("Unsqueeze", "query_places", [places, self.constant("last", np.array([-1]))])
        self.node("LessOrEqual", "visible", [keys, queries])

    def length(self, name: str, tensor: str, axis: int) -> None:
        shape = self.node("Shape", f"{name}_shape", [tensor], start=axis, end=axis + 1)
        self.node("Squeeze", name, [shape])

    def layer(self, name: str, number: int, x: str) -> str:
        attended = self.attention(name, number, self.norm(f"{name}.before_attention", x))
        x = self.node("Add", f"{name}.attended", [x, attended])
        fed = self.feed_forward(name, self.norm(f"{name}.before_gate", x))
        return self.node("Add", f"{name}.fed", [x, fed])

    def norm(self, name: str, x: str) -> str:
        """Root-mean-square norm, in the nodes that runtimes know to fuse."""
        squares = self.node("Pow", f"{name}.squares", [x, "two"])
        mean = self.node("ReduceMean", f"{name}.mean", [squares], axes=[-1])
        root = self.node("Sqrt", f"{name}.root", [self.node("Add", f"{name}.above", [mean, "epsilon"])])
        return self.node("Mul", f"{name}.scaled", [self.node("Div", f"{name}.divided", [x, root]), name])

    def attention(self, name: str, number: int, x: str) -> str:
        query, key, value = (self.heads(f"{name}.{part}", x) for part in ("query", "key", "value"))
        query, key = self.turned(f"{name}.query", query), self.turned(f"{name}.key", key)
        if self.cached:
            key, value = (
                self.node(
                    "Concat", f"present.{number}.{kind}", [f"past_key_values.{number}.{kind}", new], axis=2
                )
                for kind, new in (("key", key), ("value", value))
            )
        across = self.node("Transpose", f"{name}.across", [key], perm=[0, 1, 3, 2])
        products = self.node("MatMul", f"{name}.products", [query, across])
        scaled = self.node("Mul", f"{name}.scaled_products", [products, "scale"])
        masked = self.node("Where", f"{name}.masked", ["visible", scaled, "masked"])
        shares = self.node("Softmax", f"{name}.shares", [masked], axis=-1)
        mixed = self.node("MatMul", f"{name}.mixed", [shares, value])
        back = self.node("Transpose", f"{name}.back", [mixed], perm=[0, 2, 1, 3])
        joined = self.node("Reshape", f"{name}.joined", [back, "joined"])
        return self.node("MatMul", f"{name}.output_product", [joined, f"{name}.output"])

    def heads(self, weight: str, x: str) -> str:
        """[batch, sequence, width] times a weight, as [batch, heads, sequence, head]."""
        product = self.node("MatMul", f"{weight}_product", [x, weight])
        shape = self.node("Concat", f"{weight}_shape", ["batch_shape", "split"], axis=0)
        split = self.node("Reshape", f"{weight}_split", [product, shape])
        return self.node("Transpose", f"{weight}_heads", [split], perm=[0, 2, 1, 3])

    def turned(self, name: str, heads: str) -> str:
        """Heads turned by their positions: x cos + (-second half, first half) sin."""
        halves = [f"{name}_first", f"{name}_second"]
        self.nodes.append(helper.make_node("Split", [heads], halves, f"{name}_halves", axis=-1))
        swapped = self.node(
            "Concat", f"{name}_swapped", [self.node("Neg", f"{name}_negated", halves[1:]), halves[0]], axis=-1
        )
        straight = self.node("Mul", f"{name}_straight", [heads, "cosine"])
        return self.node(
            "Add", f"{name}_turned", [straight, self.node("Mul", f"{name}_sideways", [swapped, "sine"])]
        )

    def feed_forward(self, name: str, x: str) -> str:
        gate = self.node("MatMul", f"{name}.gate_product", [x, f"{name}.gate"])
        open_ = self.node("Mul", f"{name}.silu", [gate, self.node("Sigmoid", f"{name}.sigmoid", [gate])])
        up = self.node("MatMul", f"{name}.up_product", [x, f"{name}.up"])
        return self.node(
            "MatMul", f"{name}.down_product", [self.node("Mul", f"{name}.gated", [open_, up]), f"{name}.down"]
        )


def _interface(size: Size, *, cached: bool) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    info = helper.make_tensor_value_info
    inputs = [info("input_ids", TensorProto.INT64, ["batch", "sequence_length"])]
    outputs = [info("logits", TensorProto.FLOAT, ["batch", "sequence_length", size.vocabulary])]
    ends = [
        (inputs, "past_key_values", "past_sequence_length"),
        (outputs, "present", "total_sequence_length"),
    ]
    for values, prefix, length in ends if cached else []:
        values += [
            info(f"{prefix}.{layer}.{kind}", TensorProto.FLOAT, ["batch", size.heads, length, size.head])
            for layer in range(size.layers)
            for kind in ("key", "value")
        ]
    return inputs, outputs
