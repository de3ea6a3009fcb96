"""What a language model makes of running text: how likely each token was, and a few rows to compare."""

from collections.abc import Iterator

import numpy as np

from app.domain.errors import FieldError, Refused
from app.domain.job import PERPLEXITY
from worker.engine.data.dataset import Array, Dataset
from worker.engine.data.running_text import RunningText
from worker.engine.evaluate.reference import LIKELIHOODS, Labelled
from worker.engine.evaluate.run import Outputs

KEPT = 4  # rows of a window: with a big vocabulary, all rows of some dozen windows fill the reference
AT_ONCE = 4_000_000  # scores in memory as float64


def of_sample(dataset: Dataset, index: int, found: Outputs, labelled: Labelled | None) -> Outputs:
    """What is stored and compared of one sample: its outputs, or what perplexity needs of them.

    Of running text, `output` becomes four of its scored rows, [4, vocabulary], evenly spaced, and LIKELIHOODS
    holds log p of each scored token, [scored] float64; both are empty where nothing is scored.

    Raises:
        Refused: `metric_mismatch`, the output is not a row of scores for each token.
    """
    if labelled is None or labelled.metric != PERPLEXITY or not isinstance(dataset, RunningText):
        return found
    rows, ids = scored_rows(dataset, index, found[labelled.output])
    kept = np.linspace(0, len(ids) - 1, KEPT if len(ids) else 0).astype(np.intp)
    return {labelled.output: rows[kept], LIKELIHOODS: log_likelihoods(rows, ids)}


def pairs_of(labelled: Labelled | None, reference: Array, output: Array) -> Iterator[tuple[Array, Array]]:
    """What counts as one sample in fidelity: an output, or each row of a language model's."""
    if labelled is not None and labelled.metric == PERPLEXITY:
        yield from zip(reference, output, strict=True)
    else:
        yield reference, output


def scored_rows(dataset: RunningText, index: int, output: Array) -> tuple[Array, Array]:
    """The rows that predict a sample's scored tokens, [scored, vocabulary], and these tokens, [scored] int64.

    Raises:
        Refused: `metric_mismatch`.
    """
    rows, ids = dataset.scored(index)
    scores = output.reshape(-1, output.shape[-1]) if output.ndim else output.reshape(1, 1)
    if len(scores) < rows.stop or scores.shape[1] <= ids.max(initial=0):
        detail = (
            f"perplexity needs a row of scores over the vocabulary for each token; the output has the shape "
            f"{list(output.shape)} for {rows.stop + 1} tokens, the highest id is {ids.max(initial=0)}"
        )
        raise Refused("metric_mismatch", detail, errors=(FieldError("/evaluation/output", detail),))
    return scores[rows], ids


def log_likelihoods(rows: Array, ids: Array) -> Array:
    """Log p of each token under the softmax of its row, [tokens] float64.

    Args:
        rows: [tokens, vocabulary], logits or log-probabilities.
        ids: [tokens] int64.
    """
    step = max(1, AT_ONCE // rows.shape[1])
    parts = [_log_likelihoods(rows[i : i + step], ids[i : i + step]) for i in range(0, len(ids), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _log_likelihoods(rows: Array, ids: Array) -> Array:
    shifted = rows.astype(np.float64) - rows.max(1, keepdims=True)
    found: Array = shifted[np.arange(len(ids)), ids] - np.log(np.exp(shifted).sum(1))
    return found
