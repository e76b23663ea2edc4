"""The score of a scene-listener pair: HAAQI of what the hearing aids play against the amplified true remix.

`ChainSettings.reference` tells whether that remix goes through the output stage, too.

A score equals the recipe's, noise included: the generator is seeded with the scene before the left ear, and the right
ear goes on with the same stream.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.audio.resampling import resample
from cadenza_lib.chain.output import Output, output_stage
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings, amplify, at_output_rate
from cadenza_lib.core.conventions import (
    EARS,
    HAAQI_SAMPLE_RATE,
    OUTPUT_SAMPLE_RATE,
    PRESENTATION_LEVEL_DB_SPL,
    SAMPLE_RATE,
)
from cadenza_lib.data.listeners import Listener, ear_audiogram
from cadenza_lib.data.scenes import legacy_seed
from cadenza_lib.haaqi import Components, HaaqiReference

__all__ = ["EAR_COLUMNS", "PairReference", "PairScore", "references", "score"]

EAR_COLUMNS = ("clipped_share", "loudness_lufs", "cepstral_correlation", "fine_structure", "loudness", "spectrum")
"""What is kept of each ear beside its score: share of samples beyond full scale before the output stage, loudness of
the output, and the four features that HAAQI is made of (see `haaqi.Components`)."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairScore:
    """HAAQI of one scene-listener pair and what it is made of; each field is `(left, right)`."""

    components: tuple[Components, Components]
    clipped_share: tuple[float, float]
    loudness_lufs: tuple[float, float]

    @property
    def haaqi(self) -> tuple[float, float]:
        """The score of each ear."""
        return self.components[0].score, self.components[1].score

    @property
    def mean(self) -> float:
        """The score of the pair: the mean of both ears."""
        return float(np.mean(self.haaqi))

    def values(self) -> tuple[float, ...]:
        """Return the scores and `EAR_COLUMNS` in the order of `evaluation.COLUMNS`, from left_score on."""
        features = [getattr(part, name) for name in EAR_COLUMNS[2:] for part in self.components]
        return (*self.haaqi, self.mean, *self.clipped_share, *self.loudness_lufs, *features)


class PairReference:
    """What all outputs of a pair are compared with; what depends on the reference alone is computed once.

    Parameters
    ----------
    reference
        What `pipeline.reference_remix` returned, `(ear, time)`.
    listener
        Whose ears listen.
    scene
        Id of the scene, which seeds the noise of the ear model.
    settings
        Of the chain, whose prescription the reference goes through too, and with `reference` "same" whose output stage.
    keep
        Whether to keep what is computed, 9 MB for each second and ear, for further outputs.
    """

    def __init__(
        self,
        reference: Tensor,
        listener: Listener,
        scene: str,
        settings: ChainSettings = OFFICIAL,
        keep: bool = True,
    ) -> None:
        self._keep = keep
        self._reference, self._settings = reference, settings
        rms = reference.square().mean(-1).sqrt().numpy()
        self.level1 = PRESENTATION_LEVEL_DB_SPL - 20 * np.log10(rms)  # dB SPL of RMS 1, (ear,)
        self._listener, self._scene = listener, scene
        left, self._right_signal = self.heard()
        self._left = self._ear(0, left, np.random.RandomState(legacy_seed(scene)))
        self._right: HaaqiReference | None = None

    def heard(self, part: slice = slice(None)) -> np.ndarray:
        """Return what the ears should hear, `(ear, time)` at `HAAQI_SAMPLE_RATE`; not kept, since it can be large.

        Parameters
        ----------
        part
            Of the amplified signal at 44.1 kHz.
        """
        amplified = amplify(self._reference, self._listener, self._settings)[..., part]
        if self._settings.reference == "linear":
            return resample(amplified.numpy(), SAMPLE_RATE, HAAQI_SAMPLE_RATE)
        scaled = at_output_rate(amplified) * 10 ** (self._settings.output_level_db / 20)
        limited = output_stage(self._settings.output_stage).limit(scaled, self._listener)
        return resample(limited.numpy(), OUTPUT_SAMPLE_RATE, HAAQI_SAMPLE_RATE)

    def score(self, output: Output) -> PairScore:
        """Return HAAQI of what `pipeline.finish` returned, as the recipe computes it; a warning tells of silence."""
        for ear, signal in zip(EARS, output.signal, strict=True):
            if not signal.any():
                _LOGGER.warning("%s plays nothing to the %s ear; its score is that of noise.", self._scene, ear)
        left, right = (resample(signal, OUTPUT_SAMPLE_RATE, HAAQI_SAMPLE_RATE) for signal in output.signal)
        components = [self._left.components(left, HAAQI_SAMPLE_RATE)]
        if self._right is None:
            # How much noise the left ear takes depends on the reference and the length, so any output will do.
            stream = np.random.RandomState()
            stream.set_state(self._left.state_after())
            self._right = self._ear(1, self._right_signal, stream)
        components.append(self._right.components(right, HAAQI_SAMPLE_RATE))
        loudness_lufs = integrated_loudness(torch.from_numpy(output.signal)[:, None], OUTPUT_SAMPLE_RATE)
        return PairScore(
            (components[0], components[1]),
            (float(output.clipped_share[0]), float(output.clipped_share[1])),
            (float(loudness_lufs[0]), float(loudness_lufs[1])),
        )

    def _ear(self, index: int, signal: np.ndarray, stream: np.random.RandomState) -> HaaqiReference:
        return HaaqiReference(
            signal,
            HAAQI_SAMPLE_RATE,
            ear_audiogram(self._listener, EARS[index]),
            equalisation=2,  # the prescription is already in the reference
            level1=float(self.level1[index]),
            seed=stream,
            keep=self._keep,
        )


def references(reference: Tensor, listener: Listener, scene: str) -> Callable[[ChainSettings], PairReference]:
    """Return what gives the reference for settings, and keeps the last one, which other settings may share.

    The arguments are those of `PairReference`.
    """

    @lru_cache(maxsize=1)
    def deciding(settings: ChainSettings) -> PairReference:
        return PairReference(reference, listener, scene, settings)

    def of(settings: ChainSettings) -> PairReference:
        names = ["prescription", "reference"]
        if settings.reference == "same":
            names += ["output_level_db", "output_stage"]
        return deciding(ChainSettings(**{name: getattr(settings, name) for name in names}))

    return of


def score(
    output: Output, reference: Tensor, listener: Listener, scene: str, settings: ChainSettings = OFFICIAL
) -> PairScore:
    """Return HAAQI of one enhanced signal; the arguments are those of `PairReference` and its `score`."""
    return PairReference(reference, listener, scene, settings, keep=False).score(output)
