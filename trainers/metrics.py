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


def calibration(probabilities_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """The reliability diagram: for every bin of confidence (the largest probability) that has clips, their number, mean confidence, accuracy.

    Source: Guo et al., 2017 (arXiv 1706.04599): 15 bins of equal width, each without its lower end.
    """
    confidence_N = probabilities_NK.max(1).astype(np.float64)
    correct_N = probabilities_NK.argmax(1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "n": int((bin_N == b).sum()),
            "confidence": float(confidence_N[bin_N == b].mean()),
            "accuracy": float(correct_N[bin_N == b].mean()),
        }
        for b in np.unique(bin_N)
    ]


def calibration_error(diagram: list[dict[str, float]]) -> float:
    """The expected calibration error (0 to 1): the mean of |accuracy - confidence| over the bins, weighted by their clips.

    Source: Guo et al., 2017, eq. 3.
    """
    total = sum(row["n"] for row in diagram)
    return float(sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in diagram) / total)


def accuracy_by(correct_N: np.ndarray, groups: list[str]) -> dict[str, float]:
    """Accuracy (0 to 1) of each group's clips, in the order of the groups' names."""
    names_N = np.array(groups, dtype=np.str_)
    return {str(name): float(correct_N[names_N == name].mean()) for name in np.unique(names_N)}


def scores(predictions: Predictions, classes: tuple[str, ...], seen_recorders: set[str]) -> dict[str, Any]:
    """Everything that is said of a scored split, accuracies 0 to 1.

    `accuracy` overall, `macro_accuracy` (mean over scenes, DCASE Task 1's measure), `log_loss` in nats, `calibration_error` and the
    diagram behind it, `calibration`, `per_scene`, `per_recorder`, `seen` and `unseen` (recorders that training had, and had not; None where there is no such clip), `n_clips`, `confusion`.
    """
    predicted_N = predictions.probabilities_NK.argmax(1)
    correct_N = predicted_N == predictions.labels_N
    per_scene = accuracy_by(correct_N, [classes[label] for label in predictions.labels_N])
    diagram = calibration(predictions.probabilities_NK, predictions.labels_N)
    seen_N = np.array([recorder in seen_recorders for recorder in predictions.recorders])
    return {
        "accuracy": float(correct_N.mean()),
        "macro_accuracy": float(np.mean(list(per_scene.values()))),
        "log_loss": log_loss(predictions.probabilities_NK, predictions.labels_N),
        "calibration_error": calibration_error(diagram),
        "calibration": diagram,
        "n_clips": len(correct_N),
        "per_scene": per_scene,
        "per_recorder": accuracy_by(correct_N, predictions.recorders),
        "seen": float(correct_N[seen_N].mean()) if seen_N.any() else None,
        "unseen": float(correct_N[~seen_N].mean()) if (~seen_N).any() else None,
        "confusion": confusion(predictions.labels_N, predicted_N, len(classes)).tolist(),
    }
