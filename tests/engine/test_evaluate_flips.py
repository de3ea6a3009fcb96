"""Which samples changed: counted, shown, and kept so that a later job can be paired with this one."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.domain.against import pair
from app.domain.dataset import Preprocess
from tests.engine.digits import classifier, digits, save_digits
from tests.engine.test_calls import Job
from worker.engine.data import Dataset, open_dataset
from worker.engine.evaluate.flips import Answers
from worker.engine.requests import Data

RIGHT, WRONG = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])


@pytest.fixture
def images(tmp_path: Path) -> Dataset:
    """Six different pictures, three of a cat and three of a dog, one folder for each class."""
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for i in range(6):
            path = tmp_path / f"{i}.png"
            Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(path)
            archive.write(path, f"{'cat' if i < 3 else 'dog'}/{i}.png")
    return open_dataset(Data(path=tmp_path / "data.zip", preprocess=Preprocess()))


def test_lost_samples_come_first_with_their_file_and_both_answers(images: Dataset) -> None:
    answers = Answers(images, "top1", "scores")
    for index, (was, now) in enumerate([(RIGHT, RIGHT), (WRONG, RIGHT), (RIGHT, WRONG)]):
        answers.add(index + 2, 1, was, now)

    flips = answers.flips()

    assert (flips.samples, flips.lost, flips.gained, flips.changed) == (3, 1, 1, 0)
    assert [(one.index, one.name, one.change) for one in flips.items] == [
        (4, "dog/4.png", "lost"),
        (3, "dog/3.png", "gained"),
    ]
    lost = flips.items[0]
    assert (lost.label, lost.label_name) == (1, "dog")
    assert lost.baseline is not None
    assert lost.candidate is not None
    assert (lost.baseline.name, lost.candidate.name) == ("dog", "cat")


def test_a_class_beyond_the_names_has_a_number_only(images: Dataset) -> None:
    answers = Answers(images, "top1", "scores")
    answers.add(0, 0, np.array([0.0, 0.0, np.inf]), WRONG)

    (one,) = answers.predictions()

    assert one.baseline is not None
    assert (one.baseline.label, one.baseline.name, one.baseline.score) == (2, None, None)


def test_at_most_100_samples_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    dataset = open_dataset(Data(path=save_digits(tmp_path / "digits", 300)))
    answers = Answers(dataset, "top1", "scores")
    for index in range(300):
        answers.add(index, 1, RIGHT if index < 260 else WRONG, WRONG if index < 260 else RIGHT)

    flips = answers.flips()

    assert (flips.lost, flips.gained, len(flips.items)) == (260, 40, 100)
    assert len(answers.predictions()) == 8


def test_without_labels_a_new_best_class_is_a_change(images: Dataset) -> None:
    answers = Answers(images, None, "scores")
    answers.add(0, None, RIGHT, WRONG)
    answers.add(1, None, RIGHT, RIGHT)

    assert (answers.flips().changed, [one.change for one in answers.flips().items]) == (1, ["changed"])
    assert answers.outcomes() is None


def test_without_class_scores_the_samples_that_differ_most_are_shown_worst_first(tmp_path: Path) -> None:
    dataset = open_dataset(Data(path=save_digits(tmp_path / "digits", 150)))
    answers = Answers(dataset, "mse", "y")
    for index in range(150):
        answers.add(index, None, np.ones((2, 3)), np.ones((2, 3)) * (1 + index / 1000))

    flips = answers.flips()

    assert (flips.lost, flips.gained, flips.changed) == (None, None, None)
    assert [one.index for one in flips.items] == list(range(149, 49, -1))


def test_outcomes_do_not_depend_on_the_order_of_the_samples(images: Dataset) -> None:
    forward, backward = Answers(images, "top1", "scores"), Answers(images, "top1", "scores")
    for index in range(6):
        forward.add(index, 1, RIGHT, RIGHT if index else WRONG)
    for index in reversed(range(6)):
        backward.add(index, 1, RIGHT, RIGHT if index else WRONG)

    assert forward.outcomes() == backward.outcomes()
    found = pair(forward.outcomes(), backward.outcomes())
    assert found is not None
    assert (found.lost, found.gained, found.samples) == (0, 0, 6)


def test_outcomes_of_other_labels_or_samples_cannot_be_paired(images: Dataset) -> None:
    kept = []
    for label, count in ((1, 6), (0, 6), (1, 5)):
        answers = Answers(images, "top1", "scores")
        for index in range(count):
            answers.add(index, label, RIGHT, RIGHT)
        kept.append(answers.outcomes())

    assert [pair(kept[0], other) is not None for other in kept] == [True, False, False]


def test_a_build_says_which_samples_flipped(tmp_path: Path) -> None:
    job = Job(tmp_path, classifier())
    data = save_digits(tmp_path / "digits")

    built = job.build(job.prepare(data), data)

    accuracy, flips = built["figures"]["accuracy"], built["flips"]
    assert (flips["lost"], flips["gained"]) == (accuracy["lost"], accuracy["gained"])
    assert len(flips["items"]) == min(flips["lost"] + flips["gained"], 100) > 0
    labels = digits()[1]
    assert all(labels[one["index"]] == one["label"] for one in flips["items"])
    assert len(built["figures"]["predictions"]) == 8
    assert built["outcomes"]["samples"] == accuracy["samples"]
