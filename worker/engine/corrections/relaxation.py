"""Whether each weight is rounded up or down, found by descent on a relaxation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
# From values [..., rows, columns] to the slope of the error with them: each row's error is 1 when it is
# rounded to nearest.
Slope = Callable[[Floats], Floats]
_LOWEST, _STRETCH = -0.1, 1.2  # the relaxed share is a sigmoid stretched to [-0.1, 1.1] and clipped
_EDGE = 0.01  # shares start no closer to 0 and 1, where the slope would vanish
_FREE = 0.2  # of the steps go by before shares are pushed towards 0 and 1
_SHARPEST, _BLUNTEST = 20.0, 2.0  # exponents of that push, at its beginning and at its end
_PUSH = 5.0  # its strength, shared by the weights of a row
_RATE = 0.1
_MEMORY, _SQUARES_MEMORY = 0.9, 0.999


@dataclass(frozen=True)
class Between:
    """Weights between two neighbouring values of their grids.

    Attributes:
        lower: the values below, float32 [..., rows, columns].
        widths: how far above the other values lie, float32, broadcast to `lower`.
        shares: of the widths where descent begins, 0 to 1, [..., rows, columns].
    """

    lower: Floats
    widths: Floats
    shares: Floats

    def at(self, shares: Floats) -> Floats:
        """The values at these shares of the widths."""
        values: Floats = self.lower + shares * self.widths
        return values


def settle_shares(between: Between, slope: Slope, steps: int) -> Floats:
    """The shares, all 0 or 1, that descent ends at (Nagel et al. 2020, "Up or Down?", by Adam).

    Args:
        between: what is to be rounded.
        slope: of the error.
        steps: of descent.
    """
    points = _points(between.shares)
    means, squares = np.zeros_like(points), np.zeros_like(points)
    for step in range(1, steps + 1):
        sigmoid = 1 / (1 + np.exp(-points))
        shares = np.asarray(np.clip(_STRETCH * sigmoid + _LOWEST, 0, 1), np.float32)
        pull = slope(between.at(shares)) * between.widths + _push(shares, step / steps)
        pull *= np.where((shares > 0) & (shares < 1), _STRETCH * sigmoid * (1 - sigmoid), 0)
        means += (1 - _MEMORY) * (pull - means)
        squares += (1 - _SQUARES_MEMORY) * (pull * pull - squares)
        rate = _RATE * np.sqrt(1 - _SQUARES_MEMORY**step) / (1 - _MEMORY**step)
        points -= np.float32(rate) * means / (np.sqrt(squares) + np.float32(1e-8))
    return (points >= 0).astype(np.float32)


def _points(shares: Floats) -> Floats:
    """Where the stretched sigmoid has these values."""
    inside = (np.clip(shares, _EDGE, 1 - _EDGE) - _LOWEST) / _STRETCH
    points: Floats = np.log(inside / (1 - inside)).astype(np.float32)
    return points


def _push(shares: Floats, time: float) -> Floats | float:
    """The slope of `1 - |2 share - 1| ** exponent`, whose exponent falls by a half cosine."""
    if time <= _FREE:
        return 0.0
    fall = (1 + np.cos(np.pi * (time - _FREE) / (1 - _FREE))) / 2
    exponent = np.float32(_BLUNTEST + (_SHARPEST - _BLUNTEST) * fall)
    sides = 2 * shares - 1
    strength = np.float32(2 * _PUSH / shares.shape[-1])
    return (-strength * exponent * np.sign(sides) * np.abs(sides) ** (exponent - 1)).astype(np.float32)
