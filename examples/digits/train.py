"""Trains the example classifier and writes it as digits.onnx.

    pip install torch==2.13.0 onnx==1.23.2 onnxruntime==1.31.1 scikit-learn pillow
    python examples/digits/train.py

PyTorch is needed here only; Fewbits itself neither needs nor installs it. The ONNX graph is built by
hand from the trained weights, with each BatchNorm folded into its convolution, so that it holds no
leftovers of an exporter.
"""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import data
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

SEED = 7
THREADS = 2
EPOCHS = 20
BATCH = 64
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
OPSET = 17
IR_VERSION = 8
PLAIN_OPERATORS: dict[type[nn.Module], str] = {
    nn.ReLU: "Relu",
    nn.AdaptiveAvgPool2d: "GlobalAveragePool",
    nn.Flatten: "Flatten",
}


class ConvBlock(nn.Module):
    """A convolution that keeps its input's size, or divides it by `stride`, and its BatchNorm."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def folded(self) -> nn.Conv2d:
        return fuse_conv_bn_eval(self.conv, self.norm)


class Residual(nn.Module):
    """Adds its input to what the named blocks make of it."""

    def __init__(self, **blocks: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(OrderedDict(blocks))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def active(block: ConvBlock) -> nn.Sequential:
    return named(conv=block, relu=nn.ReLU())


def network() -> nn.Sequential:
    """Channels are multiples of 64 and most work is dense, which is where int8 kernels win."""
    full = Residual(first=active(ConvBlock(64, 64, 3)), second=ConvBlock(64, 64, 3))
    separable = Residual(
        expand=active(ConvBlock(64, 128, 1)),
        depthwise=active(ConvBlock(128, 128, 3, groups=128)),
        project=ConvBlock(128, 64, 1),
    )
    return named(
        stem=active(ConvBlock(1, 64, 3)),
        wide=active(ConvBlock(64, 64, 3)),
        down=active(ConvBlock(64, 64, 3, stride=2)),
        full=full,
        full_relu=nn.ReLU(),
        separable=separable,
        head=active(ConvBlock(64, 128, 1)),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(128, 10),
    )


def as_input(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The preprocessing preset `unit`."""
    return image.astype(np.float32) / np.float32(255)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns by up to 9 degrees, zooms by up to 10 % and moves by up to 2 pixels."""
    turn, zoom, right, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    turn, zoom = turn * 0.16, 1 + zoom * 0.1
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    rows = torch.stack([cos, -sin, right / 8, sin, cos, down / 8], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(samples: data.Samples) -> nn.Sequential:
    make_repeatable()
    generator = torch.Generator().manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(samples.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for images, labels in batches(samples, generator):
            losses.append(learn(model, optimizer, images, labels))
            schedule.step()
        print(f"epoch {epoch:2}/{EPOCHS}  loss {np.mean(losses):.4f}", flush=True)
    model.eval()
    return model


def make_repeatable() -> None:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    # The order of floating-point sums depends on the number of threads, and so do the weights.
    torch.set_num_threads(THREADS)


def batches(samples: data.Samples, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Jittered batches of one epoch, in random order."""
    images, labels = torch.from_numpy(as_input(samples.image)), torch.from_numpy(samples.labels)
    # Full batches only: a last one of a few samples would upset the BatchNorm statistics.
    order = torch.randperm(len(labels), generator=generator)[: len(labels) // BATCH * BATCH]
    for rows in order.view(-1, BATCH):
        yield jitter(images[rows], generator), labels[rows]


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    loss = functional.cross_entropy(model(images), labels, label_smoothing=LABEL_SMOOTHING)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


class Graph:
    """An ONNX graph under construction; a node's only output carries the node's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, name: str, inputs: list[str], **attributes: int | list[int]) -> str:
        node = helper.make_node(kind, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def parameters(self, name: str, layer: nn.Conv2d | nn.Linear) -> list[str]:
        """Stores the layer's weight and bias, and returns their names in that order."""
        arrays = {f"{name}.{kind}": value.detach().numpy() for kind, value in layer.named_parameters()}
        self.weights.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
        return list(arrays)

    def add(self, module: nn.Module, name: str, source: str) -> str:
        """Appends `module` reading from `source`, and returns the name of its output."""
        match module:
            case nn.Sequential():
                return self._chain(module, name, source)
            case Residual():
                return self.node("Add", f"{name}.add", [source, self.add(module.body, name, source)])
            case ConvBlock():
                return self._convolution(module.folded(), name, source)
            case nn.Linear():
                return self.node("Gemm", name, [source, *self.parameters(name, module)], transB=1)
            case _:
                return self.node(PLAIN_OPERATORS[type(module)], name, [source])

    def _chain(self, chain: nn.Sequential, name: str, source: str) -> str:
        for child_name, child in chain.named_children():
            source = self.add(child, f"{name}.{child_name}" if name else child_name, source)
        return source

    def _convolution(self, conv: nn.Conv2d, name: str, source: str) -> str:
        return self.node(
            "Conv",
            name,
            [source, *self.parameters(name, conv)],
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[conv.kernel_size[0] // 2] * 4,
            group=conv.groups,
        )


def to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    graph = Graph()
    graph.add(model, "", "image")
    graph.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, data.SIDE, data.SIDE])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "digits", [image], [logits], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fewbits-example-digits",
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def top1(path: Path, samples: data.Samples) -> float:
    """The share of samples that the exported file, not the PyTorch model, gets right."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(["logits"], {"image": as_input(samples.image)})[0])
    return float(np.mean(logits.argmax(axis=1) == samples.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example model and write it as ONNX.")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).with_name("digits.onnx"))
    out = parser.parse_args().out
    onnx.save(to_onnx(train(data.training())), out)
    held_out = data.held_out()
    print(f"{out}: {out.stat().st_size} bytes")
    print(f"top-1 on {len(held_out.labels)} held-out images: {top1(out, held_out):.2%}")


if __name__ == "__main__":
    main()
