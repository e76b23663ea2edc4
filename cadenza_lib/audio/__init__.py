"""Loudness, heads, and the way from loudspeakers to the ears."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
