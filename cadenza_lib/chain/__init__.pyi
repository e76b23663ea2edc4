from .fusion import ensemble, fuse

__all__ = ["ensemble", "fuse"]
