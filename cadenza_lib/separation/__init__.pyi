from .separators import Separator, load, save_stems

__all__ = ["Separator", "load", "save_stems"]
