"""The search over bit allocations. It drives plain functions handed to it and knows no compiler."""

from qsearch.search.budget import Budget, parse_budget
from qsearch.search.front import front, hypervolume, non_dominated
from qsearch.search.history import History, Point, load_history
from qsearch.search.objective import OBJECTIVES, Objective, human, parse_objectives
from qsearch.search.price import Predict
from qsearch.search.selection import Selection, select
from qsearch.search.sensitivity import Measurement, Sensitivity, read_sensitivity
from qsearch.search.study import run_search

__all__ = [
    "OBJECTIVES",
    "Budget",
    "History",
    "Measurement",
    "Objective",
    "Point",
    "Predict",
    "Selection",
    "Sensitivity",
    "front",
    "human",
    "hypervolume",
    "load_history",
    "non_dominated",
    "parse_budget",
    "parse_objectives",
    "read_sensitivity",
    "run_search",
    "select",
]
