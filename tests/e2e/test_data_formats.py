"""Each format of data through the whole service, and what is measured on masks and boxes."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from onnx import helper
from PIL import Image
from safetensors.numpy import save

from tests.engine.graphs import build
from tests.engine.parquets import files, parquet
from tests.waiting import in_time
from tests.zips import zipped

WAIT = {"Prefer": "wait=600"}
SIDE, COUNT = 16, 40
DRAW = np.random.default_rng(11)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(seed: int) -> list[np.ndarray]:
    """Noise, and a bright square at one of four places; which is its class, its mask and its box."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(COUNT):
        picture = draw.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
        left, top = corner(number)
        picture[top : top + 6, left : left + 6] = 220
        made.append(picture)
    return made


def corner(number: int) -> tuple[int, int]:
    return 1 + 8 * (number % 2), 1 + 8 * (number // 2 % 2)


def network(outputs: int, pooled: int) -> bytes:
    """Brightness by a convolution, averaged over squares of `pooled` pixels, then mixed by another one."""
    nodes = [
        helper.make_node("Conv", ["image", "look"], ["a"], "look", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node(
            "AveragePool", ["b"], ["c"], "pool", kernel_shape=[pooled] * 2, strides=[pooled] * 2
        ),
        helper.make_node("Conv", ["c", "mix", "bias"], ["y"], "mix"),
    ]
    look = np.full((8, 3, 3, 3), 1 / 27, np.float32) * DRAW.uniform(0.9, 1.1, (8, 3, 3, 3))
    mix = np.zeros((outputs, 8, 1, 1), np.float32)
    bias = np.zeros(outputs, np.float32)
    mix[-1], bias[-1] = 1.0, -8 * 0.35
    size = SIDE // pooled
    constants = {"look": look.astype(np.float32), "mix": mix, "bias": bias}
    model = build(nodes, {"image": [1, 3, SIDE, SIDE]}, {"y": [1, outputs, size, size]}, constants)
    return bytes(model.SerializeToString())


def detector() -> bytes:
    """One box for each of four squares: its centre and size are constants, its score is the brightness."""
    nodes = [
        helper.make_node("Conv", ["image", "look"], ["a"], "look", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("AveragePool", ["b"], ["c"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["c", "mix"], ["d"], "mix"),
        helper.make_node("Reshape", ["d", "rows"], ["e"], "rows"),
        helper.make_node("Concat", ["boxes", "e"], ["y"], "join", axis=2),
    ]
    places = [corner(n) for n in range(4)]
    boxes = np.array([[[0.0, 0.0, np.log(6 / 8), np.log(6 / 8), 1.0]] * 4], np.float32)
    boxes[0, :, :2] = [[(left + 3) / 8 % 1, (top + 3) / 8 % 1] for left, top in places]
    look = np.full((8, 3, 3, 3), 1 / 27) * DRAW.uniform(0.9, 1.1, (8, 3, 3, 3))
    constants: dict[str, np.ndarray] = {
        "look": look.astype(np.float32),
        "mix": np.full((1, 8, 1, 1), 1 / 8, np.float32),
        "rows": np.array([1, 4, 1], np.int64),
        "boxes": boxes,
    }
    model = build(nodes, {"image": [1, 3, SIDE, SIDE]}, {"y": [1, 4, 6]}, constants)
    return bytes(model.SerializeToString())


def send(http: httpx.Client, noun: str, content: bytes, **fields: str) -> dict[str, Any]:
    answer = http.post(f"/v1/{noun}", files={"file": ("upload", content)}, data=fields, headers=WAIT)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert found["state"] == "ready"
    return found


def measured(http: httpx.Client, model: bytes, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """A job's only candidate and its verdict."""
    version = send(http, "models", model)["id"]
    given = {"recipes": [{"method": "static_int8"}], "benchmark": {"max_seconds": 1}, **spec}
    job = http.post("/v1/jobs", json={"version": version, **given}).json()

    def ended() -> bool:
        return http.get(f"/v1/jobs/{job['id']}").json()["state"] in {"succeeded", "failed"}

    in_time(ended, seconds=600)
    (candidate,) = http.get(f"/v1/jobs/{job['id']}/candidates").json()["items"]
    verdict = http.get(f"/v1/jobs/{job['id']}/verdict")
    assert candidate["state"] == "measured", (http.get(f"/v1/jobs/{job['id']}").json()["error"], candidate)
    return candidate, verdict.json()


def aihub(arrays: Mapping[str, list[np.ndarray]]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for place, (name, batches) in enumerate(arrays.items()):
            for n, array in enumerate(batches):
                file.create_dataset(f"data/{place}/batch_{n}", data=array, compression="gzip")
            file[f"data/{place}"].attrs.update({"order": place, "name": name, "batch_count": len(batches)})
    return buffer.getvalue()


def as_input(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255


def mask(number: int) -> np.ndarray:
    left, top = corner(number)
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[top : top + 6, left : left + 6] = 1
    return found


def test_an_h5_calibrates_and_masks_in_a_parquet_are_gated_on_miou(
    http: httpx.Client, tmp_path: Path
) -> None:
    calibration = send(http, "datasets", aihub({"image": [as_input(p) for p in pictures(1)]}))
    columns = {
        "image": files([png(picture) for picture in pictures(3)]),
        "mask": files([png(mask(n)) for n in range(COUNT)]),
    }
    dataset = send(http, "datasets", parquet(tmp_path / "data", columns).read_bytes(), preprocess="unit")
    spec = {
        "calibration": {"dataset": calibration["id"]},
        "evaluation": {"dataset": dataset["id"]},
        "gate": {"max_accuracy_drop": 0.5},
    }

    candidate, verdict = measured(http, network(2, 1), spec)

    assert (calibration["summary"]["format"], calibration["summary"]["samples"]) == ("h5", COUNT)
    assert dataset["summary"]["targets"]["shape"] == [SIDE, SIDE]
    assert candidate["recipe"]["ranges"] is not None
    assert candidate["accuracy"]["metric"] == "miou"
    assert candidate["accuracy"]["baseline"] > 0.6
    assert verdict["checks"][0]["bound"] == pytest.approx(candidate["accuracy"]["ci"][1], abs=0.05)
    assert verdict["conclusion"] == "pass"


def test_safetensors_calibrate_and_boxes_in_cocos_json_are_gated_on_mean_average_precision(
    http: httpx.Client,
) -> None:
    arrays = np.concatenate([as_input(p) for p in pictures(2)])
    calibration = send(http, "datasets", save({"image": arrays}))
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(COUNT)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 4, "bbox": [*corner(n), 6, 6]} for n in range(COUNT)
        ],
        "categories": [{"id": 4, "name": "square"}, {"id": 2, "name": "shadow"}],
    }
    coco["annotations"].append({"id": COUNT, "image_id": 0, "category_id": 2, "bbox": [0, 0, 3, 3]})
    images = {f"{n}.png": png(picture) for n, picture in enumerate(pictures(4))}
    content = zipped(images | {"annotations.json": json.dumps(coco).encode()})
    data = {"dataset": send(http, "datasets", content, preprocess="unit")["id"]}
    label_map = {"square": 0, "shadow": -1}
    spec = {
        "calibration": {"dataset": calibration["id"]},
        "evaluation": data | {"metric": "map50", "decoding": {"strides": [8]}, "label_map": label_map},
        "gate": {"max_accuracy_drop": 0.5},
    }

    candidate, verdict = measured(http, detector(), spec)

    assert calibration["summary"]["format"] == "safetensors"
    assert candidate["accuracy"]["metric"] == "map50"
    assert candidate["accuracy"]["baseline"] > 0.9
    assert verdict["conclusion"] == "pass"


def test_boxes_without_a_declared_decoding_fail_the_job_with_the_field(http: httpx.Client) -> None:
    labels = {f"labels/{n:06d}": np.array([[*corner(n), 7, 7, 0]], np.float32) for n in range(COUNT)}
    arrays: Any = {"image": np.concatenate([as_input(p) for p in pictures(5)]), **labels}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = {"dataset": send(http, "datasets", buffer.getvalue())["id"]}
    version = send(http, "models", detector())["id"]
    spec = {"version": version, "calibration": data, "evaluation": data | {"metric": "map"}}
    job = http.post("/v1/jobs", json=spec | {"recipes": [{"method": "dynamic_int8"}]}).json()

    in_time(lambda: http.get(f"/v1/jobs/{job['id']}").json()["state"] == "failed", seconds=600)

    error = http.get(f"/v1/jobs/{job['id']}").json()["error"]
    assert (error["code"], error["errors"][0]["pointer"]) == ("decoding_missing", "/evaluation/decoding")
