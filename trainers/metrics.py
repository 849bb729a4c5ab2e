"""Scores of predictions: pure functions on arrays, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainers.runs import Predictions


def confusion(labels_N: np.ndarray, predicted_N: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (K, K): row = right class, column = what was said."""
    counts_KK = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(counts_KK, (labels_N, predicted_N), 1)
    return counts_KK


def log_loss(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean negative log-probability of the right class, in nats (multi-class cross-entropy, DCASE's second measure)."""
    right_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.clip(right_N, 1e-12, None)).mean())


def accuracy_by(correct_N: np.ndarray, groups: list[str]) -> dict[str, float]:
    """Accuracy (0 to 1) of each group's clips, in the order of the groups' names."""
    names_N = np.array(groups, dtype=np.str_)
    return {str(name): float(correct_N[names_N == name].mean()) for name in np.unique(names_N)}


def scores(predictions: Predictions, classes: tuple[str, ...], seen_recorders: set[str]) -> dict[str, Any]:
    """Everything that is said of a scored split, accuracies 0 to 1.

    `accuracy` overall, `macro_accuracy` (mean over scenes, DCASE Task 1's measure), `log_loss` in nats, `per_scene`, `per_recorder`,
    `seen` and `unseen` (recorders that training had, and had not; None where there is no such clip), `n_clips`, `confusion`.
    """
    predicted_N = predictions.probabilities_NK.argmax(1)
    correct_N = predicted_N == predictions.labels_N
    per_scene = accuracy_by(correct_N, [classes[label] for label in predictions.labels_N])
    seen_N = np.array([recorder in seen_recorders for recorder in predictions.recorders])
    return {
        "accuracy": float(correct_N.mean()),
        "macro_accuracy": float(np.mean(list(per_scene.values()))),
        "log_loss": log_loss(predictions.probabilities_NK, predictions.labels_N),
        "n_clips": len(correct_N),
        "per_scene": per_scene,
        "per_recorder": accuracy_by(correct_N, predictions.recorders),
        "seen": float(correct_N[seen_N].mean()) if seen_N.any() else None,
        "unseen": float(correct_N[~seen_N].mean()) if (~seen_N).any() else None,
        "confusion": confusion(predictions.labels_N, predicted_N, len(classes)).tolist(),
    }
