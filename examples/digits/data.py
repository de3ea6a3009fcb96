"""Labelled handwritten digits for the example model, made from scikit-learn's bundled copy.

    pip install numpy pillow scikit-learn
    python examples/digits/data.py digits.npz

The file holds the 800 samples that the model has never seen: `image`, uint8 of shape (800, 1, 32, 32),
and `labels`, int64 of shape (800,). Every run writes the same bytes, so that a job on it can be reused.
The model expects the preprocessing preset `unit`, which divides each pixel by 255.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
HELD_OUT_PER_CLASS = 80
SEED = 20240817
BRIGHTEST = 16


class Samples(NamedTuple):
    """Grey images, (N, 1, 32, 32), with the digit that each one shows."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp]) -> Samples:
        return Samples(self.image[rows], self.labels[rows])


def training() -> Samples:
    """The samples that the model was trained on."""
    samples = _distinct()
    return samples.take(np.setdiff1d(np.arange(len(samples.labels)), _held_out_rows(samples.labels)))


def held_out() -> Samples:
    """The samples for calibration and evaluation, 80 of each digit, none of them trained on."""
    samples = _distinct()
    return samples.take(_held_out_rows(samples.labels))


def write(samples: Samples, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, image=samples.image, labels=samples.labels)


def _distinct() -> Samples:
    """Every image once, so that no two equal ones can end up on both sides of the split."""
    small, labels = load_digits(return_X_y=True)
    first = np.sort(np.unique(small, axis=0, return_index=True)[1])
    images = np.stack([_upscale(row.reshape(8, 8)) for row in small[first]])
    return Samples(images[:, np.newaxis], labels[first].astype(np.int64))


def _upscale(small: NDArray[np.float64]) -> NDArray[np.uint8]:
    grey = np.rint(small * (255 / BRIGHTEST)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _held_out_rows(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows drawn per class from one shuffle, left in shuffled order so that any prefix is mixed."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    per_class = [shuffled[labels[shuffled] == digit][:HELD_OUT_PER_CLASS] for digit in range(10)]
    return shuffled[np.isin(shuffled, np.concatenate(per_class))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out digits as an npz file.")
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    samples = held_out()
    write(samples, out)
    print(f"{out}: {len(samples.labels)} labelled images of {SIDE}x{SIDE}")


if __name__ == "__main__":
    main()
