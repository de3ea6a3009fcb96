"""Notes know what they are about, and are plain text in JSON, as they always were."""

import pytest
from pydantic import TypeAdapter

from app.domain.note import Note
from app.domain.report import Figures

STORED = {
    "latency: 5 of 9 rounds fit into max_seconds 7": "latency",
    "slower: no node runs in an integer kernel": "slower",
    "given outputs: the float model comes within 90 dB of them": "given outputs",
    "weight is int8: the memory of 4 bits needs no less latency": "recipe",
    "equalization of 3 pairs": "recipe",
}


@pytest.mark.parametrize(("text", "about"), STORED.items())
def test_a_note_reads_as_it_is_shown(text: str, about: str) -> None:
    note = Note.read(text)

    assert (note.about, str(note)) == (about, text)


def test_figures_stored_as_text_are_read_with_notes_and_stored_as_text_again() -> None:
    stored = {"notes": list(STORED)}

    figures = TypeAdapter(Figures).validate_python(stored)

    assert [note.about for note in figures.notes] == list(STORED.values())
    assert TypeAdapter(Figures).dump_python(figures, mode="json")["notes"] == stored["notes"]
    assert TypeAdapter(Figures).validate_python(figures) == figures
