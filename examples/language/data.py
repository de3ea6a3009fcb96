"""The text for the example language model: a part to learn from, a part held out, and a tokenizer for both.

    python examples/language/data.py wikitext2-valid.txt language.zip

writes the held-out part beside its tokenizer: the archive that a job takes as its dataset.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 512
HELD_OUT = 12  # the last of so many equal parts


def parts(path: Path) -> tuple[str, str]:
    """The text to learn from and the text held out, cut between lines."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(lines) - len(lines) // HELD_OUT
    return "".join(lines[:cut]), "".join(lines[cut:])


def train_tokenizer(text: str, vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-pair encoding of bytes, so that no text holds anything unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def pack(path: Path, tokenizer: Tokenizer, text: str) -> None:
    """A dataset of running text."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokenizer.json", tokenizer.to_str())
        archive.writestr("held-out.txt", text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out text with its tokenizer as a zip.")
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    learned, held_out = parts(arguments.text)
    tokenizer = train_tokenizer(learned)
    pack(arguments.out, tokenizer, held_out)
    print(
        f"{arguments.out}: {len(tokenizer.encode(held_out).ids)} tokens of {tokenizer.get_vocab_size()} kinds"
    )


if __name__ == "__main__":
    main()
