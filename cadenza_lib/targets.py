"""Multi-target losses: L1 between estimated and true stems at any stage of the chain (section 2.3 of the paper).

The stages are those of enhancement, carried out by the very functions that enhancement uses: `stems` (as separated, at
the ears), `gained` (after the scene's gains), `downmix` (their sum), `normalised` (the downmix at the loudness of the
at-ear mixture) and `amplified` (after the listener's NAL-R filters). The output stage is none of them: its clip and
its rounding have no useful gradient.

The paper computes the L1 of vocals, drums, bass and other separately and averages the four with equal weights. Since
every stage is linear in the stems but for one loudness gain, each stem can be carried through it on its own:
`per_stem`. The gain is measured once per side, on the downmix of all four, for estimate and truth each on their own.
Otherwise the sums of the four are compared, as the listener would hear them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.errors import ParameterError
from cadenza_lib.fitting import amplify
from cadenza_lib.loudness import loudness_matching_gain
from cadenza_lib.remix import apply_gains, downmix, normalise_loudness

__all__ = ["STAGES", "TargetLoss", "stage_signals"]

STAGES = ("stems", "gained", "downmix", "normalised", "amplified")
"""The stages of the chain that can be training targets, in their order."""


def stage_signals(
    stems: Tensor,
    gains_db: Tensor,
    mixture: Tensor,
    firs: Tensor,
    per_stem: bool = True,
    last: str = STAGES[-1],
    sample_rate: int = SAMPLE_RATE,
) -> dict[str, Tensor]:
    """Return stems, estimated or true, at each stage of the chain up to the last that is wanted.

    With `per_stem`, the stem's share of the signal at the stage: at `downmix`, which only sums, that is the gained
    stem. Without, the sum of the four at the stage: at `stems` with no gains applied, and at `gained` the downmix.

    Parameters
    ----------
    stems
        At the ears.
    gains_db
        Gains of the scene.
    mixture
        At the ears; its loudness is what the downmix is brought to. It is not the sum of the stems.
    firs
        NAL-R filters of the listener, as from `fitting.listener_firs`.
    per_stem
        Whether the stems stay apart.
    last
        The last stage that is computed.
    sample_rate
        Of stems and mixture in Hz.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`
        - mixture: `(..., channel, time)`
        - firs: `(..., channel, tap)`
        - result: each `(..., stem, channel, time)`, or `(..., channel, time)` without `per_stem`;
          `amplified` is longer by `tap - 1`

    Raises
    ------
    ParameterError
        If there is no stage called `last`.

    >>> import torch
    >>> stems = torch.randn(4, 2, 22050)
    >>> firs = torch.ones(2, 1)
    >>> signals = stage_signals(stems, torch.zeros(4), stems.sum(0), firs)
    >>> torch.allclose(signals["amplified"], stems, atol=1e-5)  # nothing to change: gains 0 dB, loudness right
    True
    """
    _check_stages([last])
    wanted = STAGES[: STAGES.index(last) + 1]
    signals = {"stems": stems if per_stem else downmix(stems)}
    if "gained" in wanted:
        gained = apply_gains(stems, gains_db)
        mixed = downmix(gained)
        signals["gained"] = signals["downmix"] = gained if per_stem else mixed
    if "normalised" in wanted:
        if per_stem:
            gain = loudness_matching_gain(mixed, mixture, sample_rate)  # (..., 1, 1)
            signals["normalised"] = gained * gain.unsqueeze(-3)
        else:
            signals["normalised"] = normalise_loudness(mixed, mixture, sample_rate)
    if "amplified" in wanted:
        signals["amplified"] = amplify(signals["normalised"], firs.unsqueeze(-3) if per_stem else firs)
    return signals


@dataclass(frozen=True)
class TargetLoss:
    """A weighted sum of L1 losses at one or several stages of the chain.

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
    weights: tuple[float, ...] | None = None  # one for each stage; None: all 1
    per_stem: bool = True  # compare each stem on its own, as the paper does, or their sum

    def __post_init__(self) -> None:
        """Refuse stages and weights that cannot be used."""
        _check_stages(self.stages)
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
        self, estimate: Tensor, truth: Tensor, gains_db: Tensor, mixture: Tensor, firs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the L1 at each stage before weighting; 0 for perfect stems.

        The L1 is the mean over all samples, and so over stems with equal weights.

        Shape:
            - estimate, truth: `(..., stem, channel, time)`
            - gains_db: `(..., stem)`
            - mixture: `(..., channel, time)`, of at least 0.4 s where loudness is needed
            - firs: `(..., channel, tap)`
        """
        last = max(self.stages, key=STAGES.index)
        ours = stage_signals(estimate, gains_db, mixture, firs, self.per_stem, last)
        theirs = stage_signals(truth, gains_db, mixture, firs, self.per_stem, last)
        parts = {stage: (ours[stage] - theirs[stage]).abs().mean() for stage in self.stages}
        weights = self.weights or (1.0,) * len(self.stages)
        total = estimate.new_zeros(())
        for weight, part in zip(weights, parts.values(), strict=True):
            total = total + weight * part
        return total, parts


def _check_stages(stages: Sequence[str]) -> None:
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        found = f"Target {unknown[0]!r} is unknown" if unknown else "No target was given"
        raise ParameterError(f"{found}; use one or several of {', '.join(STAGES)}.")
    if len(set(stages)) < len(stages):
        raise ParameterError(f"targets {list(stages)} names a stage twice; name each once and give it a weight.")
