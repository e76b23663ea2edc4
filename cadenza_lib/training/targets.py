"""Multi-target losses: L1 between estimated and true stems at any stage of the chain (paper, section 2.3), and HAAQI.

The stages are those of `chain.pipeline`: `stems` (as separated, at the ears), `gained` (after the scene's gains),
`downmix` (their sum), `normalised` (the downmix at the loudness of the at-ear mixture) and `amplified` (after the
listener's filters). The output stage is not one of them, because its clip and its rounding have no useful gradient.

The paper computes the L1 of vocals, drums, bass and other separately and averages the four with equal weights. Since
every stage is linear in the stems but for one loudness gain, each stem can be carried through it on its own:
`per_stem`. The gain is measured once per side, on the downmix of all four, for estimate and truth each on their own.
Otherwise the sums of the four are compared, as the listener would hear them.

Beyond the paper, `haaqi` compares what the hearing aids play by the metric itself: one minus HAAQI of both ears, the
estimate resampled and clipped as the output stage does, the truth at the level that the recipe presents it at. The
clip passes gradients where it does not clip; rounding and the noise of the ear model are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import julius
import torch
from torch import Tensor

from cadenza_lib.chain.output import output_stage
from cadenza_lib.chain.pipeline import OFFICIAL, STAGES, stage_signals
from cadenza_lib.core.conventions import EARS, OUTPUT_SAMPLE_RATE, PRESENTATION_LEVEL_DB_SPL, SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import Listener, ear_audiogram
from cadenza_lib.haaqi.torch import score_batch

__all__ = [
    "TargetLoss",
]

TARGETS = (*STAGES, "haaqi")
"""All training targets."""

_INAUDIBLE = 1e-6  # RMS of a segment's remix, -120 dB FS, that HAAQI is not asked about


def haaqi_loss(
    estimate: Tensor, truth: Tensor, gains_db: Tensor, mixture: Tensor, firs: Tensor, listeners: Sequence[Listener]
) -> Tensor:
    """Return one minus the mean HAAQI of what both ears of each listener hear; 0.001 for perfect stems and no clip.

    Ears for which the true remix is silent are left out: HAAQI is not defined for them.

    Shape:
        - estimate, truth: `(batch, stem, channel, time)`, at 44.1 kHz
        - gains_db: `(batch, stem)`
        - mixture: `(batch, channel, time)`
        - firs: `(batch, channel, tap)`, filters of the listeners
        - listeners: one for each item
        - result: `()`
    """
    amplified = stage_signals(estimate, gains_db, mixture, firs, per_stem=False)["amplified"]
    limit = output_stage(OFFICIAL.output_stage).limit
    processed = torch.stack([limit(*item) for item in zip(_resample(amplified), listeners, strict=True)])
    reference = stage_signals(truth, gains_db, mixture, firs, per_stem=False)
    rms = reference["normalised"].square().mean(-1).sqrt().flatten().tolist()  # (batch * channel)
    audible = [place for place, value in enumerate(rms) if value > _INAUDIBLE]
    if not audible:
        return 0.0 * estimate.sum()
    audiograms = [ear_audiogram(listener, ear) for listener in listeners for ear in EARS]
    scores = score_batch(
        processed.flatten(0, 1)[audible],
        _resample(reference["amplified"]).flatten(0, 1)[audible],
        OUTPUT_SAMPLE_RATE,
        [audiograms[place] for place in audible],
        equalisation=2,  # the prescription is already in the reference
        level1=[PRESENTATION_LEVEL_DB_SPL - 20 * math.log10(rms[place]) for place in audible],
    )
    return 1.0 - scores.mean()


def _resample(signal: Tensor) -> Tensor:
    return julius.resample_frac(signal, SAMPLE_RATE, OUTPUT_SAMPLE_RATE)


@dataclass(frozen=True)
class TargetLoss:
    """A weighted sum of L1 losses at one or several stages of the chain, and of one minus HAAQI.

    Raises
    ------
    ParameterError
        If a stage is unknown or named twice, or the weights do not fit.

    >>> import torch
    >>> stems = torch.randn(1, 4, 2, 22050)
    >>> loss = TargetLoss(("stems", "amplified"), (1.0, 0.5))
    >>> total, parts = loss(stems, stems, torch.zeros(1, 4), stems.sum(1), torch.ones(1, 2, 1))
    >>> float(total), sorted(parts)
    (0.0, ['amplified', 'stems'])
    """

    stages: tuple[str, ...] = ("stems",)
    weights: tuple[float, ...] | None = None  # one for each target; None: all 1
    per_stem: bool = True  # compare each stem on its own, as the paper does, or their sum; HAAQI needs the sum

    def __post_init__(self) -> None:
        """Refuse stages and weights that cannot be used."""
        _check(self.stages, TARGETS)
        if self.weights is None:
            return
        if len(self.weights) != len(self.stages):
            raise ParameterError(
                f"target_weights has {len(self.weights)} value(s) for {len(self.stages)} target(s); give one for each."
            )
        if not (all(0 <= weight < float("inf") for weight in self.weights) and any(self.weights)):
            raise ParameterError(
                f"target_weights {list(self.weights)} must not be negative, and one of them must be above 0."
            )

    def __call__(
        self,
        estimate: Tensor,
        truth: Tensor,
        gains_db: Tensor,
        mixture: Tensor,
        firs: Tensor,
        listeners: Sequence[Listener] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and that of each target before weighting; 0 for perfect stems, but for HAAQI.

        An L1 is the mean over all samples, and so over stems with equal weights.

        Shape:
            - estimate, truth: `(..., stem, channel, time)`
            - gains_db: `(..., stem)`
            - mixture: `(..., channel, time)`, of at least 0.4 s where loudness is needed
            - firs: `(..., channel, tap)`
            - listeners: whose filters these are, one for each item, which HAAQI needs; for it `...` is `batch`
        """
        parts = {}
        stages = [target for target in self.stages if target in STAGES]
        if stages:
            last = max(stages, key=STAGES.index)
            ours = stage_signals(estimate, gains_db, mixture, firs, self.per_stem, last)
            theirs = stage_signals(truth, gains_db, mixture, firs, self.per_stem, last)
            parts = {stage: (ours[stage] - theirs[stage]).abs().mean() for stage in stages}
        if "haaqi" in self.stages:
            parts["haaqi"] = haaqi_loss(estimate, truth, gains_db, mixture, firs, listeners)
        parts = {target: parts[target] for target in self.stages}
        weights = self.weights or (1.0,) * len(self.stages)
        total = estimate.new_zeros(())
        for weight, part in zip(weights, parts.values(), strict=True):
            total = total + weight * part
        return total, parts


def _check(targets: Sequence[str], known: Sequence[str]) -> None:
    unknown = [target for target in targets if target not in known]
    if unknown or not targets:
        found = f"Target {unknown[0]!r} is unknown" if unknown else "No target was given"
        raise ParameterError(f"{found}; use one or several of {', '.join(known)}.")
    if len(set(targets)) < len(targets):
        raise ParameterError(f"targets {list(targets)} names a stage twice; name each once and give it a weight.")
