from .common import EAR_STYLE, panels, save, style
from .listeners import (
    asymmetric_listeners,
    clip_effect,
    clipped_share,
    correlation_heatmap,
    haaqi_against_pta,
    haaqi_by_gain,
    haaqi_by_severity,
    level_curves,
    level_gains,
    losses,
)
from .sound import audiograms, hrtf_magnitude, insertion_gain, spectra, stem_levels
from .systems import data_size, explanation, findings, loss_curves, mixture_weights, targets, ternary

__all__ = [
    "EAR_STYLE",
    "asymmetric_listeners",
    "audiograms",
    "clip_effect",
    "clipped_share",
    "correlation_heatmap",
    "data_size",
    "explanation",
    "findings",
    "haaqi_against_pta",
    "haaqi_by_gain",
    "haaqi_by_severity",
    "hrtf_magnitude",
    "insertion_gain",
    "level_curves",
    "level_gains",
    "loss_curves",
    "losses",
    "mixture_weights",
    "panels",
    "save",
    "spectra",
    "stem_levels",
    "style",
    "targets",
    "ternary",
]
