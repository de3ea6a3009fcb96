"""The engine's calls, from JSON to JSON, on scikit-learn's digits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from app.domain.errors import Refused
from tests.engine.digits import classifier, digits, save_digits
from tests.engine.graphs import build, weights
from worker.engine.calls import CALLS, run_call
from worker.engine.ready import read_feeds

Answer = dict[str, Any]
Images = NDArray[np.float32]
STATIC = {"method": "static_int8"}


class Job:
    """A model and a dataset in a folder, with the calls that a job makes of them."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        self.folder = folder
        self.model = folder / "uploaded.onnx"
        onnx.save(model, self.model)
        self.heard: list[float] = []

    def call(self, name: str, **arguments: Any) -> Answer:
        as_json = json.loads(json.dumps(arguments, default=str))
        answer = run_call(name, as_json, lambda share, _: self.heard.append(share))
        return json.loads(json.dumps(answer, allow_nan=False))  # type: ignore[no-any-return]

    def prepare(self, data: Path | None = None, **more: Any) -> Answer:
        given = {"evaluation": {"path": data}, "calibration": {"path": data}} if data else {}
        return self.call("prepare", model=self.model, out=self.folder, **(given | more))

    def build(self, prepared: Answer, data: Path | None = None, recipe: Answer = STATIC) -> Answer:
        out = self.folder / "candidate"
        out.mkdir(exist_ok=True)
        paths = {k: self.folder / prepared[k] for k in ("statistics", "reference", "feeds") if prepared[k]}
        evaluation = {"evaluation": {"path": data}} if data else {}
        shared = {"original": self.model, "model": self.folder / prepared["model"], "out": out}
        return self.call("build", **shared, **paths, **evaluation, recipe=recipe, isa="x86-vnni")


def bundle(job: Job, change: Callable[[Images], Images] = lambda images: images) -> Images:
    """Put three test data sets beside the model; what they hold."""
    images: Images = digits()[0][:3].reshape(3, 1, 8, 8).astype(np.float32)
    given = change(images / np.float32(255))
    for index, image in enumerate(given):
        folder = job.folder / f"test_data_set_{index}"
        folder.mkdir()
        tensor = numpy_helper.from_array(image[None], "x")
        (folder / "input_0.pb").write_bytes(tensor.SerializeToString())
    return given


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, classifier())


def test_a_job_on_labelled_data_ends_with_accuracy_and_fidelity(job: Job) -> None:
    data = save_digits(job.folder / "digits")

    prepared = job.prepare(data)
    built = job.build(prepared, data)

    figures = built["figures"]
    assert (prepared["calibration_samples"], prepared["evaluation_samples"]) == (128, 1797 - 128)
    assert prepared["metric"] == "top1"
    assert 0.85 < prepared["baseline"]["accuracy"]["value"] < 0.95
    assert figures["accuracy"]["baseline"] == prepared["baseline"]["accuracy"]["value"]
    assert abs(figures["accuracy"]["drop"]) < 0.02
    assert 20 < figures["fidelity"]["sqnr_db"] < 60
    assert 0.2 < figures["size"]["ratio"] < 1
    assert built["recipe"]["activation"] == "uint8"
    assert onnx.load(job.folder / "candidate" / built["model"]).graph.input[0].name == "x"


def test_progress_rises_to_the_end(job: Job) -> None:
    job.prepare(save_digits(job.folder / "digits", 200))

    assert job.heard == sorted(job.heard)
    assert job.heard[-1] == 1


def test_the_same_call_gives_the_same_answer(job: Job) -> None:
    data = save_digits(job.folder / "digits", 300)

    assert job.build(job.prepare(data), data) == job.build(job.prepare(data), data)


def test_labels_that_are_all_wrong_make_the_preprocessing_suspect(job: Job) -> None:
    images, labels = digits()
    np.savez(job.folder / "data.npz", images=images, labels=(labels + 5) % 10)

    notes = job.prepare(job.folder / "data.npz")["baseline"]["notes"]

    assert any(note.startswith("preprocessing_suspect") for note in notes)


def test_without_labels_there_is_fidelity_and_a_note_that_it_is_not_accuracy(job: Job) -> None:
    data = save_digits(job.folder / "digits", labels=False)

    prepared = job.prepare(data)
    figures = job.build(prepared, data)["figures"]

    assert prepared["metric"] is None
    assert figures["accuracy"] is None
    assert figures["fidelity"]["agreement"] > 0.9
    assert any(note.startswith("accuracy:") and "not accuracy" in note for note in figures["notes"])


def test_without_data_the_inputs_are_made_up_and_the_notes_say_so(job: Job) -> None:
    prepared = job.prepare(batch=3)
    figures = job.build(prepared, recipe={"method": "dynamic_int8"})["figures"]

    assert prepared["synthetic_feeds"]
    assert prepared["statistics"] is None
    assert any("synthetic" in note for note in prepared["baseline"]["notes"])
    assert {note.split(":")[0] for note in figures["notes"]} == {"accuracy", "fidelity"}
    assert read_feeds(job.folder / prepared["feeds"])[0]["x"].shape == (3, 1, 8, 8)


def test_without_data_what_came_with_the_model_serves_fidelity_and_latency(job: Job) -> None:
    given = bundle(job)

    prepared = job.prepare()
    figures = job.build(prepared, recipe={"method": "dynamic_int8"})["figures"]

    assert not prepared["synthetic_feeds"]
    assert (prepared["calibration_order"], prepared["evaluation_samples"]) == (None, len(given))
    made = read_feeds(job.folder / prepared["feeds"])
    assert [feed["x"].tolist() for feed in made] == [images[None].tolist() for images in given]
    assert figures["fidelity"]["samples"] == len(given)
    told = "data: fidelity and latency are measured on test data that came with the model (test_data_set_*)"
    for notes in (prepared["baseline"]["notes"], figures["notes"]):
        assert sum(note.startswith(f"{told}: {len(given)} samples") for note in notes) == 1
        assert any(note.startswith("accuracy:") for note in notes)


def test_data_that_were_sent_take_the_place_of_what_came_with_the_model(job: Job) -> None:
    bundle(job)
    data = save_digits(job.folder / "digits", 300)

    prepared = job.prepare(data)

    assert prepared["evaluation_samples"] == 300 - 60
    assert not any("came with the model" in note for note in prepared["baseline"]["notes"])


@pytest.mark.parametrize("content", [b"no tensor", onnx.TensorProto(data_type=8).SerializeToString(), None])
def test_test_data_that_cannot_be_used_are_passed_over_with_the_reason(
    job: Job, content: bytes | None
) -> None:
    wrong = numpy_helper.from_array(np.zeros((1, 3), np.float32)).SerializeToString()
    bundle(job)
    (job.folder / "test_data_set_0" / "input_0.pb").write_bytes(wrong if content is None else content)

    prepared = job.prepare()

    assert prepared["synthetic_feeds"]
    assert prepared["reference"] is None
    notes = prepared["baseline"]["notes"]
    assert any("came with the model (test_data_set_*) were passed over: " in note for note in notes)
    assert any(note.startswith("fidelity: there is no data") for note in notes)


def test_test_data_that_give_no_numbers_to_compare_still_time_the_model(job: Job) -> None:
    bundle(job, lambda images: np.full_like(images, np.nan))

    prepared = job.prepare()

    assert not prepared["synthetic_feeds"]
    assert prepared["baseline"]["fidelity"] is None
    notes = prepared["baseline"]["notes"]
    assert any(note.startswith("fidelity: not on test data that came with the model") for note in notes)


def test_without_labels_a_metric_that_was_asked_for_is_refused(job: Job) -> None:
    with pytest.raises(Refused, match="top5 cannot be measured") as refused:
        job.prepare(save_digits(job.folder / "digits", labels=False), question={"metric": "top5"})

    assert refused.value.code == "labels_missing"


def test_a_label_that_is_no_class_is_refused(job: Job) -> None:
    images, labels = digits()
    np.savez(job.folder / "data.npz", images=images, labels=np.where(labels == 9, 10, labels))

    with pytest.raises(Refused) as refused:
        job.prepare(job.folder / "data.npz")

    assert refused.value.code == "labels_out_of_range"


def test_two_datasets_that_share_samples_are_refused(job: Job) -> None:
    one, other = save_digits(job.folder / "one", 100), save_digits(job.folder / "other", 50)

    with pytest.raises(Refused) as refused:
        job.prepare(calibration={"path": one}, evaluation={"path": other})

    assert refused.value.code == "overlapping_datasets"


def test_samples_cap_both_uses(job: Job) -> None:
    data = save_digits(job.folder / "digits")

    prepared = job.prepare(data, calibration_samples=10, evaluation_samples=30)

    assert (prepared["calibration_samples"], prepared["evaluation_samples"]) == (10, 30)


def test_a_fixed_batch_is_filled_up_and_what_was_added_is_discarded(tmp_path: Path) -> None:
    fixed, single = Job(tmp_path, classifier(batch=7)), Job(tmp_path, classifier(batch=1))
    data = save_digits(tmp_path / "digits", 100)

    onnx.save(classifier(batch=7), fixed.model)
    seven = fixed.prepare(data)
    onnx.save(classifier(batch=1), single.model)
    one = single.prepare(data)

    assert seven["batch"] == 7
    assert seven["baseline"]["accuracy"] == one["baseline"]["accuracy"]


def test_another_batch_than_the_fixed_one_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, classifier(batch=1))

    with pytest.raises(Refused) as refused:
        job.prepare(save_digits(tmp_path / "digits", 100), batch=4)

    assert refused.value.code == "fixed_batch"


def test_a_dynamic_batch_takes_what_is_asked_for(job: Job) -> None:
    prepared = job.prepare(save_digits(job.folder / "digits", 100), batch=4)

    assert {feed["x"].shape for feed in read_feeds(job.folder / prepared["feeds"])} == {(4, 1, 8, 8)}


def test_a_model_that_gives_nan_is_refused_with_the_sample(tmp_path: Path) -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"], "log")]
    job = Job(tmp_path, build(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {}))
    np.savez(tmp_path / "data.npz", x=np.full((10, 4), -1, np.float32))

    with pytest.raises(Refused, match="NaN") as refused:
        job.prepare(evaluation={"path": tmp_path / "data.npz"})

    assert refused.value.code == "nan_output"


def two_outputs() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["near"], "near"),
        helper.make_node("Neg", ["near"], ["far"], "far"),
    ]
    shapes: dict[str, list[int | str]] = {"near": ["batch", 5], "far": ["batch", 5]}
    return build(nodes, {"x": ["batch", 4]}, shapes, {"w": weights(4, 5)})


def test_with_several_outputs_a_labelled_metric_needs_one_of_them_named(tmp_path: Path) -> None:
    job = Job(tmp_path, two_outputs())
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    labels = (x @ weights(4, 5)).argmax(1)
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    data = {"path": tmp_path / "data.npz"}

    unnamed = job.prepare(evaluation=data)
    named = job.prepare(evaluation=data, question={"output": "near", "metric": "top1"})
    with pytest.raises(Refused) as refused:
        job.prepare(evaluation=data, question={"metric": "top1"})

    assert unnamed["metric"] is None
    assert any(note.startswith("accuracy: the model has several") for note in unnamed["baseline"]["notes"])
    assert named["baseline"]["accuracy"]["value"] == 1
    assert refused.value.code == "output_required"


def test_an_output_that_does_not_exist_is_refused(job: Job) -> None:
    with pytest.raises(Refused) as refused:
        job.prepare(save_digits(job.folder / "digits", 50), question={"output": "nothing"})

    assert refused.value.code == "unknown_output"


def test_samples_stop_when_the_reference_is_full(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.evaluate.reference.MAX_BYTES", 20 * (10 * 4 + 128))
    data = save_digits(job.folder / "digits", 200)

    prepared = job.prepare(data)
    figures = job.build(prepared, data)["figures"]

    assert prepared["evaluation_samples"] == figures["accuracy"]["samples"] == 20
    assert any(note.startswith("evaluation: 20 of 160 samples") for note in prepared["baseline"]["notes"])


def test_examining_tells_what_is_in_a_model_and_in_a_dataset(job: Job) -> None:
    model = job.call("examine_model", model=job.model)
    dataset = job.call("examine_dataset", data={"path": save_digits(job.folder / "digits")})["summary"]

    assert model["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert (dataset["samples"], dataset["labels"], len(dataset["classes"])) == (1797, 1797, 10)


def test_every_call_of_the_contract_is_in_the_table() -> None:
    assert set(CALLS) == {
        "unpack_model",
        "examine_model",
        "examine_dataset",
        "prepare",
        "build",
        "measure_round",
        "measure_memory",
        "run_openvino",
    }
