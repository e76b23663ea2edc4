"""Listeners, scenes and songs: what a corpus holds, and how one is made."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
