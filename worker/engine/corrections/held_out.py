"""What was learned on calibration samples is judged on some that nothing was learned from."""

HELD_OUT = 4  # one sample of so many


def is_held_out(number: int) -> bool:
    """Whether nothing is learned from the sample of this number, from 0."""
    return number % HELD_OUT == HELD_OUT - 1
