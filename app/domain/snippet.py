"""Python that loads and runs a quantized model.

Names come from uploads: they are written as ASCII literals, so that they stay names whatever is in them.
"""

from collections.abc import Iterator

from app.domain.report import Example, ExampleInput, Requires

_CONTRIB = "com.microsoft"


def snippet(file: str, example: Example, requires: Requires) -> str:
    """About ten lines that run where numpy and ONNX Runtime are installed.

    Args:
        file: the model's name; `model = …` stands on a line of its own.
        example: inputs on which the model ran.
        requires: what the runtime must know.
    """
    return "\n".join((*_needs(example, requires), *_code(file, example))) + "\n"


def _needs(example: Example, requires: Requires) -> Iterator[str]:
    yield f'# pip install "onnxruntime>={requires.onnxruntime}" numpy'
    if _CONTRIB in requires.opsets:
        yield f"# It has operators of {_CONTRIB}, which ONNX Runtime brings."
    if example.files:
        yield f"# Its weights must lie beside it: {', '.join(map(ascii, example.files))}"


def _code(file: str, example: Example) -> Iterator[str]:
    yield from ("import numpy as np", "import onnxruntime as ort", "")
    yield f"model = {file!a}"
    yield 'session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])'
    yield "inputs = {"
    yield from (f"    {one.name!a}: {_array(one)},  # {_about(one)}" for one in example.inputs)
    yield "}"
    yield "for output, value in zip(session.get_outputs(), session.run(None, inputs)):"
    yield "    print(output.name, value.dtype, value.shape)"


def _array(one: ExampleInput) -> str:
    dtype = "bool_" if one.dtype == "bool" else one.dtype
    fill = int(one.fill) if one.fill == int(one.fill) else one.fill
    return f"np.full({one.shape}, {fill}, np.{dtype})"


def _about(one: ExampleInput) -> str:
    shape = ", ".join("?" if size is None else ascii(size).strip("'\"") for size in one.declared)
    if one.affine is None:
        return f"({shape})"
    scale, zero_point = one.affine
    return f"({shape}); n stands for (n - {zero_point}) * {scale:.9g}"
