"""HAAQI on tensors: batches of signals, with gradients with regard to the processed signal, on any device.

The same model as `compute_haaqi`. In float64 the two are equal but for rounding. Gradients go through the filters whose
bandwidth follows the processed signal's own level, too, which matters; the lags at which the two signals are compared,
and the choice of audible segments, are held constant. A silent processed signal has a gradient of zero.

Read `torch_comparison` for the order of events, `torch_ear` and `torch_features` for the stages.
"""

from collections.abc import Sequence

import numpy as np
import torch
from clarity.utils.audiogram import Audiogram
from torch import Tensor

from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.haaqi import torch_filters
from cadenza_lib.haaqi.score import audiogram_levels, check_model, check_rate
from cadenza_lib.haaqi.torch_comparison import ReferenceSide

__all__ = ["HaaqiLoss", "ReferenceBatch", "score_batch"]


def score_batch(
    processed: Tensor,
    reference: Tensor,
    sample_rate: float,
    audiograms: Audiogram | Sequence[Audiogram],
    equalisation: int = 2,
    level1: float | Sequence[float] = 65.0,
    noise: int | None = None,
) -> Tensor:
    """Return the Hearing-Aid Audio Quality Index of each item of a batch, differentiable in `processed`.

    Parameters
    ----------
    processed, reference, sample_rate, equalisation
        As for `score.compute_haaqi`; the signals are float32 or float64, of one rate and on one device.
    audiograms, level1
        As for `score.compute_haaqi`: one for all items, or one for each.
    noise
        Seed of the ear's internal noise, the one that `compute_haaqi` calls "hashed"; or None for no noise, which
        moves a score by up to 2e-3.

    Shape:
        - processed: `(batch, time)`
        - reference: `(batch, time)`, or `(time,)`: the same one for all items
        - result: `(batch,)`, from 0 to 0.999

    Raises
    ------
    AudioError
        If signals do not have these shapes, are not finite, are too short, or a reference is silent.
    ParameterError
        If another argument is out of bounds, or there are neither one nor as many as items.

    >>> from clarity.utils.audiogram import AUDIOGRAM_MILD
    >>> chirp = torch.sin(torch.linspace(0, 400, 24000) ** 1.5)
    >>> clipped = torch.stack([chirp, chirp.clamp(-0.5, 0.5)])
    >>> score_batch(clipped, chirp, 24000, AUDIOGRAM_MILD, level1=70.0).numpy().round(2)
    array([1.  , 0.38], dtype=float32)
    """
    return ReferenceBatch(reference, sample_rate, audiograms, equalisation, level1, noise).score(processed)


class HaaqiLoss(torch.nn.Module):
    """One minus the mean HAAQI of a batch: see `score_batch` for arguments and shapes.

    >>> from clarity.utils.audiogram import AUDIOGRAM_MILD
    >>> chirp = torch.sin(torch.linspace(0, 400, 24000) ** 1.5)
    >>> quiet = (0.1 * chirp)[None].requires_grad_()
    >>> HaaqiLoss(24000)(quiet, chirp, AUDIOGRAM_MILD, level1=70.0).backward()
    >>> bool(quiet.grad @ chirp < 0)  # louder is better
    True
    """

    def __init__(self, sample_rate: float, equalisation: int = 2, noise: int | None = None) -> None:
        super().__init__()
        self.sample_rate, self.equalisation, self.noise = sample_rate, equalisation, noise

    def forward(
        self,
        processed: Tensor,
        reference: Tensor,
        audiograms: Audiogram | Sequence[Audiogram],
        level1: float | Sequence[float] = 65.0,
    ) -> Tensor:
        """Return the loss, `()`."""
        scores = score_batch(processed, reference, self.sample_rate, audiograms, self.equalisation, level1, self.noise)
        return 1.0 - scores.mean()


class ReferenceBatch:
    """References to be compared with any number of processed signals: arguments as for `score_batch`.

    Without gradients with regard to the reference. For each second of audio, 9 MB are kept for each item in float32.
    """

    def __init__(
        self,
        reference: Tensor,
        sample_rate: float,
        audiograms: Audiogram | Sequence[Audiogram],
        equalisation: int = 2,
        level1: float | Sequence[float] = 65.0,
        noise: int | None = None,
    ) -> None:
        check_model(equalisation, level1)
        check_rate(sample_rate, "reference")
        if noise is not None and not 0 <= noise < 2**32:
            raise ParameterError(f"noise is {noise!r}: give a seed from 0 to 2**32 - 1, or None for no noise.")
        signal = _signal(reference.detach(), "reference")
        audiograms = [audiograms] if isinstance(audiograms, Audiogram) else audiograms
        self._levels = np.stack([audiogram_levels(audiogram) for audiogram in audiograms])
        self._level1 = np.atleast_1d(np.asarray(level1, np.float64))
        self.items = max(len(signal), len(self._levels), len(self._level1))
        for name, count in (
            ("references", len(signal)), ("audiograms", len(self._levels)), ("level1", len(self._level1)),
        ):  # fmt: skip
            if count not in (1, self.items):
                raise ParameterError(f"There are {count} {name} for {self.items} items: give one, or one for each.")
        self.sample_rate, self._equalisation, self._noise = sample_rate, equalisation, noise
        self._signal = torch_filters.resample(signal, sample_rate)
        self._side: ReferenceSide | None = None

    def score(self, processed: Tensor) -> Tensor:
        """Return HAAQI of `processed`, `(batch, time)`, against one reference or as many: `(batch,)`."""
        signal = _signal(processed, "processed")
        if signal.dtype != self._signal.dtype or signal.device != self._signal.device:
            raise AudioError(
                f"The processed signal is {signal.dtype} on {signal.device} and the reference {self._signal.dtype} on "
                f"{self._signal.device}: give both in the same precision on the same device."
            )
        if self.items not in (1, len(signal)):
            raise AudioError(f"There are {len(signal)} processed signals for {self.items} references or ears.")
        signal = torch_filters.resample(signal, self.sample_rate)
        size = min(self._signal.shape[-1], signal.shape[-1])
        if self._side is None or self._side.size != size:
            reference = self._signal[:, :size].expand(self.items, -1)
            levels = np.broadcast_to(self._levels, (self.items, self._levels.shape[1]))
            level1 = np.broadcast_to(self._level1, self.items)
            self._side = ReferenceSide(reference, levels, level1, self._equalisation == 1, self._noise)
        return self._side.compare(signal[:, :size])


def _signal(signal: Tensor, name: str) -> Tensor:
    """Check a signal and return it as (item, time)."""
    if name == "reference" and signal.ndim == 1:
        signal = signal[None]
    if signal.ndim != 2 or signal.numel() == 0:
        raise AudioError(f"The {name} signal has shape {tuple(signal.shape)}: give (batch, time).")
    if signal.dtype not in (torch.float32, torch.float64):
        raise AudioError(f"The {name} signal is {signal.dtype}: give float32 or float64.")
    if not torch.isfinite(signal).all():
        raise AudioError(f"The {name} signal holds NaN or infinity: repair it before scoring.")
    return signal
