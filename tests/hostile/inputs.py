"""Uploads that want to do harm, as small as they can be."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator

import onnx
import onnx.parser
from onnx import TensorProto, helper

from tests.engine.texts import tokenizer
from tests.zips import zipped

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("me", 1)]
ENTRIES = 200_001
NPY_4_TIB = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 1)}

GIANT = """
<ir_version: 8, opset_import: ["": 17]>
giant (float[1] x) => (float[n] y) {
    size = Constant<value = int64[1] {20000000000}>()
    zeros = ConstantOfShape(size)
    y = Add(zeros, x)
}
"""
GIANT_OF_DOUBLES = """
<ir_version: 8, opset_import: ["": 17]>
doubles (double[1] x) => (double[n] y) {
    size = Constant<value = int64[1] {10000000000}>()
    zeros = ConstantOfShape<value = double[1] {0}>(size)
    y = Add(zeros, x)
}
"""
GROWING = """
<ir_version: 8, opset_import: ["": 17]>
growing (float[1] x) => (float[n] y) {
    trips = Constant<value = int64 {60}>()
    on = Constant<value = bool {1}>()
    y = Loop(trips, on, x) <body = body (int64 i, bool go, float[n] v) => (bool go_on, float[m] w) {
        go_on = Identity(go)
        w = Concat<axis = 0>(v, v)
    }>
}
"""
ENDLESS = """
<ir_version: 8, opset_import: ["": 17]>
endless (float[1] x) => (float[1] y) {
    trips = Constant<value = int64 {9000000000000000000}>()
    on = Constant<value = bool {1}>()
    y = Loop(trips, on, x) <body = body (int64 i, bool go, float[1] v) => (bool go_on, float[1] w) {
        go_on = Identity(go)
        w = Add(v, v)
    }>
}
"""
ADDING = """
<ir_version: 8, opset_import: ["": 17]>
adding (float[4] x) => (float[4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { y = Add(x, w) }
"""
FOREIGN = """
<ir_version: 8, opset_import: ["": 17, "acme": 1]>
foreign (float[2] x) => (float[2] y) { y = acme.Magic(x) }
"""


def written(text: str, producer: str = "") -> bytes:
    """A model from its text."""
    model = onnx.parser.parse_model(text)
    model.producer_name = producer
    return bytes(model.SerializeToString())


def small(producer: str) -> bytes:
    """A good model that is nobody else's."""
    return written(ADDING, producer)


def external(location: str, offset: int = 0, length: int = 16) -> bytes:
    """A model whose weights are said to lie in another file."""
    model = onnx.parser.parse_model(ADDING)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def nested(depth: int = 5000) -> bytes:
    """A graph in a node's attribute in a graph in a node's attribute, and so on."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):
            content = _field(field, content)
    return b"\x08\x08" + _field(7, content)


def recursive() -> bytes:
    """A function that calls itself."""
    itself = helper.make_node("f", ["x"], ["y"], domain="me")
    return _functions([helper.make_function("me", "f", ["x"], ["y"], [itself], OPSETS)], "f")


def laughs(depth: int = 8) -> bytes:
    """Functions that call each other ten times each: 10^depth nodes once they are inlined."""
    bottom = helper.make_node("Relu", ["x"], ["y"])
    functions = [helper.make_function("me", "f0", ["x"], ["y"], [bottom], OPSETS)]
    for level in range(1, depth + 1):
        names = ["x", *(f"t{i}" for i in range(9)), "y"]
        nodes = [
            helper.make_node(f"f{level - 1}", [names[i]], [names[i + 1]], domain="me") for i in range(10)
        ]
        functions.append(helper.make_function("me", f"f{level}", ["x"], ["y"], nodes, OPSETS))
    return _functions(functions, f"f{depth}")


def _functions(functions: list[onnx.FunctionProto], called: str) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node(called, ["x"], ["y"], domain="me")], "g", [x], [y])
    model = helper.make_model(graph, functions=functions, opset_imports=OPSETS, ir_version=8)
    return bytes(model.SerializeToString())


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field in protobuf's wire format."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def zip_link(name: str, target: str) -> bytes:
    """A zip that holds a symbolic link."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = 0o120777 << 16
        archive.writestr(member, target)
    return out.getvalue()


def tarred(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """A tar with one member of this kind."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return out.getvalue()


def claiming(size: int) -> bytes:
    """A tar whose only member is said to have this size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = size
        archive.addfile(member)
    return out.getvalue()


def in_folders(*names: str) -> bytes:
    """A tar with a picture in each of these folders; a byte that is no UTF-8 is a surrogate in a name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for shade, name in enumerate(names):
            content = _picture(shade)
            member = tarfile.TarInfo(f"{name}/a.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def misnamed() -> bytes:
    """A zip with a name that is said to be UTF-8, and is not."""
    return zipped({"é/a.png": _picture(1)}).replace("é".encode(), b"\xff\xfe")


def twice() -> bytes:
    """A zip with two files of one name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for shade, name in enumerate("ab"):
            archive.writestr(f"{name}.png", _picture(shade))
    return out.getvalue().replace(b"b.png", b"a.png")


def _picture(shade: int) -> bytes:
    """A PGM of four pixels."""
    return b"P5 2 2 255\n" + bytes([shade] * 4)


def long_line(size: int) -> bytes:
    """Texts beside their tokenizer, one of so many characters."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("tokenizer.json", tokenizer())
        archive.writestr("data.jsonl", '{"text": "a"}\n{"text": "' + "a" * size + '"}\n')
    return out.getvalue()


def half_a_character() -> bytes:
    """Texts beside their tokenizer, with a text and a label that nothing can encode."""
    lines = '{"text": "a", "label": "b"}\n{"text": "a \\ud800", "label": "\\udcff"}\n'
    return zipped({"tokenizer.json": tokenizer().encode(), "data.jsonl": lines.encode()})


def crowded() -> bytes:
    """A zip of 200,001 empty files."""
    return zipped({f"{number}.png": b"" for number in range(ENTRIES)})


def squeezed(size: int) -> bytes:
    """An npz with one array of zeros, packed about a thousand times."""
    header = io.BytesIO()
    _npy_header(header, {"descr": "|u1", "fortran_order": False, "shape": (size, 1)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image.npy", "w") as member:
        member.write(header.getvalue())
        for chunk in _zeros(size):
            member.write(chunk)
    return out.getvalue()


def boasting() -> bytes:
    """An npy whose header promises 4 TiB."""
    out = io.BytesIO()
    _npy_header(out, NPY_4_TIB)
    return out.getvalue() + bytes(64)


def _npy_header(out: io.BytesIO, described: dict[str, object]) -> None:
    text = repr(described).encode().ljust(117) + b"\n"
    out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


def _zeros(size: int) -> Iterator[bytes]:
    while size:
        yield bytes(min(size, 2**20))
        size -= min(size, 2**20)
