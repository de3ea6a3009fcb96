"""What is asked of outputs, how it is settled, and what the answers are worth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.detection import Decoding
from app.domain.errors import Refused
from app.domain.job import Evaluation
from app.domain.report import Accuracy
from tests.engine.texts import archive, jsonl
from worker.engine.data import open_dataset
from worker.engine.data.bind import Binding
from worker.engine.data.dataset import Dataset
from worker.engine.data.source import Source
from worker.engine.evaluate.baseline import compared
from worker.engine.evaluate.judge import Judge, pooled
from worker.engine.evaluate.question import settle
from worker.engine.requests import Data

DRAW = np.random.default_rng(7)


def samples(folder: Path, labels: Any, **more: Any) -> Dataset:
    np.savez(folder / "data.npz", x=np.zeros((len(labels), 1), np.float32), labels=labels, **more)
    return open_dataset(Data(path=folder / "data.npz"))


def settled(dataset: Dataset, first: dict[str, np.ndarray], **asked: Any) -> Any:
    source = Source(dataset, Binding((), {}, None, 1, frozenset()), range(len(dataset)))  # type: ignore[arg-type]
    return settle(first, list(first), source, Evaluation(**asked))


def judged(dataset: Dataset, baseline: Any, candidate: Any, **asked: Any) -> Accuracy:
    labelled, _ = settled(dataset, {"y": np.asarray(baseline[0])}, **asked)
    judge = Judge(dataset, labelled.question)
    for index, (was, now) in enumerate(zip(baseline, candidate, strict=True)):
        judge.add(index, labelled.labels[index], np.asarray(was), np.asarray(now))
    accuracy = judge.accuracy()
    assert accuracy
    return accuracy


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_a_drop_above_0_is_worse_where_less_is_better(tmp_path: Path, metric: str) -> None:
    target = DRAW.normal(size=(30, 4))
    dataset = samples(tmp_path, target)

    noise = DRAW.normal(size=target.shape)

    found = judged(dataset, target + 0.1 * noise, target + 0.2 * noise, metric=metric)

    assert found.value > found.baseline
    assert found.drop > 0
    assert found.drop == pytest.approx(found.value - found.baseline)
    assert found.ci[0] <= found.drop <= found.ci[1]
    assert len(found.quantiles) == 201
    assert list(found.quantiles) == sorted(found.quantiles)


def test_psnr_is_of_pictures_without_unit_axes(tmp_path: Path) -> None:
    target = DRAW.uniform(size=(12, 1, 6, 6)).astype(np.float32)
    dataset = samples(tmp_path, target)

    found = judged(dataset, target[:, None] + 0.01, target[:, None] + 0.1, metric="psnr")

    assert found.baseline == pytest.approx(40, abs=0.01)
    assert found.value == pytest.approx(20, abs=0.01)
    assert (found.lost, found.gained) == (None, None)


def test_cosine_is_of_vectors(tmp_path: Path) -> None:
    target = DRAW.normal(size=(12, 8))

    assert judged(samples(tmp_path, target), target * 3, -target, metric="cosine").drop == pytest.approx(2)


def test_shares_keep_the_score_interval(tmp_path: Path) -> None:
    found = judged(samples(tmp_path, np.zeros(20, int)), [[1.0, 0]] * 20, [[1.0, 0]] * 19 + [[0.0, 1]])

    assert (found.metric, found.lost, found.gained, found.quantiles) == ("top1", 1, 0, ())


def test_shares_along_streams_are_drawn_by_the_stream(tmp_path: Path) -> None:
    wrong = [[0.0, 1.0] if i < 10 else [1.0, 0.0] for i in range(200)]
    right = [[1.0, 0.0]] * 200
    whole = judged(samples(tmp_path, np.zeros(200, int), stream=np.arange(200) // 10), right, wrong)
    alone = judged(samples(tmp_path, np.zeros(200, int)), right, wrong)

    assert (whole.lost, len(whole.quantiles)) == (10, 201)
    assert whole.ci[1] > alone.ci[1]


def test_f1_of_positions_leaves_out_what_is_to_be_ignored(tmp_path: Path) -> None:
    labels = np.tile([0, 1, -100], (12, 1))
    scores = np.zeros((12, 1, 3, 2))
    scores[:, 0, [0, 1, 2], [0, 1, 0]] = 1

    found = judged(samples(tmp_path, labels), scores, scores, ignore_label=-100)

    assert (found.metric, found.value) == ("f1", 1.0)


def test_a_label_of_a_position_that_is_no_class_is_refused(tmp_path: Path) -> None:
    labels = np.tile([0, 1, -100], (12, 1))

    with pytest.raises(Refused) as refused:
        judged(samples(tmp_path, labels), np.zeros((12, 1, 3, 2)), np.zeros((12, 1, 3, 2)))

    assert refused.value.code == "labels_out_of_range"


def test_f1_that_lost_nothing_is_not_certain(tmp_path: Path) -> None:
    outputs = np.eye(3)[np.arange(30) % 3]

    found = judged(samples(tmp_path, np.arange(30) % 3), outputs, outputs, metric="f1")

    assert (found.value, found.drop, found.lost) == (1, 0, 0)
    assert found.ci[1] > 0.05


def test_a_map_says_which_class_of_the_model_a_label_is(tmp_path: Path) -> None:
    dataset = samples(tmp_path, np.array(["cat", "dog", "fox"] * 4))
    outputs = np.eye(10)[[7, 2, 0] * 4]

    found = judged(dataset, outputs, outputs, label_map={"cat": 7, "dog": 2, "fox": -1})

    assert (found.value, found.samples) == (1, 8)
    with pytest.raises(Refused, match="'fox' is not in evaluation") as refused:
        judged(dataset, outputs, outputs, label_map={"cat": 7, "dog": 2})
    assert refused.value.errors[0].pointer == "/evaluation/label_map"


def test_a_map_gives_the_models_class_at_each_position_of_a_mask(tmp_path: Path) -> None:
    truth = np.tile([[7, 9], [5, 7]], (12, 1, 1))
    right = np.tile(np.eye(3)[[[2, 0], [1, 2]]].transpose(2, 0, 1), (12, 1, 1, 1))
    dataset = samples(tmp_path, truth)

    found = judged(dataset, right, right, metric="miou", label_map={"7": 2, "9": 0, "5": 1})
    without = judged(dataset, right, -right, metric="miou", label_map={"7": 2, "9": -1, "5": -1})

    assert found.value == 1
    assert (without.baseline, without.value) == (1, 0)
    with pytest.raises(Refused, match="'5' is not in evaluation") as refused:
        judged(dataset, right, right, metric="miou", label_map={"7": 2})
    assert refused.value.errors[0].pointer == "/evaluation/label_map"


@pytest.mark.parametrize(
    ("labels", "output", "asked", "code"),
    [
        (np.arange(12) % 2 + 0.5, np.zeros((1, 4)), {"metric": "top1"}, "metric_mismatch"),
        (np.zeros((12, 3)), np.zeros((1, 4)), {"metric": "mse"}, "metric_mismatch"),
        (np.zeros((12, 3)), np.zeros((1, 3)), {"metric": "pearson"}, "metric_mismatch"),
        (np.array(["cat", "dog"] * 6), np.zeros((1, 1)), {"metric": "mse"}, "metric_mismatch"),
        (np.array(["cat", "dog"] * 6), np.zeros((1, 1)), {"metric": "spearman"}, "metric_mismatch"),
        (np.zeros((9, 3)), np.zeros((1, 3)), {"metric": "mse"}, "too_few_samples"),
        (np.zeros(12, int), np.zeros((1, 2, 5)), {"metric": "top5"}, "metric_mismatch"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(
    tmp_path: Path, labels: np.ndarray, output: np.ndarray, asked: dict[str, Any], code: str
) -> None:
    dataset = samples(tmp_path, labels)

    with pytest.raises(Refused) as refused:
        settled(dataset, {"y": output}, **asked)
    assert refused.value.code == code
    assert refused.value.detail.startswith(f"The metric {asked['metric']} cannot be measured: ")


def test_several_outputs_are_named_when_one_must_be_chosen(tmp_path: Path) -> None:
    dataset = samples(tmp_path, np.zeros(12, int))

    with pytest.raises(Refused, match=r"several float outputs \(a, b\)"):
        settled(dataset, {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}, metric="top1")


@pytest.mark.parametrize(
    ("labels", "size", "metric"),
    [
        (np.arange(12) % 3, 3, "top1"),
        (np.arange(12) % 2, 1, "top1"),
        (np.arange(12), 1, "mse"),
        (np.arange(12) / 8, 1, "mse"),
    ],
)
def test_the_metric_follows_from_the_labels(
    tmp_path: Path, labels: np.ndarray, size: int, metric: str
) -> None:
    labelled, _ = settled(samples(tmp_path, labels), {"y": np.zeros((1, size))})

    assert labelled.metric == metric


def test_pairs_are_judged_by_the_cosine_of_their_texts(tmp_path: Path) -> None:
    rows = [{"text_a": "the cat", "text_b": "a dog", "score": float(i)} for i in range(12)]
    dataset = open_dataset(Data(path=archive(tmp_path / "data", jsonl(rows))))
    angles = np.linspace(3, 0, 12)
    texts = [v for angle in angles for v in ([[1.0, 0.0]], [[np.cos(angle), np.sin(angle)]])]
    shuffled = [v for angle in np.roll(angles, 6) for v in ([[1.0, 0.0]], [[np.cos(angle), np.sin(angle)]])]

    found = judged(dataset, texts, shuffled)

    assert (found.metric, found.samples) == ("spearman", 12)
    assert found.baseline == pytest.approx(1)
    assert found.value < 0.5
    assert found.drop > 0.5


def test_tokens_are_pooled_by_the_mask() -> None:
    rows = np.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = np.array([1, 1, 0])

    assert pooled(rows, mask, None).tolist() == [2, 3]
    assert pooled(rows, mask, "cls").tolist() == [1, 2]
    assert pooled(rows, mask, "none").size == 6
    assert pooled(np.array([[5.0, 6.0]]), mask, None).tolist() == [5, 6]


def test_vectors_of_different_length_ask_for_a_pool(tmp_path: Path) -> None:
    rows = [{"text_a": "the cat", "text_b": "a dog sat", "score": float(i)} for i in range(12)]
    dataset = open_dataset(Data(path=archive(tmp_path / "data", jsonl(rows))))
    judge = Judge(dataset, Evaluation(metric="spearman", pool="none"))
    judge.add(0, None, np.zeros((1, 4, 2)), np.zeros((1, 4, 2)))

    with pytest.raises(Refused) as refused:
        judge.add(1, None, np.zeros((1, 5, 2)), np.zeros((1, 5, 2)))

    assert refused.value.errors[0].pointer == "/evaluation/pool"


def masks(draw: np.random.Generator, wrong: float) -> np.ndarray:
    """Scores, [1, 3, 4, 5], of the class of each pixel, of which a share is wrong."""
    classes = np.where(draw.random((4, 5)) < wrong, 1, np.arange(20).reshape(4, 5) % 3)
    return np.eye(3)[classes].transpose(2, 0, 1)[None]


def test_masks_are_judged_by_miou_with_an_interval_over_samples(tmp_path: Path) -> None:
    truth = np.tile(np.arange(20).reshape(4, 5) % 3, (30, 1, 1))
    truth[:, 0, 0] = -1
    draw = np.random.default_rng(0)
    baseline, candidate = ([masks(draw, wrong) for _ in range(30)] for wrong in (0.0, 0.3))

    found = judged(samples(tmp_path, truth), baseline, candidate)

    assert (found.metric, found.baseline) == ("miou", 1.0)
    assert 0.2 < found.drop < 0.5
    assert found.ci[0] < found.drop < found.ci[1]


def test_a_mask_of_one_channel_is_of_two_classes(tmp_path: Path) -> None:
    truth = np.tile([[0, 1], [1, 0]], (12, 1, 1))
    logits = np.where(truth == 1, 0.3, -0.3)[:, None, None]

    assert judged(samples(tmp_path, truth), logits, logits, metric="miou", logits=True).value == 1


def test_miou_of_classes_of_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="miou needs a mask for each sample"):
        settled(samples(tmp_path, np.arange(12) % 3), {"y": np.zeros((1, 3))}, metric="miou")


BOXES = np.array([[0, 0, 8, 8, 0], [20, 20, 30, 30, 1]], np.float32)
DECODING = Decoding(boxes="xyxy", size=(32, 32))


def boxed(folder: Path) -> Dataset:
    """12 samples, of which every third holds no objects."""
    labels: Any = {f"labels/{i:06d}": BOXES[: 2 * (i % 3 > 0)] for i in range(12)}
    np.savez(folder / "data.npz", x=np.zeros((12, 1), np.float32), **labels)
    return open_dataset(Data(path=folder / "data.npz"))


def answers(score: float) -> np.ndarray:
    """Both boxes, the second one by class 1 or, at a low score, by class 0."""
    return np.array([[[*BOXES[0, :4], 1, 0.9, 0], [*BOXES[1, :4], 1, 1 - score, score]]])


@pytest.mark.parametrize("metric", ["map", "map50"])
def test_boxes_are_judged_by_mean_average_precision(tmp_path: Path, metric: str) -> None:
    right = [answers(0.8)] * 12

    found = judged(boxed(tmp_path), right, [answers(0.2)] * 12, metric=metric, decoding=DECODING)

    assert found.metric == metric
    assert (found.baseline, found.drop) == pytest.approx((2 / 3, 1 / 3))  # 4 of 12 samples hold nothing
    assert found.ci[0] <= found.drop <= found.ci[1]
    assert len(found.quantiles) == 201


@pytest.mark.parametrize(("label_map", "value"), [({"0": 1, "1": 0}, 0), ({"0": 0, "1": -1}, 1)])
def test_a_map_gives_the_models_class_of_each_box(
    tmp_path: Path, label_map: dict[str, int], value: float
) -> None:
    right = [answers(0.8)] * 12

    found = judged(boxed(tmp_path), right, right, metric="map50", decoding=DECODING, label_map=label_map)

    assert found.value == pytest.approx(value * 2 / 3, abs=1e-9)


def test_boxes_whose_scores_are_an_output_of_their_own_are_judged_together(tmp_path: Path) -> None:
    whole = answers(0.8)
    outputs = {"scores": whole[..., 5:], "boxes": whole[..., :4]}
    decoding = replace(DECODING, objectness=False, scores="scores")

    labelled, _ = settled(boxed(tmp_path), outputs, metric="map", decoding=decoding)

    assert labelled.output == "boxes"
    assert labelled.answer(outputs).tolist() == np.delete(whole[0], 4, axis=1).tolist()
    assert compared(outputs, labelled.question) == ["scores", "boxes"]


def test_scores_that_the_model_does_not_write_are_named() -> None:
    question = Evaluation(output="boxes", decoding=Decoding(objectness=False, scores="score"))

    with pytest.raises(Refused, match="no float output 'score'; it has boxes, scores") as refusal:
        compared({"boxes": np.zeros((3, 4)), "scores": np.zeros((3, 2))}, question)

    assert refusal.value.errors[0].pointer == "/evaluation/decoding/scores"


def test_boxes_without_a_declared_decoding_are_asked_for_it(tmp_path: Path) -> None:
    dataset = boxed(tmp_path)

    labelled, notes = settled(dataset, {"y": answers(0.8)[:, :1]})

    assert labelled is None
    assert "say in evaluation.decoding" in str(notes[0])
    with pytest.raises(Refused) as refused:
        settled(dataset, {"y": answers(0.8)}, metric="map")
    assert (refused.value.code, refused.value.errors[0].pointer) == (
        "decoding_missing",
        "/evaluation/decoding",
    )
