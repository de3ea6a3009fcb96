"""Jobs over HTTP on data that are no images: pairs of sentences, streams with a state, and ONNX test data."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.engine.graphs import build, convolution, feeds, weights
from tests.engine.texts import WORDS, archive, jsonl
from tests.waiting import in_time


def upload(http: httpx.Client, noun: str, content: bytes) -> str:
    answer = http.post(f"/v1/{noun}", files={"file": (noun, content)}, data={"name": noun})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def started(
    http: httpx.Client, model: onnx.ModelProto, data: bytes, recipe: dict[str, str], **spec: Any
) -> str:
    """The path of a job with one dataset for both uses."""
    version, dataset = upload(http, "models", model.SerializeToString()), upload(http, "datasets", data)
    evaluation = {"dataset": dataset, **spec.pop("evaluation", {})}
    fields = {"calibration": {"dataset": dataset}, "recipes": [recipe]}
    answer = http.post("/v1/jobs", json={"version": version, "evaluation": evaluation, **fields, **spec})
    assert answer.status_code == 202, answer.text
    return f"/v1/jobs/{answer.json()['id']}"


def built(http: httpx.Client, path: str) -> dict[str, Any]:
    """The only candidate, judged; the job is canceled then, for its time is of no interest here."""

    def judged() -> bool:
        ended = http.get(path).json()["state"] in {"succeeded", "failed"}
        return ended or candidates()[0]["state"] == "built"

    def candidates() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get(f"{path}/candidates").json()["items"]
        return found or [{"state": None}]

    in_time(judged, seconds=600)
    (found,) = candidates()
    http.post(f"{path}/cancel")
    return found


def embedder() -> onnx.ModelProto:
    """Ids and their mask to a vector for each token: a table, and a product."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"], "table"),
        helper.make_node("Cast", ["attention_mask"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "last"], ["mask"], "unsqueeze"),
        helper.make_node("Mul", ["words", "mask"], ["masked"], "mul"),
        helper.make_node("MatMul", ["masked", "w"], ["y"], "product"),
    ]
    constants = {"table": weights(len(WORDS), 64), "w": weights(64, 32, seed=1), "last": np.array([2])}
    ids: dict[str, Sequence[int | str]] = {
        name: ["batch", "sequence"] for name in ("input_ids", "attention_mask")
    }
    return build(nodes, ids, {"y": ["batch", "sequence", 32]}, constants, kind=TensorProto.INT64)


def sentences(folder: Path) -> bytes:
    """100 pairs of sentences; what they have in common is their score."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(100):
        one, other = (rng.choice(WORDS[4:], size=rng.integers(3, 7)) for _ in range(2))
        shared = len(set(one) & set(other)) / len(set(one) | set(other))
        rows.append({"text_a": " ".join(one), "text_b": " ".join(other), "score": round(shared, 3)})
    return archive(folder / "pairs.zip", jsonl(rows)).read_bytes()


def test_pairs_of_sentences_are_judged_by_their_rank(http: httpx.Client, tmp_path: Path) -> None:
    model = embedder()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    evaluation = {"metric": "spearman", "pool": "mean"}

    path = started(http, model, sentences(tmp_path), {"method": "dynamic_int8"}, evaluation=evaluation)
    candidate = built(http, path)

    assert (candidate["state"], candidate["error"]) == ("built", None)
    accuracy = candidate["accuracy"]
    assert (accuracy["metric"], accuracy["samples"]) == ("spearman", 100), "nothing is to be calibrated"
    assert accuracy["baseline"] > 0.5, "the vectors of shared words agree"
    assert abs(accuracy["drop"]) < 0.05
    assert candidate["fidelity"]["sqnr_db"] > 25


def stateful() -> onnx.ModelProto:
    """A recurrent step: what it remembers is an output and an input."""
    nodes = [
        helper.make_node("Concat", ["x", "state"], ["both"], "join", axis=1),
        helper.make_node("MatMul", ["both", "w"], ["sum"], "step"),
        helper.make_node("Tanh", ["sum"], ["next"], "bend"),
        helper.make_node("MatMul", ["next", "v"], ["y"], "head"),
    ]
    constants = {"w": weights(48, 32) * 2, "v": weights(32, 8, seed=1)}
    return build(nodes, {"x": [1, 16], "state": [1, 32]}, {"y": [1, 8], "next": [1, 32]}, constants)


def streams() -> bytes:
    out = io.BytesIO()
    x = np.random.default_rng(0).normal(size=(100, 1, 16)).astype(np.float32)
    np.savez(out, x=x, stream=np.repeat(np.arange(20), 5))
    return out.getvalue()


def test_a_state_runs_freely_along_streams(http: httpx.Client) -> None:
    path = started(http, stateful(), streams(), {"method": "static_int8"}, state={"next": "state"})

    candidate = built(http, path)

    assert (candidate["state"], candidate["error"]) == ("built", None)
    assert 20 < candidate["fidelity"]["sqnr_db"] < 80
    assert candidate["fidelity"]["samples"] == 80, "streams stay whole: 4 of 20 calibrate"


def zoo(sets: Sequence[Sequence[Any]]) -> bytes:
    """Inputs with their outputs as the ONNX zoo has them, packed: test_data_set_0/input_0.pb and so on."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for index, pair in enumerate(sets):
            for name, values in zip(("input_0", "output_0"), pair, strict=True):
                content = numpy_helper.from_array(values).SerializeToString()
                member = tarfile.TarInfo(f"model/test_data_set_{index}/{name}.pb")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_test_data_of_a_zoo_calibrate_and_evaluate(http: httpx.Client) -> None:
    model = convolution()
    reference = ReferenceEvaluator(model)
    data = zoo([(inputs["x"], next(iter(reference.run(None, inputs)))) for inputs in feeds(20)])

    candidate = built(http, started(http, model, data, {"method": "static_int8"}))

    assert (candidate["state"], candidate["error"]) == ("built", None)
    assert candidate["fidelity"]["sqnr_db"] > 25
    assert candidate["fidelity"]["samples"] == 16
    assert candidate["accuracy"] is None
    assert any("accuracy" in str(note) for note in candidate["notes"])
