from .bases import Candidate
from .evaluation import Settings, enhance, evaluate
from .optimiser import Space, search
from .sweep import CANDIDATE_COLUMNS, Sweep, best_of, candidate_of, grid, search_and_test, simplex_grid

__all__ = [
    "CANDIDATE_COLUMNS",
    "Candidate",
    "Settings",
    "Space",
    "Sweep",
    "best_of",
    "candidate_of",
    "enhance",
    "evaluate",
    "grid",
    "search",
    "search_and_test",
    "simplex_grid",
]
