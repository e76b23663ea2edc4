"""Linear bases: any fusion of a scene for the price of one weighted sum, the output stage and HAAQI.

From the models' stems to the amplified signal everything is linear in the weights of models and mixture, up to one
factor, that of the loudness normalisation. So a scene keeps the gained downmix of each model (of each model and stem
where weights are per stem) and the mixture, its bases, and a listener their amplified versions. A candidate is a
weighted sum of them. The factor follows from the inner products of the K-weighted bases in each gating block
(`loudness.block_gram`), exactly, since the power in a block is a quadratic form of the weights.

The result is that of `evaluation.enhance` and `evaluation.score` up to the rounding of float64. Resampling is left to
the output stage of each candidate: soxr's HQ filters round to about 20 bits, so that a sum of resampled bases would
fall on the other side of a 16-bit step in a few samples of a thousand, and HAAQI move by up to 1.3e-6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cadenza_lib.audio.loudness import block_gram, gated_loudness, integrated_loudness, matching_gain
from cadenza_lib.chain.fitting import Output, amplify, finish, listener_firs
from cadenza_lib.chain.fusion import ModelWeights, simplex_weights
from cadenza_lib.chain.remix import apply_gains, mixture_scale
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.listeners import Listener
from cadenza_lib.scoring.evaluation import PairReference, PairScore, reference_remix

__all__ = ["Candidate", "PairBases", "SceneBases"]


@dataclass(frozen=True)
class Candidate:
    """A fusion of models and mixture, and the level it is played at."""

    model_weights: ModelWeights  # `(model,)` or `(model, stem)`, on the simplex
    mixture_weight: float = 0.0  # share of the mixture, from 0 to 1
    output_level_db: float = 0.0  # gain before the clip; 0 is official
    clip: bool = True  # clip and round to 16 bits, as is official

    def __post_init__(self) -> None:
        """Make tuples of lists, so that candidates can be told apart."""
        object.__setattr__(self, "model_weights", as_tuples(self.model_weights))


class SceneBases:
    """The bases of a scene, and the loudness of each of their sums.

    Parameters
    ----------
    song
        The at-ear song.
    estimates
        The stems of each model, `(stem, channel, time)`.
    gains_db
        The gains of the scene, `(stem,)`.
    per_stem
        Whether candidates may have weights per model and stem, which takes a base for each.
    mixture_into
        "stems" or "downmix", see `fusion`.

    Raises
    ------
    ParameterError
        If the mixture is to go elsewhere than into stems or downmix, or there is no model.
    """

    def __init__(
        self,
        song: AtEarSong,
        estimates: Sequence[Tensor],
        gains_db: Tensor,
        per_stem: bool = False,
        mixture_into: str = "stems",
    ) -> None:
        self._mixture_scale = float(mixture_scale(gains_db, mixture_into))
        if not estimates:
            raise ParameterError("A scene needs the estimates of at least one model; none was given.")
        self.song, self.gains_db = song, gains_db
        self._models, self._stems = len(estimates), len(gains_db)
        self._per_stem = per_stem
        gained = apply_gains(torch.stack(list(estimates)), gains_db)  # (model, stem, channel, time)
        gained = gained.flatten(0, 1) if per_stem else gained.sum(1)
        self.signals = torch.cat([gained, song.mixture[None]])  # (base, channel, time) at 44.1 kHz
        self._gram = block_gram(self.signals, SAMPLE_RATE)
        self._mixture_lufs = integrated_loudness(song.mixture, SAMPLE_RATE)

    def weights(self, candidate: Candidate) -> Tensor:
        """Return the weight of each base, `(base,)`, loudness normalisation included.

        Raises
        ------
        ParameterError
            If a weight lies outside its bounds, or is per stem where bases are not.
        """
        models = simplex_weights(candidate.model_weights, self._models, self._stems)
        if not self._per_stem:
            if (models != models[:, :1]).any():
                raise ParameterError("These bases have one weight for each model; build them with per_stem.")
            models = models[:, 0]
        share = candidate.mixture_weight
        if not 0 <= share <= 1:
            raise ParameterError(f"mixture_weight {share} must lie between 0 and 1.")
        return self.normalised(models.flatten(), torch.tensor(share, dtype=torch.float64))

    def normalised(self, model_weights: Tensor, mixture_weight: Tensor) -> Tensor:
        """Return the weight of each base as `weights` does, of unchecked weights, and differentiable.

        Shape:
            - model_weights: `(base - 1,)`, float64
            - mixture_weight: `()`, float64
            - result: `(base,)`
        """
        weights = torch.cat([(1 - mixture_weight) * model_weights, (mixture_weight * self._mixture_scale)[None]])
        power = torch.einsum("n,bnm,m->b", weights, self._gram, weights)
        return weights * matching_gain(gated_loudness(power), self._mixture_lufs)


class PairBases:
    """The bases of a scene as they reach a listener, and the reference that candidates are scored against.

    Parameters
    ----------
    scene
        The bases of the scene.
    listener
        Who listens.
    name
        Id of the scene, which seeds the noise of the ear model.
    """

    def __init__(self, scene: SceneBases, listener: Listener, name: str) -> None:
        self.scene, self.listener, self._name = scene, listener, name
        self.signals = amplify(scene.signals, listener_firs(listener))  # (base, ear, time) at 44.1 kHz

    def output(self, candidate: Candidate) -> Output:
        """Return what the hearing aids play: `evaluation.enhance` of the fused stems."""
        mixed = torch.tensordot(self.scene.weights(candidate), self.signals, 1)
        return finish(mixed, candidate.output_level_db, candidate.clip)

    def score(self, candidate: Candidate) -> PairScore:
        """Return HAAQI of a candidate: `evaluation.score` of its output."""
        return self.reference.score(self.output(candidate))

    @cached_property
    def reference(self) -> PairReference:
        """What outputs are scored against."""
        return PairReference(reference_remix(self.scene.song, self.scene.gains_db), self.listener, self._name)
