"""Whether a dataset fits a version, judged from what inspections found."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.dataset import PRESETS, Preprocess, calibration_share
from app.domain.fit import Fit, Question, check
from app.domain.gate import Gate
from app.domain.power import samples_for
from app.domain.report import ArrayInfo, DatasetSummary, Examination, TensorInfo
from tests.factories import EXAMINATION

MODEL = replace(
    EXAMINATION,
    inputs=(TensorInfo("x", "float32", ("batch", 3, 32, 32)),),
    outputs=(TensorInfo("scores", "float32", ("batch", 10)),),
)
PICTURES = DatasetSummary(
    format="images",
    samples=1000,
    arrays=(ArrayInfo("image", "float32", (3, 32, 32)),),
    labels=1000,
    classes=("cat", "dog"),
    label_range=(0, 1),
)
TOKENS = replace(
    EXAMINATION,
    inputs=tuple(TensorInfo(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask")),
    outputs=(TensorInfo("logits", "float32", ("batch", 2)),),
    vocabularies={"input_ids": 30_522},
)


def arrays(*infos: ArrayInfo, **more: Any) -> DatasetSummary:
    return replace(PICTURES, format="npz", arrays=infos, **more)


def asked(model: Examination, data: DatasetSummary, spec: Preprocess | None = None, **more: Any) -> Fit:
    return check(model, data, spec or Preprocess(), Question(**more))


def pointers(found: Fit, level: str) -> list[str]:
    return [finding.pointer for finding in found.findings if finding.level == level]


FITS = {
    "the same shape": ArrayInfo("x", "float32", (3, 32, 32), 0.0, 1.0),
    "another name": ArrayInfo("pictures", "float64", (3, 32, 32), 0.0, 1.0),
    "a batch axis of its own": ArrayInfo("x", "float16", (1, 3, 32, 32), 0.0, 1.0),
    "channels last": ArrayInfo("x", "uint8", (32, 32, 3), 0.0, 255.0),
    "sizes that differ": ArrayInfo("x", "float32", (3, None, None), 0.0, 1.0),
}
MISFITS = {
    "other sizes": ArrayInfo("x", "float32", (3, 64, 64)),
    "channels last that are no pixels": ArrayInfo("x", "float32", (32, 32, 3)),
    "integers": ArrayInfo("x", "int64", (3, 32, 32)),
    "too few axes": ArrayInfo("x", "float32", (32, 32)),
}


@pytest.mark.parametrize("case", FITS)
def test_arrays_that_a_job_would_take_fit(case: str) -> None:
    found = asked(MODEL, arrays(FITS[case]))

    assert (found.fits, found.findings) == (True, ())


@pytest.mark.parametrize("case", MISFITS)
def test_arrays_that_a_job_would_refuse_do_not_fit_and_say_what_is_expected(case: str) -> None:
    found = asked(MODEL, arrays(MISFITS[case]))

    assert (found.fits, pointers(found, "error")) == (False, ["/inputs/x"])
    assert "float32 [?, 3, 32, 32]" in found.findings[0].detail


def test_images_fit_by_their_size_after_preprocessing() -> None:
    assert asked(MODEL, PICTURES).findings == ()
    assert not asked(MODEL, replace(PICTURES, arrays=(ArrayInfo("image", "float32", (3, 64, 64)),))).fits
    grey = replace(PICTURES, arrays=(ArrayInfo("image", "float32", (1, 32, 32)),))
    assert pointers(asked(MODEL, grey, PRESETS["imagenet"]), "error") == [
        "/inputs/x",
        "/preprocess/mean",
        "/preprocess/std",
    ]


def test_every_input_needs_an_array_and_arrays_too_many_are_told() -> None:
    ids = ArrayInfo("input_ids", "int64", (None,), 0.0, 30_521.0)
    mask = ArrayInfo("attention_mask", "int32", (None,), 0.0, 1.0)

    assert asked(TOKENS, arrays(ids, mask)).fits
    assert pointers(asked(TOKENS, arrays(ids, mask, replace(mask, name="extra"))), "warning") == ["/inputs"]
    assert asked(TOKENS, arrays(ids)).fits is False
    assert pointers(asked(TOKENS, arrays(ids)), "error") == ["/inputs/attention_mask"]


def test_tensors_of_test_data_feed_several_inputs_by_their_place_when_they_have_no_names() -> None:
    ids = ArrayInfo("input_0", "int64", (1, 7))
    unnamed = replace(PICTURES, format="pb", arrays=(ids, replace(ids, name="input_1")), labels=None)

    assert pointers(asked(TOKENS, unnamed), "error") == []
    assert asked(TOKENS, unnamed).fits
    assert not asked(TOKENS, replace(unnamed, format="npz")).fits
    assert not asked(TOKENS, replace(unnamed, arrays=(ids,))).fits


def test_an_input_of_a_type_that_arrays_cannot_hold_is_fed_by_nothing() -> None:
    model = replace(MODEL, inputs=(TensorInfo("x", "bfloat16", ("batch", 4)),))

    found = asked(model, arrays(ArrayInfo("x", "float32", (4,), 0.0, 1.0)))

    assert pointers(found, "error") == ["/inputs/x"]
    assert "arrays cannot hold" in found.findings[0].detail


def test_inputs_that_fix_different_batches_take_no_samples_one_by_one() -> None:
    inputs = (TensorInfo("a", "float32", (2, 4)), TensorInfo("b", "float32", (3, 4)))
    infos = [ArrayInfo(name, "float32", (4,), 0.0, 1.0) for name in "ab"]

    assert pointers(asked(replace(MODEL, inputs=inputs), arrays(*infos)), "error") == ["/inputs"]


def test_ids_beyond_the_vocabulary_do_not_fit() -> None:
    ids = ArrayInfo("input_ids", "int64", (None,), 0.0, 30_522.0)
    mask = ArrayInfo("attention_mask", "int64", (None,), 0.0, 1.0)

    assert pointers(asked(TOKENS, arrays(ids, mask)), "error") == ["/inputs/input_ids"]


def test_integers_that_the_input_cannot_hold_do_not_fit() -> None:
    model = replace(MODEL, inputs=(TensorInfo("x", "int8", ("batch", 4)),))

    assert asked(model, arrays(ArrayInfo("x", "int64", (4,), -128.0, 127.0))).fits
    assert not asked(model, arrays(ArrayInfo("x", "int64", (4,), -129.0, 127.0))).fits


def test_an_input_that_the_model_does_not_have_is_told() -> None:
    assert pointers(asked(MODEL, PICTURES, input="y"), "error") == ["/input"]


@pytest.mark.parametrize(
    ("info", "pointer"),
    [
        (ArrayInfo("x", "float32", (3, 32, 32), 0.0, 255.0), "/inputs/x"),
        (ArrayInfo("x", "float32", (3, 32, 32), 0.0, 1.0, finite=False), "/arrays/x"),
        (ArrayInfo("x", "float32", (3, 32, 32), 0.5, 0.5), "/arrays/x"),
    ],
)
def test_values_that_look_wrong_are_warned_of(info: ArrayInfo, pointer: str) -> None:
    found = asked(MODEL, arrays(info))

    assert (found.fits, pointers(found, "warning")) == (True, [pointer])


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"label_range": (0, 10)}, "error"),
        ({"label_range": (-1, 3)}, "error"),
        ({"label_range": (3, 3)}, "warning"),
        ({"labels": 900}, "warning"),
        ({"labels": None, "label_range": None}, "warning"),
        ({"labels": 0, "label_range": None}, "warning"),
    ],
)
def test_labels_are_held_against_the_models_classes(changes: dict[str, Any], level: str) -> None:
    found = asked(MODEL, replace(PICTURES, **changes))

    assert [(one.level, one.pointer) for one in found.findings] == [(level, "/labels")]


def test_a_metric_that_was_asked_for_needs_labels() -> None:
    unlabelled = replace(PICTURES, labels=None, label_range=None)

    assert pointers(asked(MODEL, unlabelled, metric="top5"), "error") == ["/labels"]
    assert asked(MODEL, unlabelled).decidable is None
    assert asked(MODEL, PICTURES, metric="mse").decidable is None


@pytest.mark.parametrize("samples", [0, 1])
def test_hardly_any_samples_are_an_error_and_no_crash(samples: int) -> None:
    found = asked(MODEL, replace(PICTURES, samples=samples, labels=samples))

    assert "/samples" in pointers(found, "error")


def test_a_limit_out_of_reach_is_warned_of_with_the_samples_that_it_needs() -> None:
    found = asked(MODEL, PICTURES, gate=Gate(max_accuracy_drop=0.001, max_relative_drop=0.05))

    assert found.decidable is not None
    strict, loose = found.decidable.limits
    assert pointers(found, "warning") == ["/gate/max_accuracy_drop"]
    assert [one.samples for one in strict.needed] == [samples_for(0.001, q, 0.05) for q in (0.01, 0.03, 0.05)]
    assert [one.enough for one in loose.needed] == [True] * 3


def test_a_dataset_for_both_uses_keeps_what_calibration_leaves() -> None:
    assert [n - calibration_share(n) for n in (2, 100, 1797)] == [1, 80, 1797 - 128]


def test_numbers_as_labels_and_streams_promise_no_smallest_drop() -> None:
    numbers = replace(PICTURES, labels=None, label_range=None, targets=ArrayInfo("labels", "float32", ()))
    streams = replace(PICTURES, streams=12)

    assert (asked(MODEL, numbers).findings, asked(MODEL, numbers).decidable) == ((), None)
    assert pointers(asked(MODEL, streams), "info") == ["/labels"]
    assert asked(MODEL, streams).decidable is None


def test_texts_are_judged_when_they_are_tokenized() -> None:
    texts = replace(PICTURES, format="text", arrays=(), label_range=(0, 1))

    found = asked(TOKENS, texts)

    assert (found.fits, pointers(found, "info")) == (True, ["/inputs"])
    assert found.decidable is not None


RUNNING = DatasetSummary(
    format="running_text",
    samples=400,
    arrays=(ArrayInfo("input_ids", "int64", (None,)),),
    labels=None,
    classes=(),
)


@pytest.mark.parametrize(("metric", "fits"), [("auto", True), ("perplexity", True), ("top1", False)])
def test_running_text_needs_no_labels_and_has_one_metric(metric: str, fits: bool) -> None:
    found = asked(TOKENS, RUNNING, metric=metric)

    assert found.fits is fits
    assert not any(finding.pointer == "/labels" for finding in found.findings)


def test_perplexity_is_of_running_text_alone() -> None:
    found = asked(MODEL, PICTURES, metric="perplexity")

    assert [finding.pointer for finding in found.findings if finding.level == "error"] == ["/metric"]
