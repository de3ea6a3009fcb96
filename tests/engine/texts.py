"""Archives of texts with a tokenizer made here."""

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "sat", "on", "the", "mat", "ran")


def tokenizer() -> str:
    """A word-level tokenizer of 12 tokens that pads to 16 by itself, as exported ones do."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=16)
    return made.to_str()


def archive(path: Path, table: str | bytes, *, name: str = "data.bin", own: str | None = None) -> Path:
    """A zip of a table and a tokenizer."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("texts/tokenizer.json", tokenizer() if own is None else own)
        packed.writestr(f"texts/{name}", table)
    return path


def jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)
