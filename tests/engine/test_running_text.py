"""Running text: how windows slide over it, what they score, and what calibrates beside what judges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.dataset import Preprocess, Text
from app.domain.errors import Refused
from tests.engine.language import archive, said, written
from worker.engine.data import open_dataset, running_text
from worker.engine.data.bind import Input, bind, feed
from worker.engine.data.dataset import blocks, summarize
from worker.engine.data.preview import preview
from worker.engine.data.running_text import RunningText, windows
from worker.engine.data.source import choose_sources, fitted
from worker.engine.requests import Data, Prepare

IDS = Input("input_ids", np.dtype(np.int64), "tensor(int64)", (None, None))
STATE = {"present": "past"}


def opened(folder: Path, files: dict[str, str], **more: Any) -> RunningText:
    found = open_dataset(data(folder, files, **more))
    assert isinstance(found, RunningText)
    return found


def data(folder: Path, files: dict[str, str], text: Text | None = None, state: Any = None) -> Data:
    spec = Preprocess(text=text or Text(max_length=16, stride=8))
    return Data(path=archive(folder / "data", files), preprocess=spec, state=state or {})


@pytest.mark.parametrize(("length", "stride"), [(16, 8), (16, 16), (16, 5), (16, 1), (200, 50)])
def test_windows_score_each_token_that_has_another_before_it_once(length: int, stride: int) -> None:
    found = list(windows(101, length, stride))

    scored = [token for begin, end, count in found for token in range(end - count, end)]
    firsts = set(range(length, 101, length)) if stride == length else set()
    assert scored == [token for token in range(1, 101) if token not in firsts]
    assert all(begin % stride == 0 and end - begin <= length for begin, end, _ in found)


def test_windows_are_those_of_the_guide() -> None:
    guide, seen = [], 0
    for begin in range(0, 101, 8):
        end = min(begin + 16, 101)
        guide.append((begin, end, end - seen))
        seen = end
        if end == 101:
            break

    found = list(windows(101, 16, 8))

    assert found[1:] == guide[1:]
    assert found[0] == (0, 16, 15)  # the guide counts the first token, which its loss leaves out


def test_rows_of_a_window_predict_its_last_tokens(tmp_path: Path) -> None:
    ids = said(40)
    dataset = opened(tmp_path, {"a.txt": written(ids)})

    rows, tokens = dataset.scored(1)

    assert dataset.sample(1)["input_ids"].tolist() == ids[8:24].tolist()
    assert (rows, tokens.tolist()) == (slice(7, 15), ids[16:24].tolist())
    assert dataset.sample(1)["position_ids"].tolist() == list(range(16))


def test_documents_are_the_txt_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    files = {
        "b.txt": "w1 w2",
        "a.txt": "w3 w4 w5",
        "vocab.txt": "w0\nw1\nw2",
        "README.md": "w6 w7",
        "c.txt": "w8",
    }

    dataset = opened(tmp_path, files)

    assert [ids.tolist() for ids in dataset.documents] == [[3, 4, 5], [1, 2]]
    assert dataset.file_name(0) == "a.txt, tokens 0 to 2"
    assert dataset.warnings == ("1 documents have fewer than 2 tokens and are left out.",)


def test_a_tables_texts_are_documents_where_a_stride_is_given(tmp_path: Path) -> None:
    table = "\n".join(json.dumps({"text": written(said(30, seed))}) for seed in (1, 2))

    running = opened(tmp_path, {"texts.jsonl": table})
    single = open_dataset(data(tmp_path, {"texts.jsonl": table}, Text(max_length=16)))

    assert [len(ids) for ids in running.documents] == [30, 30]
    assert (single.format, len(single)) == ("text", 2)


def test_windows_that_would_leave_tokens_out_are_no_windows() -> None:
    with pytest.raises(ValidationError, match="stride must not exceed max_length"):
        TypeAdapter(Text).validate_python({"max_length": 8, "stride": 9})


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        ({"a.txt": "w1"}, "empty_dataset", "No document has 2 tokens"),
        ({"notes.md": "w1 w2"}, "unknown_data_format", "running text as txt files"),
        ({"a.txt": "w1 " * 1_700_000}, "text_too_long", "5100000 characters"),
    ],
)
def test_what_cannot_be_cut_into_windows_is_refused(
    tmp_path: Path, files: dict[str, str], code: str, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        opened(tmp_path, files)

    assert refused.value.code == code
    assert says in refused.value.detail


def test_more_windows_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_text, "MAX_ROWS", 100)

    with pytest.raises(Refused) as refused:
        opened(tmp_path, {"a.txt": "w1 " * 101}, text=Text(max_length=8, stride=1))

    assert refused.value.code == "too_many_samples"
    assert "A stride of 1 makes about 101 windows" in refused.value.detail


def test_a_stateful_model_reads_and_then_scores_from_the_token_before(tmp_path: Path) -> None:
    ids = said(24)
    dataset = opened(tmp_path, {"a.txt": written(ids)}, state=STATE)

    found = [(p.begin, p.end, p.past, p.scored) for p in dataset.pieces]

    assert found == [(0, 16, 0, 15), (8, 15, 0, 0), (15, 24, 7, 8)]
    assert dataset.sample(2)["input_ids"].tolist() == ids[15:24].tolist()
    assert dataset.sample(2)["position_ids"].tolist() == list(range(7, 16))
    assert dataset.sample(2)["attention_mask"].tolist() == [1] * 16
    assert dataset.scored(2)[0] == slice(0, 8)
    assert dataset.scored(2)[1].tolist() == ids[16:24].tolist()
    assert [dataset.begins_stream(i) for i in range(3)] == [True, True, False]


def test_a_model_of_fixed_length_gets_windows_of_that_length(tmp_path: Path) -> None:
    fixed = Input("input_ids", np.dtype(np.int64), "tensor(int64)", (1, 12))
    dataset = fitted(opened(tmp_path, {"a.txt": written(said(30))}), [fixed])

    assert isinstance(dataset, RunningText)
    last = len(dataset) - 1
    assert {len(dataset.sample(i)["input_ids"]) for i in range(len(dataset))} == {12}
    assert dataset.scored(last)[1].tolist() == said(30)[-dataset.pieces[last].scored :].tolist()


def test_windows_of_one_run_are_padded_to_its_longest(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.txt": written(said(20)), "b.txt": "w1 w2"})
    binding = bind([IDS], dataset, Preprocess(), None)

    made = feed(binding, [dataset.sample(0), dataset.sample(len(dataset) - 1)], 2)

    assert made["input_ids"].shape == (2, 16)


def test_what_calibrates_shares_no_token_with_what_judges(tmp_path: Path) -> None:
    given = data(tmp_path, {"a.txt": written(said(2000)), "b.txt": written(said(500, 2))})
    request = Prepare(model=tmp_path, out=tmp_path, calibration=given, evaluation=given)

    sources = choose_sources(request, [IDS])

    assert sources.calibration
    assert sources.evaluation
    dataset = sources.evaluation.dataset
    assert isinstance(dataset, RunningText)
    held = [
        {
            (p.document, token)
            for p in map(dataset.pieces.__getitem__, source.indices)
            for token in range(*p.window)
        }
        for source in (sources.calibration, sources.evaluation)
    ]
    assert held[0].isdisjoint(held[1])
    assert len(sources.evaluation.indices) > 0.7 * len(dataset)
    assert all(len(block) <= 8 for block in blocks(dataset))


def test_text_that_is_one_passage_cannot_serve_both_uses(tmp_path: Path) -> None:
    given = data(tmp_path, {"a.txt": written(said(90))}, Text(max_length=64, stride=8))

    with pytest.raises(Refused) as refused:
        choose_sources(Prepare(model=tmp_path, out=tmp_path, calibration=given, evaluation=given), [IDS])

    assert refused.value.code == "too_few_samples"


def test_windows_are_shown_as_text(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {"a.txt": "w1 w2 w3"})

    shown = preview(dataset, Preprocess()).samples[0]
    summary = summarize(dataset)

    assert shown.text == "w1 w2 w3"
    assert shown.name == "a.txt, tokens 0 to 2"
    assert (summary.format, summary.samples, summary.tokens, summary.streams) == ("running_text", 1, 3, None)
