"""The chain from estimated stems to what the hearing aids play, put together once, in the order of the challenge.

    fuse -> gains -> downmix -> loudness of the mixture -> prescription -> 32 kHz -> level -> output stage

Enhancement, its reference, output levels, linear bases, training targets and the tour all use these functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cadenza_lib.audio.loudness import loudness_matching_gain
from cadenza_lib.audio.resampling import resample
from cadenza_lib.chain.fitting import filter_ears, prescription
from cadenza_lib.chain.fusion import ModelWeights, add_mixture, check_fit, combine, post_filter
from cadenza_lib.chain.output import Output, output_stage, play
from cadenza_lib.chain.remix import MIXTURE_PLACES, apply_gains, downmix, mixture_scale
from cadenza_lib.core.conventions import OUTPUT_SAMPLE_RATE, SAMPLE_RATE
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong, check_not_silent
from cadenza_lib.data.listeners import Listener

__all__ = [
    "MAX_LEVEL_DB",
    "OFFICIAL",
    "STAGES",
    "ChainSettings",
    "amplify",
    "at_output_rate",
    "enhance",
    "finish",
    "mix_down",
    "reference_remix",
    "remix",
    "render",
    "stage_signals",
]

MAX_LEVEL_DB = 60.0
"""Largest change of the output level, up or down."""

_REFERENCES = ("linear", "same")
_MAX_EXPONENT = 4.0  # beyond, the loudest stem takes nearly all of each bin
_BLOCK = 1 << 16  # samples that are remixed at a time: minutes of stems need not be there once more, with their gains


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """The settings of the chain; the defaults are the official ones.

    Raises
    ------
    ParameterError
        If a weight, level or exponent lies outside its bounds, or the place of the mixture or the reference is unknown.
    """

    model_weights: ModelWeights | None = None  # `(model,)` or `(model, stem)`, on the simplex; None: equal
    mixture_weight: float = 0.0  # share of the mixture, from 0 to 1; the paper's best is 0.15
    mixture_into: str = "stems"  # or "downmix", see `fusion`
    wiener_exponent: float = 0.0  # of the filter that makes the stems share out the mixture, 0: none, at most 4
    prescription: str = "nal_r"  # see `fitting.PRESCRIPTIONS`
    output_level_db: float = 0.0  # gain before the output stage
    output_stage: str = "hard_clip"  # see `output.OUTPUT_STAGES`
    reference: str = "linear"  # true stems as amplified, or "same": also at this level through this stage (Cadenza 2)

    def __post_init__(self) -> None:
        """Make tuples of lists, which JSON and notebooks have, and refuse what lies out of bounds."""
        object.__setattr__(self, "model_weights", as_tuples(self.model_weights))
        if not 0 <= self.mixture_weight <= 1:
            raise ParameterError(f"mixture_weight {self.mixture_weight} must lie between 0 and 1.")
        if self.mixture_into not in MIXTURE_PLACES:
            raise ParameterError(
                f"mixture_into {self.mixture_into!r} is unknown; use one of {', '.join(MIXTURE_PLACES)}."
            )
        if not 0 <= self.wiener_exponent <= _MAX_EXPONENT:
            raise ParameterError(f"wiener_exponent {self.wiener_exponent} must lie between 0 and {_MAX_EXPONENT:g}.")
        if not abs(self.output_level_db) <= MAX_LEVEL_DB:
            raise ParameterError(
                f"output_level_db {self.output_level_db} must lie between -{MAX_LEVEL_DB:g} and {MAX_LEVEL_DB:g} dB."
            )
        if self.reference not in _REFERENCES:
            raise ParameterError(f"reference {self.reference!r} is unknown; use one of {', '.join(_REFERENCES)}.")


OFFICIAL = ChainSettings()
"""The chain of the challenge's baseline."""


def remix(stems: Tensor, gains_db: Tensor, mixture: Tensor, settings: ChainSettings = OFFICIAL) -> Tensor:
    """Return the remix of combined stems and mixture at the loudness of the mixture, before amplification.

    The result has the higher precision of stems and gains.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`
        - mixture, result: `(..., channel, time)`

    Raises
    ------
    AudioError
        If the shapes do not fit.
    """
    mixed = mix_down(stems, gains_db, mixture, settings)
    gain = loudness_matching_gain(mixed, mixture.to(mixed.dtype), SAMPLE_RATE)  # after which the wide mixture can go
    return mixed * gain


def mix_down(stems: Tensor, gains_db: Tensor, mixture: Tensor, settings: ChainSettings = OFFICIAL) -> Tensor:
    """Return the remix before its loudness is that of the mixture, sample by sample; see `remix`."""
    scale = mixture_scale(gains_db.to(mixture.device), settings.mixture_into)[..., None, None]
    check_fit(stems, mixture)
    dtype = torch.promote_types(stems.dtype, gains_db.dtype)
    batch = torch.broadcast_shapes(stems.shape[:-3], gains_db.shape[:-1], mixture.shape[:-2])
    mixed = torch.empty(*batch, *mixture.shape[-2:], dtype=dtype, device=stems.device)
    for start in range(0, mixed.shape[-1], _BLOCK):
        part = (..., slice(start, start + _BLOCK))
        summed = downmix(apply_gains(stems[part], gains_db))
        mixed[part] = add_mixture(summed, scale * mixture[part].to(dtype), settings.mixture_weight)
    return mixed


def reference_remix(song: AtEarSong, gains_db: Tensor) -> Tensor:
    """Return the remix of the true stems, before amplification, `(ear, time)`.

    Raises
    ------
    AudioError
        If the gains leave an ear silent, so that the presentation level is undefined.
    """
    remixed = remix(song.stems, gains_db, song.mixture)
    check_not_silent(remixed, f"The remix of {song.name}")
    return remixed


def amplify(remixed: Tensor, listener: Listener, settings: ChainSettings = OFFICIAL) -> Tensor:
    """Return a remix `(..., ear, time)` as the prescription amplifies it, `FIR_ORDER` samples longer.

    Raises
    ------
    ParameterError
        If the prescription is unknown.
    """
    return prescription(settings.prescription).amplify(remixed, listener)


def at_output_rate(amplified: Tensor) -> Tensor:
    """Resample what is amplified, `(..., ear, time)` at 44.1 kHz, to the rate of the output."""
    return torch.from_numpy(resample(amplified.numpy(), SAMPLE_RATE, OUTPUT_SAMPLE_RATE))


def finish(resampled: Tensor, listener: Listener, settings: ChainSettings = OFFICIAL) -> Output:
    """Return what the hearing aids play of what is amplified, `(ear, time)` at the rate of the output.

    Raises
    ------
    ParameterError
        If the output stage is unknown.
    """
    return play(resampled.numpy(), settings.output_level_db, output_stage(settings.output_stage), listener)


def render(remixed: Tensor, listener: Listener, settings: ChainSettings = OFFICIAL) -> Output:
    """Return what the hearing aids play of a remix, `(ear, time)`: amplified, resampled, at its level, limited.

    Raises
    ------
    ParameterError
        If the prescription or the output stage is unknown.
    """
    return finish(at_output_rate(amplify(remixed, listener, settings)), listener, settings)


def enhance(
    song: AtEarSong,
    estimates: Sequence[Tensor],
    gains_db: Tensor,
    listener: Listener,
    settings: ChainSettings = OFFICIAL,
) -> Output:
    """Return what the listener's hearing aids play: the whole chain.

    Parameters
    ----------
    song
        At the ears.
    estimates
        Its stems as each model estimates them, `(stem, channel, time)`.
    gains_db
        Gains of the scene, `(stem,)`.
    listener
        Who listens.
    settings
        Of the chain.

    Raises
    ------
    ParameterError
        If the weights do not fit the models, or the prescription or the output stage is unknown.
    AudioError
        If the shapes do not fit.
    """
    filtered = [post_filter(stems, song.mixture, settings.wiener_exponent) for stems in estimates]
    remixed = remix(combine(filtered, settings.model_weights), gains_db, song.mixture, settings)
    return render(remixed, listener, settings)


STAGES = ("stems", "gained", "downmix", "normalised", "amplified")
"""The stages of the chain up to the output, which can be training targets, in their order."""


def stage_signals(
    stems: Tensor,
    gains_db: Tensor,
    mixture: Tensor,
    firs: Tensor,
    per_stem: bool = True,
    last: str = STAGES[-1],
) -> dict[str, Tensor]:
    """Return stems, estimated or true, at each stage of the chain up to `last`; differentiable.

    With `per_stem`, the stem's share of the signal at the stage, which is defined because every stage is linear in the
    stems but for one loudness gain: at `downmix`, which only sums, that is the gained stem. Without, the sum of the
    four at the stage: at `stems` with no gains applied, and at `gained` the downmix.

    Parameters
    ----------
    stems
        At the ears.
    gains_db
        Gains of the scene.
    mixture
        At the ears; its loudness is what the downmix is brought to. It is not the sum of the stems.
    firs
        Filters of the listener, as from `fitting.FirPrescription.firs`.
    per_stem
        Whether the stems stay apart.
    last
        The last stage that is computed, one of `STAGES`.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`
        - mixture: `(..., channel, time)`
        - firs: `(..., channel, tap)`
        - result: each `(..., stem, channel, time)`, or `(..., channel, time)` without `per_stem`;
          `amplified` is longer by `tap - 1`

    >>> stems = torch.randn(4, 2, 22050)
    >>> firs = torch.ones(2, 1)
    >>> signals = stage_signals(stems, torch.zeros(4), stems.sum(0), firs)
    >>> torch.allclose(signals["amplified"], stems, atol=1e-5)  # nothing to change: gains 0 dB, loudness right
    True
    """
    computed = STAGES[: STAGES.index(last) + 1]
    signals = {"stems": stems if per_stem else downmix(stems)}
    if "gained" in computed:
        gained = apply_gains(stems, gains_db)
        mixed = downmix(gained)
        signals["gained"] = signals["downmix"] = gained if per_stem else mixed
    if "normalised" in computed:
        gain = loudness_matching_gain(mixed, mixture, SAMPLE_RATE)  # (..., 1, 1)
        signals["normalised"] = gained * gain.unsqueeze(-3) if per_stem else mixed * gain
    if "amplified" in computed:
        signals["amplified"] = filter_ears(signals["normalised"], firs.unsqueeze(-3) if per_stem else firs)
    return signals
