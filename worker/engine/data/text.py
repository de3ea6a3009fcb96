"""Texts in an archive beside their tokenizer: one by one with labels, or in pairs with a score."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from app.domain.dataset import Text
from app.domain.errors import Refused
from app.domain.report import ArrayInfo
from worker.engine.data.archive import BROKEN, Entry, said
from worker.engine.data.dataset import Array, Targets
from worker.engine.data.labels import UNLABELLED, numbers, truth_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENIZER = "tokenizer.json"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
SINGLE, PAIR = ("text",), ("text_a", "text_b", "score")
TRUTHS = ("label", "score")
SEPARATORS = ",\t;"
DEFAULT_LENGTH = 512
SHORTEST, LONGEST = 2, 32_768  # as of `Text.max_length`
MAX_CHARACTERS = 100_000
MAX_ROWS = 1_000_000
MAX_COUNTED = 2000
SHOWN = 60
Row = dict[str, str]
Table = tuple[Entry, tuple[str, ...]]


@dataclass(frozen=True)
class TextDataset:
    """Texts, tokenized when they are asked for; of pairs, texts 2i and 2i + 1 belong together."""

    texts: tuple[str, ...]
    tokenizer_json: str
    text: Text
    labels: tuple[int | None, ...] | None
    classes: tuple[str, ...]
    targets: Targets | None  # [texts], float64
    groups: tuple[int, ...] | None
    columns: tuple[str, ...]
    pairs: bool
    format: str = "text"

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, index: int) -> dict[str, Array]:
        """`input_ids`, `attention_mask` and `token_type_ids`, each [tokens] int64."""
        found = tokenized(self._tokenizer, self.texts[index])
        columns = {IDS: found.ids, MASK: found.attention_mask, TYPES: found.type_ids}
        return {name: self._padded(name, values) for name, values in columns.items()}

    def content_hash(self, index: int) -> bytes:
        """16 bytes over the text."""
        return hashlib.blake2b(self.texts[index].encode(), digest_size=16).digest()

    def file_name(self, _index: int) -> str | None:
        """None: texts are no files."""
        return None

    def text_of(self, index: int) -> str:
        """The text itself."""
        return self.texts[index]

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """What the tokenizer gives; texts differ in their number of tokens."""
        self.sample(0)
        return tuple(ArrayInfo(name, "int64", (None,)) for name in (IDS, MASK, TYPES))

    @property
    def padding(self) -> dict[str, int]:
        """What fills up the shorter texts of one run."""
        return {IDS: self._pad_id, MASK: 0, TYPES: 0}

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """How many texts are cut off."""
        long = sum(count > self.length for count in self._counts)
        if not long:
            return ()
        return (
            f"{long} of {len(self._counts)} texts have more than {self.length} tokens and are cut off there.",
        )

    @property
    def tokens(self) -> int:
        """The most tokens in one of up to 2,000 texts, before any is cut off."""
        return max(self._counts)

    @cached_property
    def length(self) -> int:
        """The most tokens that a sample gets."""
        return most_tokens(self.tokenizer_json, self.text)

    def fitted(self, length: int) -> "TextDataset":
        """The same texts for a model whose inputs have this fixed length."""
        return replace(self, text=Text(max_length=length, padding="max_length"))

    def _padded(self, name: str, values: list[int]) -> Array:
        array = np.asarray(values, np.int64)
        room = self.length - len(array) if self.text.padding == "max_length" else 0
        return np.pad(array, (0, max(room, 0)), constant_values=self.padding[name])

    @cached_property
    def _counts(self) -> list[int]:
        whole = read_tokenizer(self.tokenizer_json)
        whole.no_padding()
        whole.no_truncation()
        step = -(-len(self) // MAX_COUNTED)
        return [len(tokenized(whole, text).ids) for text in self.texts[::step]]

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        found = read_tokenizer(self.tokenizer_json)
        found.no_padding()
        found.enable_truncation(self.length)
        return found

    @cached_property
    def _pad_id(self) -> int:
        return pad_id(self.tokenizer_json)


def open_text(entries: Sequence[Entry], text: Text) -> TextDataset:
    """Open the table of texts in an archive that holds a tokenizer.

    Raises:
        Refused: `broken_tokenizer`, `broken_text`, `text_too_long`, `too_many_samples`, `empty_dataset`,
            `labels_not_finite`, or no or several tables.
    """
    content, others = tokenizer_of(entries)
    entry, columns = only_table(tables(others))
    rows = list(read_rows(entry, columns))
    if not rows:
        raise Refused("empty_dataset", f"{entry.name} has a header but no texts.")
    read_tokenizer(content)
    return _dataset(entry.name, rows, columns, content, text)


def table_columns(entry: Entry) -> tuple[str, ...]:
    """The columns of a table of texts, by its first line; none when it is something else."""
    try:
        first = entry.read(MAX_CHARACTERS).decode("utf-8-sig", "ignore").lstrip().split("\n", 1)[0].strip()
    except BROKEN:
        return ()
    columns = _keys(first) if first.startswith("{") else _header(first)
    return columns if set(SINGLE) <= set(columns) or set(PAIR) <= set(columns) else ()


def bare_table(head: bytes) -> bool:
    """Whether a file begins like a table of texts."""
    entry = Entry("", len(head), lambda _count: head, lambda: io.BytesIO(head))
    start = head.decode("utf-8-sig", "ignore").lstrip()
    return bool(table_columns(entry)) or start.startswith(('{"text"', '{"text_a"'))


def _keys(line: str) -> tuple[str, ...]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, dict) else ()


def _header(line: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(csv.reader([line], delimiter=_separator(line)), []))
    except csv.Error:
        return ()


def _separator(header: str) -> str:
    return max(SEPARATORS, key=header.count)


def tokenizer_of(entries: Sequence[Entry]) -> tuple[str, list[Entry]]:
    """The content of an archive's tokenizer, and the other files."""
    tokenizer = next(e for e in entries if PurePosixPath(e.name).name == TOKENIZER)
    return decoded(tokenizer), [entry for entry in entries if entry is not tokenizer]


def tables(entries: Sequence[Entry]) -> list[Table]:
    """The tables of texts among an archive's files, with their columns."""
    return [(entry, columns) for entry in entries if (columns := table_columns(entry))]


def only_table(found: Sequence[Table]) -> Table:
    """The one table that there is.

    Raises:
        Refused: `unknown_data_format`, there are several or none.
    """
    if len(found) == 1:
        return found[0]
    names = ", ".join(entry.name for entry, _ in found) or "none"
    detail = (
        f"An archive with a {TOKENIZER} holds one jsonl or csv table with the columns text[,label] or "
        f"text_a,text_b,score, or running text as txt files; tables here: {names}."
    )
    raise Refused("unknown_data_format", detail)


def most_tokens(content: str, text: Text) -> int:
    """The most tokens that a sample gets: as asked for, else as the tokenizer says up to 32,768, else 512.

    Raises:
        Refused: `broken_tokenizer`.
    """
    own = read_tokenizer(content).truncation
    length: int = text.max_length or (own["max_length"] if own else DEFAULT_LENGTH)
    if length < SHORTEST:
        raise _no_tokenizer(f"it cuts texts down to {length} tokens, and the least is {SHORTEST}")
    return min(length, LONGEST)


def pad_id(content: str) -> int:
    """The token that a tokenizer fills up with."""
    found = read_tokenizer(content)
    if found.padding:
        return int(found.padding["pad_id"])
    known = (found.token_to_id(token) for token in ("[PAD]", "<pad>", "<|endoftext|>"))
    return next((number for number in known if number is not None), 0)


def read_rows(entry: Entry, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table, with the columns that count.

    Raises:
        Refused: `broken_text`, `text_too_long` or `too_many_samples`.
    """
    content = decoded(entry)
    reader = _json_rows if content.lstrip().startswith("{") else _csv_rows
    wanted = PAIR if set(PAIR) <= set(columns) else SINGLE + tuple(t for t in TRUTHS if t in columns)
    for count, (line, row) in enumerate(reader(entry.name, content)):
        if count >= MAX_ROWS:
            raise Refused(
                "too_many_samples", f"{entry.name} has over {MAX_ROWS} rows, which is the limit; send fewer."
            )
        missing = [name for name in wanted if row.get(name) is None]
        if missing:
            raise _broken(f"{entry.name}, line {line}, has no {missing[0]}")
        yield {name: _checked(entry.name, line, row[name]) for name in wanted}


def _json_rows(name: str, content: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken(f"{name}, line {number}, is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise _broken(f"{name}, line {number}, is no JSON object")
        yield (
            number,
            {key: v if isinstance(v, str) else json.dumps(v) for key, v in found.items() if v is not None},
        )


def _csv_rows(name: str, content: str) -> Iterator[tuple[int, Row]]:
    header = content.lstrip().split("\n", 1)[0]
    reader = csv.reader(io.StringIO(content.lstrip(), newline=""), delimiter=_separator(header))
    try:
        columns = [column.strip() for column in next(reader)]
        for row in reader:
            if row and len(row) != len(columns):
                raise _broken(
                    f"{name}, line {reader.line_num}, has {len(row)} columns; the header has {len(columns)}"
                )
            if row:
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise _broken(f"{name}, line {reader.line_num}: {error}") from error


def _checked(name: str, line: int, value: str) -> str:
    if len(value) > MAX_CHARACTERS:
        detail = (
            f"{name}, line {line}, has {len(value)} characters; the limit for one text is {MAX_CHARACTERS}."
        )
        raise Refused("text_too_long", detail)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _broken(f"{name}, line {line}, holds half a character at {error.start}") from error
    return value


def _dataset(name: str, rows: list[Row], columns: tuple[str, ...], tokenizer: str, text: Text) -> TextDataset:
    def place(index: int) -> str:
        return f"{name}, row {index + 1},"

    if "text_a" in rows[0]:
        texts = tuple(row[side] for row in rows for side in ("text_a", "text_b"))
        scores = np.repeat(numbers([row["score"] for row in rows], place), 2)
        groups = tuple(i // 2 for i in range(len(texts)))
        return TextDataset(texts, tokenizer, text, None, (), scores, groups, columns, pairs=True)
    texts = tuple(row["text"] for row in rows)
    truth = next((key for key in TRUTHS if key in rows[0]), None)
    values = [row[truth].strip() for row in rows] if truth else []
    if truth == "score":
        scores = numbers(values, place)
        return TextDataset(texts, tokenizer, text, None, (), scores, None, columns, pairs=False)
    labels, classes, targets = truth_of(values, place) if truth else UNLABELLED
    return TextDataset(texts, tokenizer, text, labels, classes, targets, None, columns, pairs=False)


def decoded(entry: Entry) -> str:
    """A file's text.

    Raises:
        Refused: `broken_text`, it is not UTF-8, or `broken_archive`.
    """
    try:
        return entry.read(-1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(f"{entry.name} is not UTF-8 (byte {error.start}: {error.reason})") from error
    except BROKEN as error:
        raise Refused(
            "broken_archive", f"{entry.name!r} cannot be unpacked: {error}. Pack it again."
        ) from error


def read_tokenizer(content: str) -> "Tokenizer":
    """The tokenizer in a tokenizer.json.

    Raises:
        Refused: `broken_tokenizer`.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - 40 ms that other datasets do without

    try:
        return Tokenizer.from_str(content)
    except BaseException as error:
        raise _unusable(error) from error


def tokenized(tokenizer: "Tokenizer", text: str) -> "Encoding":
    """A text's tokens.

    Raises:
        Refused: `broken_tokenizer`, it has no token for a word, or cannot do what it says.
    """
    try:
        return tokenizer.encode(text)
    except BaseException as error:
        raise _unusable(error) from error


def _unusable(error: BaseException) -> Refused:
    """A panic of the tokenizer's Rust code is no Exception; what is not the file's fault goes on."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error
    return _no_tokenizer(said(error))


def _no_tokenizer(why: str) -> Refused:
    detail = f"{TOKENIZER} cannot be used: {why}. Export it again with Hugging Face's tokenizers."
    return Refused("broken_tokenizer", detail)


def _broken(what: str) -> Refused:
    return Refused("broken_text", f"{what}. Send jsonl or csv in UTF-8.")
