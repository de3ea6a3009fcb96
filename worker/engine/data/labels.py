"""What labels written as text are: classes, or numbers to come close to."""

from collections.abc import Callable, Sequence

import numpy as np

from app.domain.errors import FieldError, Refused
from worker.engine.data.dataset import Array, Targets

Classes = tuple[tuple[int | None, ...] | None, tuple[str, ...]]
Truth = tuple[tuple[int | None, ...] | None, tuple[str, ...], Targets | None]  # classes, or else targets
Place = Callable[[int], str]
UNLABELLED: Truth = None, (), None
MOST_DIGITS = 18  # fits int64
SHOWN = 60


def truth_of(values: Sequence[str | None], place: Place) -> Truth:
    """Targets where all labels are numbers and not all of them whole; else classes.

    Args:
        values: a label for each sample; None or empty without.
        place: where a sample's label stands, for people.

    Raises:
        Refused: `labels_not_finite`.
    """
    given = [value or None for value in values]
    if _are_fractions({value for value in given if value is not None}):
        return None, (), numbers(given, place)
    return (*number_labels(given), None)


def number_labels(values: Sequence[str | None]) -> Classes:
    """Labels as integers, and the classes as text.

    Whole numbers stay what they are. If any label is a name, distinct labels are numbered in sorted order.
    """
    distinct = {value for value in values if value is not None}
    index = {value: whole for value in distinct if (whole := _whole(value)) is not None}
    classes = tuple(str(number) for number in sorted(set(index.values())))
    if len(index) < len(distinct):
        classes = tuple(sorted(distinct))
        index = {name: number for number, name in enumerate(classes)}
    return tuple(None if value is None else index[value] for value in values), classes


def numbers(values: Sequence[str | None], place: Place) -> Array:
    """Labels as float64; each sample needs one.

    Raises:
        Refused: `labels_not_finite`.
    """
    found = [_number(value or "") for value in values]
    for index, (value, number) in enumerate(zip(values, found, strict=True)):
        if number is None or not np.isfinite(number):
            given = f"the label {value[:SHOWN]!r}" if value else "no label"
            detail = f"{place(index)} has {given}; where labels are numbers, each must be a finite number."
            raise Refused("labels_not_finite", detail, errors=(FieldError(f"/labels/{index}", detail),))
    return np.asarray(found, np.float64)


def _are_fractions(distinct: set[str]) -> bool:
    found = [_number(value) for value in distinct]
    return None not in found and not all(number.is_integer() for number in found if number is not None)


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # 1_0 is a name
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    """A whole number that fits int64, which a table may write as 3.0."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        return int(text) if len(digits) <= MOST_DIGITS else None
    number = _number(text)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None
