"""The learned confidence of a rung: logistic regression of being right, on the features of its logits.

With labels it is the probability of the right answer, without that of the reference's (Streeter, ICML 2018, section 5).
Fitted by Newton's method on standardised features, with a ridge that keeps the weights finite where a feature separates
right from wrong: a dozen systems of five equations, which need no solver from elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...policies.cascade import RungId
from .features import FloatArray, confidence
from .table import ScoreTable

RIDGE = 1.0  # of a standardised weight, in inputs
ITERATIONS = 25
TOLERANCE = 1e-8


def fit_confidence(features: FloatArray, right: NDArray[np.bool_]) -> tuple[float, ...]:
    """Intercept and weights of P(right) for features [n, k] and outcomes [n], as in `AcceptRule.weights`.

    Inputs with features that are not finite are passed over; where none is left, all weights are 0.
    """
    finite = np.isfinite(features).all(1)
    if not finite.any():
        return tuple([0.0] * (features.shape[1] + 1))
    x, right = features[finite].astype(np.float64), right[finite]
    mean, spread = x.mean(0), x.std(0)
    spread[spread < 1e-6] = 1.0
    x = np.column_stack((np.ones(len(x)), (x - mean) / spread))
    y = right.astype(np.float64)
    ridge = np.diag([1e-3, *[RIDGE] * (x.shape[1] - 1)])
    weights = np.zeros(x.shape[1])
    for _ in range(ITERATIONS):
        p = confidence(weights, x[:, 1:])
        gradient = x.T @ (y - p) - ridge @ weights
        step = np.linalg.solve((x * np.maximum(p * (1 - p), 1e-9)[:, None]).T @ x + ridge, gradient)
        # A far step would leave the region where the quadratic model holds.
        weights += step * min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < TOLERANCE:
            break
    slopes = weights[1:] / spread
    return (float(weights[0] - slopes @ mean), *map(float, slopes))


def fit_confidences(table: ScoreTable, reference: RungId) -> dict[RungId, tuple[float, ...]]:
    """The weights of every rung of `table`, which is to be the part that the search uses.

    Raises BadInputError when the table lacks the reference.
    """
    right = ~table.disagreements(reference) if table.labels is None else table.answers == table.labels[:, None]
    return {rung: fit_confidence(table.features[:, i], right[:, i]) for i, rung in enumerate(table.rungs)}
