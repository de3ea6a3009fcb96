"""Hessians made invertible, and the roots of their inverses, which say how columns make up for each other."""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
# Of the mean diagonal, added to the diagonal. The paper's hundredth follows the calibration samples so
# closely that products with others lose up to 0.6 dB.
_DAMPING = 0.1
_TINY = float(np.finfo(np.float32).tiny)


def damped(hessian: Doubles) -> Doubles:
    """A matrix that can be inverted: a tenth of the mean diagonal is added to the diagonal."""
    return hessian + np.eye(len(hessian)) * max(_DAMPING * float(np.diag(hessian).mean()), _TINY)


def inverse_root(hessian: Doubles) -> Doubles:
    """The upper Cholesky factor of the inverse."""
    return upper_root(inverted(hessian))


def inverted(hessian: Doubles) -> Doubles:
    """The inverse, [columns, columns]."""
    inverse: Doubles = np.asarray(np.linalg.inv(hessian), np.float64)
    return inverse


def upper_root(matrix: Doubles) -> Doubles:
    """The upper Cholesky factor."""
    root: Doubles = np.asarray(np.linalg.cholesky(matrix).T, np.float64)
    return root
