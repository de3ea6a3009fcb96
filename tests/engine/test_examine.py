from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.domain.errors import Refused
from tests.engine.graphs import attention, branches, build, convolution, dense, foreign, half, weights
from worker.engine.examine import examine


def stored(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def refusal(folder: Path, content: onnx.ModelProto | bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        examine(stored(folder, content))
    return caught.value


def test_names_that_would_fill_every_list_are_refused(tmp_path: Path) -> None:
    model = dense()
    model.opset_import.extend(helper.make_opsetid("d" * 1000 + str(n), 1) for n in range(1100))

    assert refusal(tmp_path, model).code == "description_too_large"


def test_who_made_a_model_is_told_in_brief(tmp_path: Path) -> None:
    model = dense()
    model.producer_name = "p" * 10**6

    assert examine(stored(tmp_path, model)).producer == "p" * 200


def test_a_convolutional_model_is_described(tmp_path: Path) -> None:
    path = stored(tmp_path, convolution())

    found = examine(path)

    assert found.family == "convolutional"
    assert [(t.name, t.dtype, t.shape) for t in found.inputs] == [("x", "float32", ("batch", 3, 16, 16))]
    assert [(t.name, t.shape) for t in found.outputs] == [("y", ("batch", 8, 16, 16))]
    assert (found.ir, found.opsets, found.nodes) == (8, {"": 17}, 3)
    assert found.op_types == {"Conv": 2, "Relu": 1}
    assert found.parameters == 16 * 3 * 9 + 16 + 8 * 16
    assert found.quantizable == pytest.approx((16 * 3 * 9 + 8 * 16) / found.parameters)
    assert found.bytes == path.stat().st_size
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("model", "family"), [(attention(), "transformer"), (dense(), "dense"), (convolution(), "convolutional")]
)
def test_the_family_is_told_by_the_operators(tmp_path: Path, model: onnx.ModelProto, family: str) -> None:
    assert examine(stored(tmp_path, model)).family == family


def test_a_recurrent_operator_makes_a_recurrent_model(tmp_path: Path) -> None:
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "lstm", hidden_size=4)]
    constants = {"w": weights(1, 16, 3), "r": weights(1, 16, 4)}
    model = build(nodes, {"x": [5, 1, 3]}, {"y": [5, 1, 1, 4]}, constants)

    assert examine(stored(tmp_path, model)).family == "recurrent"


def test_a_model_without_weights_has_nothing_to_quantize(tmp_path: Path) -> None:
    model = build([helper.make_node("Neg", ["x"], ["y"], "neg")], {"x": [4]}, {"y": [4]}, {})

    found = examine(stored(tmp_path, model))

    assert (found.family, found.parameters, found.quantizable) == ("other", 0, 0.0)


def test_weights_in_branches_are_counted(tmp_path: Path) -> None:
    found = examine(stored(tmp_path, branches()))

    assert found.parameters == 2 * 16 * 16
    assert found.quantizable == 1.0
    assert any("subgraphs" in warning for warning in found.warnings)


def test_constants_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    found = examine(stored(tmp_path, convolution(opset=8, ir=3)))

    assert [tensor.name for tensor in found.inputs] == ["x"]
    assert any("Opset 8" in warning for warning in found.warnings)


def test_half_precision_is_said(tmp_path: Path) -> None:
    found = examine(stored(tmp_path, half()))

    assert found.inputs[0].dtype == "float16"
    assert any("float16" in warning for warning in found.warnings)


def test_mask_values_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"], "add")]
    mask = np.array([0, np.finfo(np.float32).min], np.float32)
    model = build(nodes, {"x": [2]}, {"y": [2]}, {"mask": mask})

    assert any("'mask'" in warning for warning in examine(stored(tmp_path, model)).warnings)


def test_an_unused_foreign_domain_does_no_harm(tmp_path: Path) -> None:
    model = convolution()
    model.opset_import.append(helper.make_opsetid("acme.ops", 1))

    assert examine(stored(tmp_path, model)).opsets == {"": 17, "acme.ops": 1}


def test_a_function_of_the_model_itself_is_no_foreign_operator(tmp_path: Path) -> None:
    model = foreign()
    body = [helper.make_node("Neg", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("acme.ops", "Noise", ["a"], ["b"], body, imports))

    assert examine(stored(tmp_path, model)).nodes == 1


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"").code == "empty_file"


def test_a_lfs_pointer_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    found = refusal(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

    assert found.code == "lfs_pointer"
    assert "git lfs pull" in found.detail


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04rest", "zip"),
        (b"\x1c\0\0\0TFL3rest", "TensorFlow Lite"),
        (b"<html>not found</html>", "HTML"),
        (b"hello, this is text", "Upload the file that your exporter wrote"),
        (bytes(range(256)), "not an ONNX model"),
        (b"\x80" * 4096, "not an ONNX model"),
        (onnx.ModelProto(producer_name="x").SerializeToString(), "no ONNX graph"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    found = refusal(tmp_path, content)

    assert found.code == "not_onnx"
    assert said in found.detail


def test_a_cut_off_model_is_told_from_another_file(tmp_path: Path) -> None:
    whole = convolution()
    whole.producer_name = "exporter"
    content = whole.SerializeToString()

    found = refusal(tmp_path, content[: len(content) // 2])

    assert found.code == "truncated_model"
    assert "bytes too early" in found.detail


def test_a_model_without_opset_is_refused(tmp_path: Path) -> None:
    model = convolution()
    del model.opset_import[:]

    assert refusal(tmp_path, model).code == "no_opset"


def test_a_foreign_operator_is_refused_with_domain_operator_and_node(tmp_path: Path) -> None:
    found = refusal(tmp_path, foreign())

    assert found.code == "unsupported_domain"
    assert all(word in found.detail for word in ("'acme.ops'", "Noise", "'noise'"))


def test_a_foreign_operator_in_a_branch_is_refused_too(tmp_path: Path) -> None:
    model = branches()
    then = next(entry.g for entry in model.graph.node[0].attribute if entry.name == "then_branch")
    then.node[1].domain = "acme.ops"

    assert refusal(tmp_path, model).code == "unsupported_domain"


def test_an_invalid_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = convolution()
    model.graph.node[2].input[0] = "nowhere"

    found = refusal(tmp_path, model)

    assert found.code == "invalid_model"
    assert "nowhere" in found.detail


def test_an_operator_without_a_kernel_is_refused(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("Det", ["x"], ["y"], "det")],
        {"x": [2, 2]},
        {"y": []},
        {},
        kind=TensorProto.BFLOAT16,
    )

    assert refusal(tmp_path, model).code == "model_not_loadable"


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4])
def test_a_type_that_nobody_can_feed_or_read_is_refused(tmp_path: Path, kind: int) -> None:
    model = build(
        [helper.make_node("Cast", ["x"], ["y"], "cast", to=kind)], {"x": [4]}, {"y": [4]}, {}, opset=21, ir=10
    )
    model.graph.output[0].type.tensor_type.elem_type = kind

    refused = refusal(tmp_path, model)

    assert refused.code == "unsupported_dtype"
    assert refused.detail.startswith("y is a tensor(")
