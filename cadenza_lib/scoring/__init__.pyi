from .evaluation import Settings, evaluate
from .optimiser import Space, search
from .pairs import score
from .sweep import CANDIDATE_COLUMNS, Sweep, best_of, candidate_of, grid, search_and_test, simplex_grid

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
