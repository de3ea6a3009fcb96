"""A graph of MobileNetV2's shape (Sandler et al., 2018) with seeded weights: 3.5 M parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
STEM, HEAD, CLASSES, SIZE = 32, 1280, 1000, 224
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repeats and the first stride of each stage."""


class Network:
    """The graph while it grows: `last` is the tensor that the next node reads."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "images"

    def constant(self, name: str, values: Array) -> str:
        """Add a constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> None:  # noqa: ANN401 - as make_node
        """Add a node that reads `last` and these."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *inputs], [name], name, **attributes))
        self.last = name

    def conv(
        self, fed: int, channels: int, size: int, *, stride: int = 1, group: int = 1, relu: bool = True
    ) -> None:
        """Conv with a bias, and Relu6 behind it."""
        shape = (channels, fed // group, size, size)
        scale = np.sqrt(2 / (shape[1] * size * size))
        index = len(self.nodes)
        weights = self.constant(f"w{index}", self.rng.normal(size=shape) * scale)
        bias = self.constant(f"b{index}", self.rng.normal(size=channels) * 0.1)
        pads = [size // 2] * 4
        self.node("Conv", [weights, bias], strides=[stride, stride], group=group, pads=pads)
        if relu:
            self.node("Clip", ["zero", "six"])

    def block(self, fed: int, channels: int, expansion: int, stride: int) -> None:
        """An inverted residual."""
        before, wide = self.last, fed * expansion
        if expansion > 1:
            self.conv(fed, wide, 1)
        self.conv(wide, wide, 3, stride=stride, group=wide)
        self.conv(wide, channels, 1, relu=False)
        if stride == 1 and fed == channels:
            self.node("Add", [before])


def mobilenet_v2(path: Path, seed: int = 0) -> None:
    """Write the model; its input is `images` [n, 3, 224, 224], its output `scores` [n, 1000]."""
    made = Network(seed)
    made.constant("zero", np.array(0.0))
    made.constant("six", np.array(6.0))
    made.conv(3, STEM, 3, stride=2)
    fed = STEM
    for expansion, channels, repeats, first in BLOCKS:
        for repeat in range(repeats):
            made.block(fed, channels, expansion, first if repeat == 0 else 1)
            fed = channels
    made.conv(fed, HEAD, 1)
    made.node("GlobalAveragePool", [])
    made.node("Flatten", [])
    weights = made.constant("w", made.rng.normal(size=(CLASSES, HEAD)) / np.sqrt(HEAD))
    bias = made.constant("b", np.zeros(CLASSES))
    made.node("Gemm", [weights, bias], transB=1)
    made.nodes[-1].output[0] = "scores"
    _save(made, path)


def _save(made: Network, path: Path) -> None:
    image = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(made.nodes, "mobilenet_v2", [image], [scores], made.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
