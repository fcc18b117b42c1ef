"""What a rung's answer says about itself: a few numbers from its logits, and what an accept rule makes of them.

Calibrating and the inference worker call the same functions, so a threshold means the same in both. The features are
those of Streeter (ICML 2018), section 5: the largest probability, the entropy and the gap of the two largest logits;
the gap of the two largest probabilities, the margin, is added as a rule of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...policies.cascade import AcceptRule, RuleKind

FEATURES = ("probability", "margin", "entropy", "gap")
PROBABILITY, MARGIN, ENTROPY, GAP = range(len(FEATURES))
NO_AGREEMENT = -1.0  # below every margin
MOST_GAP = 100.0  # logits; masked classes at minus infinity must not make a feature infinite

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int32]


def read_logits(logits: Tensor | ArrayLike) -> tuple[IntArray, NDArray[np.float32]]:
    """Answers [N], int32, and features [N, len(FEATURES)], float32, of logits [N, classes].

    Probability and margin are in [0, 1], entropy is divided by that of a uniform answer, the gap is in logits, at most
    MOST_GAP. With one class the answer is certain. NaN or plus infinity gives NaN, which no rule but `always` accepts.
    Raises ValueError for another shape.
    """
    values = logits.detach().float().cpu().numpy() if isinstance(logits, Tensor) else np.asarray(logits, np.float32)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"logits have shape {list(values.shape)}, need [N, classes]")
    rows, classes = values.shape
    features = np.empty((rows, len(FEATURES)), np.float32)
    answers = values.argmax(1).astype(np.int32)
    if classes == 1:
        features[:] = (1.0, 1.0, 0.0, 0.0)
        return answers, features
    with np.errstate(invalid="ignore"):
        below = values - values.max(1, keepdims=True)
        second = np.partition(below, classes - 2, axis=1)[:, classes - 2]
        powers = np.exp(below)
        total = powers.sum(1)
        # H = log Z - sum(p * z), with the largest z at 0; exp(-inf) * -inf would be NaN.
        weighted = (powers * np.maximum(below, -1e4)).sum(1) / total
        features[:, PROBABILITY] = 1 / total
        features[:, MARGIN] = (1 - np.exp(second)) / total
        features[:, ENTROPY] = (np.log(total) - weighted) / np.log(classes)
        features[:, GAP] = np.minimum(-second, MOST_GAP)
    return answers, features


def score(
    rule: AcceptRule, features: FloatArray, answers: IntArray, earlier_answers: IntArray | None = None
) -> NDArray[np.float64]:
    """Scores [N] by `rule` of a rung's features [N, k] and answers [N]; where they reach the threshold it accepts.

    `earlier_answers` [N] are those of the stage that an agreement rule names. Raises ValueError when a rule's weights
    do not fit the features or an agreement rule gets no earlier answers.
    """
    if rule.kind is RuleKind.ALWAYS:
        return np.full(len(features), np.inf)
    if rule.kind is RuleKind.CONFIDENCE:
        if len(rule.weights) != features.shape[1] + 1:
            raise ValueError(f"a confidence rule has {len(rule.weights)} weights for {features.shape[1]} features")
        return confidence(np.asarray(rule.weights), features)
    margins = features[:, MARGIN].astype(np.float64)
    if rule.kind is RuleKind.MARGIN:
        return margins
    if earlier_answers is None:
        raise ValueError("an agreement rule needs the answers of an earlier stage")
    return np.where(answers == earlier_answers, margins, NO_AGREEMENT)


def accepts(
    rule: AcceptRule, features: FloatArray, answers: IntArray, earlier_answers: IntArray | None = None
) -> NDArray[np.bool_]:
    """Where [N] `rule` takes a rung's answers. The arguments are those of `score`."""
    accepted = score(rule, features, answers, earlier_answers) >= rule.threshold
    return np.ones_like(accepted) if rule.kind is RuleKind.ALWAYS else accepted


def confidence(weights: NDArray[np.float64], features: FloatArray) -> NDArray[np.float64]:
    """The logistic function of weights[0] + features · weights[1:], for features [N, k]: values [N] in [0, 1]."""
    # Column by column: a row's score must not depend on how many rows come with it, as it does in a BLAS product.
    total = np.full(len(features), weights[0])
    for column, weight in enumerate(weights[1:]):
        total += weight * features[:, column].astype(np.float64)
    return 0.5 * (1.0 + np.tanh(0.5 * total))
