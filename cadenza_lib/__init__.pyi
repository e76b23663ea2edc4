from . import analysis, audio, chain, core, data, figures, haaqi, listening, runs, scoring, separation, training
from .chain.fusion import fuse
from .chain.pipeline import ChainSettings, enhance
from .core.errors import CadenzaError
from .data.opening import open_corpus
from .haaqi import HaaqiReference, compute_haaqi
from .listening.player import Player
from .runs.notebooks import execute
from .scoring.evaluation import Settings, evaluate
from .separation.separators import load
from .training.files import Config
from .training.finetuning import finetune

__version__: str

__all__ = [
    "CadenzaError",
    "ChainSettings",
    "Config",
    "HaaqiReference",
    "Player",
    "Settings",
    "analysis",
    "audio",
    "chain",
    "compute_haaqi",
    "core",
    "data",
    "enhance",
    "evaluate",
    "execute",
    "figures",
    "finetune",
    "fuse",
    "haaqi",
    "listening",
    "load",
    "open_corpus",
    "runs",
    "scoring",
    "separation",
    "training",
]
