"""Figures in words."""

from fewbits.answers import Candidate, Fidelity
from fewbits.cli.words import missing


def candidate(name: str, fidelity: Fidelity | None, *notes: str) -> Candidate:
    return Candidate(id="cnd_1", job="job_1", name=name, state="measured", fidelity=fidelity, notes=notes)


def test_a_reason_is_said_once_for_all_figures_that_it_took_and_for_no_others() -> None:
    near = Fidelity(sqnr_db=40.0)
    both = "latency: 1 of 9 rounds fit into max_seconds 1"
    found = [
        candidate("a", near, both, "fidelity: of the first output", "per_channel on"),
        candidate("b", None, both, "fidelity: no data were given"),
    ]

    assert missing(found) == {both: ["a", "b"], "fidelity: no data were given": ["b"]}
