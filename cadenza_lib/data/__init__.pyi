from .audiograms import read_audiograms
from .corpus import AtEarSong, Corpus
from .datasets import check_data
from .listeners import Listener, audiogram_table, measurement_note
from .opening import open_corpus
from .scenes import Scene, choose_pairs, sample_scenes, spread_scenes
from .simulation import simulate

__all__ = [
    "AtEarSong",
    "Corpus",
    "Listener",
    "Scene",
    "audiogram_table",
    "check_data",
    "choose_pairs",
    "measurement_note",
    "open_corpus",
    "read_audiograms",
    "sample_scenes",
    "simulate",
    "spread_scenes",
]
