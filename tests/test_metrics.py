"""Scores on labels small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainers.metrics import accuracy_by, confusion, log_loss, scores
from trainers.runs import Predictions


def test_scores_of_four_clips() -> None:
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]], dtype=np.float32)
    said = Predictions(probabilities, np.array([0, 0, 0, 1]), ["1", "2", "3", "4"], ["a", "a", "s4", "s4"])
    found = scores(said, ("bus", "tram"), {"a"})
    assert found["accuracy"] == 0.75
    assert found["per_scene"] == {"bus": pytest.approx(2 / 3), "tram": 1.0}
    assert found["macro_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["per_recorder"] == {"a": 0.5, "s4": 1.0}
    assert (found["seen"], found["unseen"], found["n_clips"]) == (0.5, 1.0, 4)
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["log_loss"] == pytest.approx(
        -(math.log(0.8) + math.log(0.4) + math.log(0.5) + math.log(0.9)) / 4, rel=1e-6
    )


def test_recorders_that_training_had_alone_leave_unseen_empty() -> None:
    said = Predictions(np.eye(2, dtype=np.float32), np.array([0, 1]), ["1", "2"], ["a", "a"])
    assert scores(said, ("bus", "tram"), {"a"})["unseen"] is None


def test_confusion_has_the_right_class_in_rows() -> None:
    assert confusion(np.array([0, 0, 2]), np.array([1, 1, 2]), 3).tolist() == [
        [0, 2, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]


def test_log_loss_of_a_certain_error_is_finite() -> None:
    assert log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-math.log(1e-12))


def test_accuracy_by_keeps_the_order_of_names() -> None:
    assert list(accuracy_by(np.array([True, False]), ["z", "a"])) == ["a", "z"]
