"""Running text of a known source, and language models whose perplexity on it is known."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.zips import zipped

WORDS = 64
LINE = 16
Ids = npt.NDArray[np.int64]


def chances(seed: int = 0) -> npt.NDArray[np.float64]:
    """Which word follows which, [words, words]; a few are likely after each."""
    return np.random.default_rng(seed).dirichlet(np.full(WORDS, 0.1), WORDS)


def said(length: int, seed: int = 1) -> Ids:
    """What a speaker with these chances says."""
    below = chances().cumsum(1)
    found = [0]
    for share in np.random.default_rng(seed).random(length - 1):
        found.append(min(int(np.searchsorted(below[found[-1]], share)), WORDS - 1))
    return np.array(found)


def written(ids: Ids) -> str:
    """Words in lines."""
    words = [f"w{number}" for number in ids]
    return "\n".join(" ".join(words[start : start + LINE]) for start in range(0, len(words), LINE))


def tokenizer() -> str:
    """A token for each word."""
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made.to_str()


def archive(path: Path, files: dict[str, str]) -> Path:
    """Documents beside the tokenizer."""
    contents = {name: text.encode() for name, text in files.items()}
    path.write_bytes(zipped({"tokenizer.json": tokenizer().encode(), **contents}))
    return path


def bigrams(path: Path, width: int = WORDS) -> Path:
    """A model that knows the chances: the scores of a word's row, after a product that can be quantized."""
    scores = np.log(chances()[:, :width] + 1e-6).astype(np.float32)
    constants = {"rows": np.eye(WORDS, dtype=np.float32), "scores": scores}
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["row"], "pick"),
        helper.make_node("MatMul", ["row", "scores"], ["logits"], "score"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bigrams",
        [info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [info("logits", TensorProto.FLOAT, ["batch", "sequence", width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
