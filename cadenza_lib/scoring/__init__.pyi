from .evaluation import Settings, evaluate
from .pairs import score
from .sweep import CANDIDATE_COLUMNS, Space, Sweep, best_of, candidate_of, grid, search, search_and_test, simplex_grid

__all__ = [
    "CANDIDATE_COLUMNS",
    "Settings",
    "Space",
    "Sweep",
    "best_of",
    "candidate_of",
    "evaluate",
    "grid",
    "score",
    "search",
    "search_and_test",
    "simplex_grid",
]
