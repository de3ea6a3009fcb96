"""Since which release ONNX Runtime loads an operator of its own domain, com.microsoft, on a CPU."""

from collections.abc import Iterator, Mapping

import onnx
import onnxruntime as ort

from worker.engine.passes.scopes import attribute

MICROSOFT = "com.microsoft"
# Tried, a node of each with the last patch of 1.0, 1.2 to 1.8, 1.10, 1.12, 1.14, 1.17 to 1.20 and 1.22; what
# came in between is rounded up. Of what is not named here nobody knows more than that the release in use
# loads it.
_SINCE: Mapping[str, str] = {
    "Attention": "1.3",
    "BiasGelu": "1.2",
    "DequantizeLinear": "1.0",
    "DynamicQuantizeLSTM": "1.6",
    "DynamicQuantizeMatMul": "1.4",
    "EmbedLayerNormalization": "1.3",
    "FastGelu": "1.3",
    "FusedConv": "1.0",
    "FusedGemm": "1.0",
    "FusedMatMul": "1.6",
    "GatherBlockQuantized": "1.23",
    "Gelu": "1.0",
    "GroupQueryAttention": "1.18",
    "Inverse": "1.3",
    "MatMulBnb4": "1.16",
    "MatMulInteger16": "1.0",
    "MatMulIntegerToFloat": "1.4",
    "MatMulNBits": "1.17",
    "MultiHeadAttention": "1.17",
    "NhwcMaxPool": "1.12",
    "QAttention": "1.4",
    "QEmbedLayerNormalization": "1.10",
    "QGemm": "1.10",
    "QLinearAdd": "1.4",
    "QLinearAveragePool": "1.8",
    "QLinearConcat": "1.8",
    "QLinearConv": "1.6",
    "QLinearGlobalAveragePool": "1.6",
    "QLinearLeakyRelu": "1.4",
    "QLinearMul": "1.5",
    "QLinearSigmoid": "1.5",
    "QLinearSoftmax": "1.14",
    "QLinearWhere": "1.14",
    "QuantizeLinear": "1.0",
    "QuickGelu": "1.14",
    "RotaryEmbedding": "1.17",
    "SkipLayerNormalization": "1.3",
    "SkipSimplifiedLayerNormalization": "1.17",
    "TransposeMatMul": "1.5",
    "Trilu": "1.5",
}
_IN_USE = str(ort.__version__)
_PARTS: Mapping[str, Mapping[str, str]] = {  # attributes, inputs and outputs that operators got later
    "Attention": {
        "output 1": "1.4",
        "input 4": "1.4",
        "input 5": "1.10",
        "qkv_hidden_sizes": "1.10",
        "input 6": "1.14",
        "mask_filter_value": "1.14",
        "past_present_share_buffer": "1.14",
        "scale": "1.14",
        "do_rotary": "1.17",
        "rotary_embedding_dim": "1.17",
    },
    "EmbedLayerNormalization": {"output 2": "1.10", "mask_index_type": "1.17"},
    "FusedConv": {"input 3": "1.8"},
    "FusedGemm": {"activation_alpha": "1.3", "activation_beta": "1.3", "activation_gamma": "1.3"},
    "FusedMatMul": {"transBatchA": "1.12", "transBatchB": "1.12"},
    "GroupQueryAttention": {
        "smooth_softmax": "1.19",
        "softcap": "1.20",
        "input 9": "1.22",
        "input 10": "1.22",
        **{f"input {place}": _IN_USE for place in range(11, 16)},
        "output 3": _IN_USE,
        "causal": _IN_USE,
        "k_quant_type": _IN_USE,
        "kv_cache_bit_width": _IN_USE,
        "qk_norm_epsilon": _IN_USE,
        "qk_output": _IN_USE,
        "sliding_window_cache": _IN_USE,
        "v_quant_type": _IN_USE,
    },
    "MatMulNBits": {"input 4": "1.18", "input 5": "1.19", "weight_prepacked": _IN_USE},
    "MultiHeadAttention": {"input 8": "1.22", "input 9": "1.22", "output 3": "1.22"},
    "QAttention": {
        "mask_filter_value": "1.14",
        "past_present_share_buffer": "1.14",
        "scale": "1.14",
        "do_rotary": "1.17",
    },
    "RotaryEmbedding": {"is_packed_batching": "1.19"},
    "SkipLayerNormalization": {"output 3": "1.14"},
}
_BITS = {8: "1.22", 2: "1.24"}  # of MatMulNBits

Need = tuple[str, str]  # release, and what needs it


def needs_of(node: onnx.NodeProto) -> Iterator[Need]:
    """What a node of com.microsoft needs: its operator, and what of it came later."""
    name = f"{MICROSOFT} {node.op_type}"
    yield _SINCE.get(node.op_type, _IN_USE), name
    later = _PARTS.get(node.op_type, {})
    yield from ((later[part], f"{name} with {part}") for part in _parts(node) if part in later)
    bits = attribute(node, "bits", 4)
    if node.op_type == "MatMulNBits" and bits in _BITS:
        yield _BITS[bits], f"{name} of {bits} bits"


def _parts(node: onnx.NodeProto) -> Iterator[str]:
    yield from (entry.name for entry in node.attribute)
    yield from (f"input {place}" for place, name in enumerate(node.input) if name)
    yield from (f"output {place}" for place, name in enumerate(node.output) if name)
