"""Cascades: measure a table of answers, search it for cheap cascades, and promise what the chosen one loses at most."""

from ...policies.cascade import missing, needed
from .confidence import fit_confidence, fit_confidences
from .costs import CascadeCosts
from .features import FEATURES, accepts, read_logits, score
from .greedy import Found, Point, plain_confidence, search
from .planning import Planned, plan
from .promise import certify, path_of, to_certify
from .simulation import Outcome, Step, expected_cost, row_costs, run, steps_of
from .table import ScoreTable, load_table, save_table

__all__ = [
    "FEATURES",
    "CascadeCosts",
    "Found",
    "Outcome",
    "Planned",
    "Point",
    "ScoreTable",
    "Step",
    "accepts",
    "certify",
    "expected_cost",
    "fit_confidence",
    "fit_confidences",
    "load_table",
    "missing",
    "needed",
    "path_of",
    "plain_confidence",
    "plan",
    "read_logits",
    "row_costs",
    "run",
    "save_table",
    "score",
    "search",
    "steps_of",
    "to_certify",
]
