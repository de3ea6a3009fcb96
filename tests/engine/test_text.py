"""Texts: what tables say, what tokenizers make of them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import Preprocess, Text
from app.domain.errors import Refused
from tests.engine.texts import archive, jsonl, tokenizer
from worker.engine.data import open_dataset
from worker.engine.data.bind import Input, bind, feed
from worker.engine.data.dataset import Dataset, blocks, summarize
from worker.engine.data.source import choose_sources, fitted
from worker.engine.requests import Data, Prepare

IDS = Input("input_ids", np.dtype(np.int64), "tensor(int64)", (None, None))
MASK = Input("attention_mask", np.dtype(np.int32), "tensor(int32)", (None, None))
PAIRS = [
    {"text_a": f"the cat {'sat ' * i}", "text_b": f"a dog {'ran ' * i}", "score": i / 2} for i in range(12)
]


def opened(path: Path, table: str | bytes, text: Text | None = None, **more: Any) -> Dataset:
    preprocess = Preprocess(text=text or Text())
    return open_dataset(Data(path=archive(path / "data", table, **more), preprocess=preprocess))


@pytest.mark.parametrize(
    "table",
    [
        'text,label\nthe cat,animal\n"on, the ""mat""",place\n',
        "\ufefftext\tlabel\r\nthe cat\tanimal\r\non the mat\tplace\r\n",
        jsonl([{"text": "the cat", "label": "animal"}, {"text": "the mat", "label": "place"}]),
    ],
)
def test_tables_are_told_by_their_content(tmp_path: Path, table: str) -> None:
    dataset = opened(tmp_path, table, name="table.parquet")

    assert (dataset.format, len(dataset), dataset.labels) == ("text", 2, (0, 1))
    assert dataset.classes == ("animal", "place")
    assert dataset.sample(0)["input_ids"].tolist() == [2, 9, 5, 3]
    assert summarize(dataset).columns == ("text", "label")


def test_the_tokenizers_own_padding_does_not_count(tmp_path: Path) -> None:
    sample = opened(tmp_path, jsonl([{"text": "the cat"}])).sample(0)

    assert {name: array.tolist() for name, array in sample.items()} == {
        "input_ids": [2, 9, 5, 3],
        "attention_mask": [1, 1, 1, 1],
        "token_type_ids": [0, 0, 0, 0],
    }


def test_long_texts_are_cut_off_and_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, jsonl([{"text": "cat " * 9}, {"text": "cat"}]), Text(max_length=5))

    assert [len(dataset.sample(i)["input_ids"]) for i in (0, 1)] == [5, 3]
    assert summarize(dataset).tokens == 11
    assert dataset.warnings[0].startswith("1 of 2 texts have more than 5 tokens")


def test_texts_of_one_run_are_padded_to_its_longest(tmp_path: Path) -> None:
    dataset = opened(tmp_path, jsonl([{"text": "the cat sat"}, {"text": "cat"}]))
    binding = bind([IDS, MASK], dataset, Preprocess(), None)

    made = feed(binding, [dataset.sample(0), dataset.sample(1)], 2)

    assert made["input_ids"].tolist() == [[2, 9, 5, 7, 3], [2, 5, 3, 0, 0]]
    assert made["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_a_model_of_fixed_length_gets_that_length(tmp_path: Path) -> None:
    fixed = Input("input_ids", np.dtype(np.int64), "tensor(int64)", (1, 6))
    dataset = fitted(opened(tmp_path, jsonl([{"text": "cat"}, {"text": "cat " * 9}])), [fixed])

    assert [len(dataset.sample(i)["input_ids"]) for i in (0, 1)] == [6, 6]
    assert dataset.sample(0)["attention_mask"].tolist() == [1, 1, 1, 0, 0, 0]


def test_one_input_of_another_name_takes_the_ids(tmp_path: Path) -> None:
    dataset = opened(tmp_path, jsonl([{"text": "cat"}]))
    item = Input("tokens", np.dtype(np.int32), "tensor(int32)", (1, None))

    assert feed(bind([item], dataset, Preprocess(), None), [dataset.sample(0)])["tokens"].tolist() == [
        [2, 5, 3]
    ]


def test_pairs_are_two_texts_that_stay_together_in_splits(tmp_path: Path) -> None:
    data = Data(path=archive(tmp_path / "data", jsonl(PAIRS)))
    sources = choose_sources(Prepare(model=tmp_path, out=tmp_path, calibration=data, evaluation=data), [IDS])
    dataset = open_dataset(data)

    assert sources.calibration
    assert sources.evaluation
    sides = [set(sources.calibration.indices), set(sources.evaluation.indices)]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 24
    assert all(set(pair) <= sides[0] or set(pair) <= sides[1] for pair in blocks(dataset))
    assert summarize(dataset).samples == 12


def test_samples_caps_pairs(tmp_path: Path) -> None:
    data = Data(path=archive(tmp_path / "data", jsonl(PAIRS)))
    request = Prepare(model=tmp_path, out=tmp_path, evaluation=data, evaluation_samples=3)

    evaluation = choose_sources(request, [IDS]).evaluation

    assert evaluation
    assert len(evaluation.indices) == 6


def test_fractions_are_numbers_and_not_classes(tmp_path: Path) -> None:
    dataset = opened(tmp_path, "text,label\ncat,0.5\ndog,1\n")

    assert dataset.labels is None
    assert dataset.targets is not None
    assert [dataset.targets[0], dataset.targets[1]] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("table", "code", "says"),
    [
        ("text,label\ncat,1\ndog\n", "broken_text", "line 3, has 1 columns"),
        ("text,label\n", "empty_dataset", "no texts"),
        ("text_a,text_b,score\na,b,nan\n", "labels_not_finite", "row 1"),
        ("text_a,text_b,score\na,b,1\na,b,high\n", "labels_not_finite", "'high'"),
        ('{"text": "cat"}\n{"text": ', "broken_text", "line 2, is no JSON"),
        ('{"text": "cat"}\n[1]', "broken_text", "line 2, is no JSON object"),
        ('{"text": "cat", "label": 1}\n{"label": 1}', "broken_text", "line 2, has no text"),
        ('{"text": "cat"}\n' + "[" * 100_000, "broken_text", "line 2"),
        (jsonl([{"text": "cat"}, {"text": "c" * 100_001}]), "text_too_long", "100001 characters"),
        ("text\n" + "c" * 200_000, "broken_text", "line 2"),
        ("text,label\ncat,1\n".encode("utf-16"), "unknown_data_format", "tables here: none"),
        (b"text,label\n\xe9t\xe9,1\n", "broken_text", "not UTF-8 (byte 11"),
        ("name,label\ncat,1\n", "unknown_data_format", "text[,label]"),
    ],
)
def test_broken_tables_are_refused_with_the_place(
    tmp_path: Path, table: str | bytes, code: str, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        opened(tmp_path, table)

    assert refused.value.code == code
    assert says in refused.value.detail


@pytest.mark.parametrize(
    "own", ["", "{}", "[1, 2]", '{"model": {"type": "WordPiece"}}', "\ud83d"[:0] + "nul\0"]
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, own: str) -> None:
    with pytest.raises(Refused) as refused:
        opened(tmp_path, jsonl([{"text": "cat"}]), own=own)

    assert refused.value.code == "broken_tokenizer"


@pytest.mark.parametrize("table", ["text,label\ncat,1\n", '{"text": "cat"}\n', '{"text": "' + "c" * 2000])
def test_a_table_alone_asks_for_its_tokenizer(tmp_path: Path, table: str) -> None:
    (tmp_path / "data.jsonl").write_text(table)

    with pytest.raises(Refused) as refused:
        open_dataset(Data(path=tmp_path / "data.jsonl"))

    assert refused.value.code == "tokenizer_missing"


def test_a_tokenizer_says_its_own_longest_text(tmp_path: Path) -> None:
    own = json.loads(tokenizer())
    own["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}

    dataset = opened(tmp_path, jsonl([{"text": "cat " * 9}]), own=json.dumps(own))

    assert len(dataset.sample(0)["input_ids"]) == 4
