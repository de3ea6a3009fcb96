"""Perplexity: right by hand, equal with and without a cache, paired, and lost when weights lose bits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from app.domain.errors import Refused
from app.domain.recipe import WeightOnly
from examples.language import decoder
from tests.engine.language import WORDS, archive, bigrams, chances, said, written
from worker.engine.__main__ import main
from worker.engine.calls import run_call
from worker.engine.evaluate.tokens import log_likelihoods
from worker.engine.ready import read_feeds

TOKENS = 2000
WINDOWS = {"text": {"max_length": 32, "stride": 16}}
STATE = {"present.*": "past_key_values.*"}
SIZE = decoder.Size(vocabulary=WORDS, width=16, layers=2, heads=2, hidden=32, context=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bigrams(tmp_path / "model.onnx")
    archive(tmp_path / "text.zip", {"a.txt": written(said(TOKENS))})
    return tmp_path


def ignore(_share: float, _what: str) -> None:
    pass


def given(folder: Path, **more: Any) -> dict[str, Any]:
    return {"path": folder / "text.zip", "preprocess": WINDOWS, **more}


def prepare(folder: Path, model: str = "model.onnx", **more: Any) -> dict[str, Any]:
    asked = {"evaluation": given(folder), **more}
    return run_call("prepare", {"model": folder / model, "out": folder, **asked}, ignore)


def build(folder: Path, bits: int) -> dict[str, Any]:
    """Weights of so many bits, held against the float model; calibration and evaluation share the text."""
    prepared = prepare(folder, calibration=given(folder))
    (folder / f"{bits}").mkdir()
    asked = {
        "original": folder / "model.onnx",
        "model": folder / prepared["model"],
        "out": folder / f"{bits}",
        "recipe": WeightOnly(bits=bits, algorithm="rtn", block_size=32),  # type: ignore[arg-type]
        "isa": "generic",
        "reference": folder / prepared["reference"],
        "feeds": folder / prepared["feeds"],
        "evaluation": given(folder),
    }
    return run_call("build", asked, ignore)


def by_hand() -> float:
    """Of a model that looks one token back: windows change nothing."""
    ids = said(TOKENS)
    scores = np.log(chances() + 1e-6).astype(np.float32).astype(np.float64)
    rows = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return float(np.exp(-np.mean(rows[ids[:-1], ids[1:]])))


def test_perplexity_is_what_it_is_by_hand(folder: Path) -> None:
    accuracy = prepare(folder)["baseline"]["accuracy"]

    assert accuracy["metric"] == "perplexity"
    assert accuracy["value"] == pytest.approx(by_hand(), rel=1e-6)
    assert (accuracy["drop"], accuracy["ci"]) == (0, [0, 0])


def test_what_was_scored_is_told(folder: Path) -> None:
    prepared = prepare(folder)

    assert any(f"{TOKENS - 1} tokens, each scored once" in note for note in prepared["baseline"]["notes"])


def test_a_cache_changes_nothing(folder: Path) -> None:
    weights = decoder.random_weights(SIZE)
    for name, cached in (("plain", False), ("kv", True)):
        onnx.save(decoder.to_onnx(weights, SIZE, cached=cached), folder / f"{name}.onnx")

    plain = prepare(folder, "plain.onnx")["baseline"]["accuracy"]
    kept = prepare(folder, "kv.onnx", evaluation=given(folder, state=STATE))

    assert kept["baseline"]["accuracy"]["value"] == pytest.approx(plain["value"], rel=1e-6)
    assert kept["baseline"]["accuracy"]["samples"] == plain["samples"]
    pasts = {feed["past_key_values.1.key"].shape for feed in read_feeds(folder / kept["feeds"])}
    assert pasts == {(1, 2, 0, 8), (1, 2, 15, 8)}


def test_fewer_bits_lose_more_and_the_interval_is_paired(folder: Path) -> None:
    figures, worse = (build(folder, bits)["figures"] for bits in (8, 2))
    eight, two = figures["accuracy"], worse["accuracy"]

    assert abs(eight["drop"]) < 0.01 * eight["baseline"]
    assert two["drop"] == pytest.approx(two["value"] - two["baseline"])
    assert two["ci"][0] < two["drop"] < two["ci"][1]
    assert two["ci"][0] > 0.1
    # unpaired, the spread of the text itself would show
    assert eight["ci"][1] - eight["ci"][0] < 0.1 * (two["ci"][1] - two["ci"][0])
    # fidelity is of rows that were scored, four of each window
    assert figures["fidelity"]["samples"] == 4 * eight["samples"]
    assert figures["fidelity"]["agreement"] > 0.8


def test_a_text_of_a_few_passages_says_no_perplexity(folder: Path) -> None:
    archive(folder / "text.zip", {"a.txt": written(said(600))})

    notes = prepare(folder)["baseline"]["notes"]

    assert any("5 passages of 8 windows are too few for an interval of perplexity" in note for note in notes)


def test_a_model_that_hardly_beats_guessing_is_suspicious(folder: Path) -> None:
    weights = decoder.random_weights(SIZE)
    onnx.save(decoder.to_onnx(weights, SIZE, cached=False), folder / "plain.onnx")

    notes = prepare(folder, "plain.onnx")["baseline"]["notes"]

    assert any(note.startswith("preprocessing_suspect: the float model's perplexity is") for note in notes)


def test_an_output_without_a_score_for_each_id_has_no_perplexity(folder: Path) -> None:
    bigrams(folder / "narrow.onnx", width=10)

    with pytest.raises(Refused) as refused:
        prepare(folder, "narrow.onnx", question={"metric": "perplexity"})

    assert refused.value.code == "metric_mismatch"
    assert "[1, 32, 10] for 32 tokens" in refused.value.detail


def test_perplexity_of_anything_but_running_text_is_refused(folder: Path) -> None:
    table = "\n".join(json.dumps({"text": written(said(20, seed))}) for seed in range(12))
    archive(folder / "text.zip", {"texts.jsonl": table})
    with pytest.raises(Refused) as refused:
        prepare(folder, evaluation={"path": folder / "text.zip"}, question={"metric": "perplexity"})

    assert refused.value.code == "metric_mismatch"
    assert "preprocess.text.stride" in refused.value.detail


def test_another_metric_of_running_text_has_no_labels(folder: Path) -> None:
    with pytest.raises(Refused) as refused:
        prepare(folder, question={"metric": "top1"})

    assert refused.value.code == "labels_missing"


def test_likelihoods_are_those_of_a_softmax_whatever_is_added_to_its_scores() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    ids = np.arange(5)

    found = log_likelihoods(scores + np.float32(1000), ids)

    shares = np.exp(scores.astype(np.float64))
    expected = np.log(shares[ids, ids] / shares.sum(1))
    assert np.allclose(found, expected, atol=1e-4)


def test_the_command_line_calibrates_models_that_keep_a_state_on_running_text(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(decoder.to_onnx(decoder.random_weights(SIZE), SIZE, cached=True), folder / "kv.onnx")
    words = ["--data", str(folder / "text.zip"), "--preprocess", json.dumps(WINDOWS), "--samples", "2"]
    words += ["--state", "present.*=past_key_values.*"]
    recipe = '{"method": "weight_only", "bits": 4, "algorithm": "gptq"}'

    code = main(["quantize", str(folder / "kv.onnx"), str(folder / "q.onnx"), "--recipe", recipe, *words])
    answer = json.loads(capsys.readouterr().out)

    assert code == 0, answer
    assert answer["size"]["ratio"] < 1
