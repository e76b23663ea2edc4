from .fitting import PRESCRIPTIONS, FirPrescription
from .fusion import ensemble, fuse
from .output import OUTPUT_STAGES
from .pipeline import ChainSettings, enhance, reference_remix

__all__ = [
    "OUTPUT_STAGES",
    "PRESCRIPTIONS",
    "ChainSettings",
    "FirPrescription",
    "enhance",
    "ensemble",
    "fuse",
    "reference_remix",
]
