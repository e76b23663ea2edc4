"""Conventions that every room obeys: order of stems and ears, sample rates, levels.

Signals are `(..., stem, channel, time)` with the left ear first; other libraries' orders are converted where they are
called. Sample rates and frequencies are in Hz.
"""

__all__ = [
    "EARS",
    "HAAQI_SAMPLE_RATE",
    "OUTPUT_SAMPLE_RATE",
    "PRESENTATION_LEVEL_DB_SPL",
    "SAMPLE_RATE",
    "STEMS",
]

STEMS = ("vocals", "drums", "bass", "other")
"""The stems, in the order of every tensor of stems."""

EARS = ("left", "right")
"""The ears, in the order of every tensor's channels."""

SAMPLE_RATE = 44100
"""Sample rate in Hz of songs, separation and fitting."""

OUTPUT_SAMPLE_RATE = 32000
"""Sample rate in Hz of what the hearing aids play."""

HAAQI_SAMPLE_RATE = 24000
"""Sample rate in Hz at which the recipe computes HAAQI."""

PRESENTATION_LEVEL_DB_SPL = 65.0
"""Level at which the reference remix, before amplification, is presented to each ear."""
