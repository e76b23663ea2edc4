from .explore import Explorer, draw_stages
from .own_music import enhance_file, parse_gains
from .player import Player, Take
from .stages import Setting, heard_take, load_excerpt, run_chain, score_table, spectrum_table, stage_takes, stem_takes

__all__ = [
    "Explorer",
    "Player",
    "Setting",
    "Take",
    "draw_stages",
    "enhance_file",
    "heard_take",
    "load_excerpt",
    "parse_gains",
    "run_chain",
    "score_table",
    "spectrum_table",
    "stage_takes",
    "stem_takes",
]
