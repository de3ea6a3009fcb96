"""Running text in an archive beside its tokenizer: windows of tokens that slide over whole documents."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from app.domain.dataset import RUNNING_TEXT, Text
from app.domain.errors import Refused
from app.domain.report import ArrayInfo
from worker.engine.data.archive import Entry
from worker.engine.data.dataset import Array
from worker.engine.data.text import (
    IDS,
    MASK,
    MAX_ROWS,
    TYPES,
    decoded,
    most_tokens,
    only_table,
    pad_id,
    read_rows,
    read_tokenizer,
    tables,
    tokenized,
    tokenizer_of,
)

POSITIONS = "position_ids"
SUFFIX = ".txt"
OF_TOKENIZERS = frozenset({"vocab.txt", "merges.txt"})  # lie beside a tokenizer.json, and are no documents
MAX_DOCUMENT = 5_000_000  # characters; tokenizing takes some hundred bytes for each
PASSAGE = 8  # windows: neighbours share tokens and topics, so passages are what is drawn
FEWEST = 2  # tokens: nothing predicts the first


@dataclass(frozen=True)
class Piece:
    """What one run takes of a window; its last `scored` tokens are the ones that count here."""

    document: int
    passage: int
    window: tuple[int, int]  # its first token, and the one after its last
    begin: int
    end: int
    scored: int

    @property
    def past(self) -> int:
        """Tokens of the window that a stateful model has seen by then."""
        return self.begin - self.window[0]


@dataclass(frozen=True)
class RunningText:
    """Documents in windows of `length` tokens that begin every `stride` tokens.

    Each token but a document's first is scored once, in the first window that holds it, with what stands
    before it there. A stateful model takes a window in two pieces: what is only read, then what is scored,
    from the token before it on.
    """

    names: tuple[str, ...]
    documents: tuple[Array, ...]  # [tokens] int64 each
    tokenizer_json: str
    text: Text
    stateful: bool
    warnings: tuple[str, ...] = ()
    format: str = RUNNING_TEXT
    labels: tuple[int | None, ...] | None = None
    classes: tuple[str, ...] = ()
    targets: Array | None = None
    pairs: bool = False

    def __len__(self) -> int:
        return len(self.pieces)

    def sample(self, index: int) -> dict[str, Array]:
        """`input_ids`, `token_type_ids`, `position_ids`, and an `attention_mask` over what was seen too."""
        piece = self.pieces[index]
        ids = self._tokens(piece, piece.begin)
        positions = np.arange(piece.past, piece.past + len(ids))
        mask = np.ones(piece.past + len(ids), np.int64)
        columns = {IDS: ids, MASK: mask, TYPES: np.zeros_like(ids), POSITIONS: positions}
        return {name: self._padded(name, array) for name, array in columns.items()}

    def scored(self, index: int) -> tuple[slice, Array]:
        """The rows of the output that predict the piece's scored tokens, and these tokens, [scored] int64."""
        piece = self.pieces[index]
        last = piece.end - piece.begin - 1
        return slice(last - piece.scored, last), self._tokens(piece, piece.end - piece.scored)

    def content_hash(self, index: int) -> bytes:
        """16 bytes over the tokens, and those of its window before them."""
        piece = self.pieces[index]
        return hashlib.blake2b(self._tokens(piece, piece.window[0]).tobytes(), digest_size=16).digest()

    def file_name(self, index: int) -> str | None:
        """The document, and which of its tokens these are."""
        piece = self.pieces[index]
        return f"{self.names[piece.document]}, tokens {piece.begin} to {piece.end - 1}"

    def text_of(self, index: int) -> str:
        """The piece as text again."""
        piece = self.pieces[index]
        found: str = read_tokenizer(self.tokenizer_json).decode(self._tokens(piece, piece.begin).tolist())
        return found

    def arrays(self) -> tuple[ArrayInfo, ...]:
        """What a piece gives; the last of a document is shorter."""
        return tuple(ArrayInfo(name, "int64", (None,)) for name in (IDS, MASK, TYPES, POSITIONS))

    def begins_stream(self, index: int) -> bool:
        """Whether a stateful model has seen nothing before this piece."""
        return self.pieces[index].past == 0

    def fitted(self, length: int) -> "RunningText":
        """The same documents for a model whose inputs have this fixed length."""
        if self.stateful:
            return self
        return replace(
            self, text=Text(max_length=length, padding="max_length", stride=min(self.stride, length))
        )

    def apart(self, indices: Sequence[int], others: Collection[int]) -> list[int]:
        """Those of `indices` whose windows share no token with the windows of `others`."""
        taken = [np.zeros(len(tokens), bool) for tokens in self.documents]
        for piece in (self.pieces[other] for other in others):
            taken[piece.document][slice(*piece.window)] = True
        return [i for i in indices if not taken[self.pieces[i].document][slice(*self.pieces[i].window)].any()]

    def described(self, indices: Sequence[int]) -> str:
        """How many tokens of these samples count, and with how much before them."""
        tokens = sum(self.pieces[index].scored for index in indices)
        return (
            f"{tokens} tokens, each scored once, in windows of {self.length} that begin every {self.stride}; "
            f"drawn in passages of {PASSAGE} windows"
        )

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The passage of each sample."""
        return tuple(piece.passage for piece in self.pieces)

    @cached_property
    def padding(self) -> dict[str, int]:
        """What fills up the shorter samples of one run."""
        return {IDS: pad_id(self.tokenizer_json), MASK: 0, TYPES: 0, POSITIONS: 0}

    @property
    def tokens(self) -> int:
        """The tokens of the longest document."""
        return max(map(len, self.documents))

    @cached_property
    def length(self) -> int:
        """The tokens of a window."""
        return most_tokens(self.tokenizer_json, self.text)

    @property
    def stride(self) -> int:
        """How far a window moves."""
        return min(self.text.stride or max(1, self.length // 2), self.length)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All of them, in order."""
        return tuple(self._cut())

    def _cut(self) -> Iterator[Piece]:
        passage = -1
        for document, tokens in enumerate(self.documents):
            for count, (begin, end, scored) in enumerate(windows(len(tokens), self.length, self.stride)):
                passage += count % PASSAGE == 0
                whole = Piece(document, passage, (begin, end), begin, end, scored)
                yield from _read_and_scored(whole) if self.stateful else [whole]

    def _tokens(self, piece: Piece, begin: int) -> Array:
        return self.documents[piece.document][begin : piece.end]

    def _padded(self, name: str, array: Array) -> Array:
        room = self.length - len(array) if self.text.padding == "max_length" else 0
        return np.pad(array, (0, room), constant_values=self.padding[name]) if room else array


def windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and scored tokens of each window over a document.

    As in Hugging Face's guide to the perplexity of models with a fixed context: each window scores what is
    new to it, and the last one may be shorter. A window cannot score its own first token.
    """
    seen = 1  # nothing predicts the first
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        scored = min(end - seen, end - begin - 1)
        if scored:
            yield begin, end, scored
        if end == tokens:
            return
        seen = end


def open_running_text(entries: Sequence[Entry], text: Text, *, stateful: bool) -> RunningText | None:
    """Open the documents in an archive that holds a tokenizer; None where its texts are samples one by one.

    Documents are the txt files, or the texts of a table where `text` has a stride.

    Args:
        entries: the archive's files.
        text: the windows.
        stateful: whether windows are fed in pieces, to a model that keeps what it has seen.

    Raises:
        Refused: `broken_tokenizer`, `broken_text`, `text_too_long`, `too_many_samples` or `empty_dataset`.
    """
    content, others = tokenizer_of(entries)
    found = list(_documents(others, text))
    if not found:
        return None
    tokenizer = read_tokenizer(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokens = [np.asarray(tokenized(tokenizer, document).ids, np.int64) for _, document in found]
    long = [place for place, ids in enumerate(tokens) if len(ids) >= FEWEST]
    if not long:
        raise Refused("empty_dataset", f"No document has {FEWEST} tokens, so there is nothing to predict.")
    opened = RunningText(
        names=tuple(found[place][0] for place in long),
        documents=tuple(tokens[place] for place in long),
        tokenizer_json=content,
        text=text,
        stateful=stateful,
        warnings=_left_out(len(found) - len(long)),
    )
    _refuse_many(opened)
    return opened


def _documents(entries: Sequence[Entry], text: Text) -> Iterator[tuple[str, str]]:
    if found := tables(entries):
        entry, columns = only_table(found)
        rows = read_rows(entry, columns) if text.stride and "text" in columns else ()
        yield from ((f"{entry.name}, text {count}", row["text"]) for count, row in enumerate(rows, 1))
        return
    for entry in sorted(entries, key=lambda one: one.name):
        name = PurePosixPath(entry.name).name
        if name.endswith(SUFFIX) and name not in OF_TOKENIZERS:
            yield entry.name, _short(entry.name, decoded(entry))


def _short(name: str, document: str) -> str:
    if len(document) > MAX_DOCUMENT:
        detail = (
            f"{name} has {len(document)} characters; the limit for one document is {MAX_DOCUMENT}. Cut it up."
        )
        raise Refused("text_too_long", detail)
    return document


def _refuse_many(opened: RunningText) -> None:
    count = sum(len(tokens) // opened.stride for tokens in opened.documents)
    if count > MAX_ROWS:
        detail = (
            f"A stride of {opened.stride} makes about {count} windows; the limit is {MAX_ROWS}. "
            "Set a longer preprocess.text.stride."
        )
        raise Refused("too_many_samples", detail)


def _left_out(count: int) -> tuple[str, ...]:
    return (f"{count} documents have fewer than {FEWEST} tokens and are left out.",) if count else ()


def _read_and_scored(whole: Piece) -> list[Piece]:
    """A window's pieces for a stateful model; the first is missing where all of it is scored."""
    cut = whole.end - whole.scored - 1
    read, scored = replace(whole, end=cut, scored=0), replace(whole, begin=cut)
    return [read, scored] if cut > whole.begin else [scored]
