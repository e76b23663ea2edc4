from .registry import ARCHITECTURES, SeparatorEntry
from .separators import SEPARATORS, Separator, load, save_stems

__all__ = ["ARCHITECTURES", "SEPARATORS", "Separator", "SeparatorEntry", "load", "save_stems"]
