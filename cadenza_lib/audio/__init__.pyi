from .acoustics import at_ears, hrtf_table
from .loudness import integrated_loudness

__all__ = ["at_ears", "hrtf_table", "integrated_loudness"]
