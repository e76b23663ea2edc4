"""Linear bases: any fusion of a scene for the price of one weighted sum, the output stage and HAAQI.

From the models' stems to the amplified signal everything is linear in the weights of models and mixture, up to one
factor, that of the loudness normalisation. So a scene keeps the gained downmix of each model (of each model and stem
where weights are per stem) and the mixture, its bases, and a listener their amplified versions. A candidate is a
weighted sum of them. The factor follows from the inner products of the K-weighted bases in each gating block
(`loudness.block_gram`), exactly, since the power in a block is a quadratic form of the weights.

The result is that of `pipeline.enhance` and `pairs.score` up to the rounding of float64. Resampling is left to
the output stage of each candidate: soxr's HQ filters round to about 20 bits, so that a sum of resampled bases would
fall on the other side of a 16-bit step in a few samples of a thousand, and HAAQI move by up to 1.3e-6.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from cadenza_lib.audio.loudness import block_gram, gated_loudness, integrated_loudness, matching_gain
from cadenza_lib.chain.fitting import linear_prescription
from cadenza_lib.chain.fusion import post_filter, simplex_weights
from cadenza_lib.chain.output import Output
from cadenza_lib.chain.pipeline import ChainSettings, at_output_rate, finish, reference_remix
from cadenza_lib.chain.remix import apply_gains, mixture_scale
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.listeners import Listener
from cadenza_lib.scoring.pairs import PairReference, PairScore, references

__all__ = ["PairBases", "SceneBases"]


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
    wiener_exponent
        Of all candidates: that of `fusion.post_filter`.

    Raises
    ------
    ParameterError
        If there is no model.
    """

    def __init__(
        self,
        song: AtEarSong,
        estimates: Sequence[Tensor],
        gains_db: Tensor,
        per_stem: bool = False,
        wiener_exponent: float = 0.0,
    ) -> None:
        if not estimates:
            raise ParameterError("A scene needs the estimates of at least one model; none was given.")
        self.song, self.gains_db = song, gains_db
        self._models, self._stems = len(estimates), len(gains_db)
        self._per_stem, self._wiener_exponent = per_stem, wiener_exponent
        filtered = [post_filter(stems, song.mixture, wiener_exponent) for stems in estimates]
        gained = apply_gains(torch.stack(filtered), gains_db)  # (model, stem, channel, time)
        gained = gained.flatten(0, 1) if per_stem else gained.sum(1)
        self.signals = torch.cat([gained, song.mixture[None]])  # (base, channel, time) at 44.1 kHz
        self._gram = block_gram(self.signals, SAMPLE_RATE)
        self._mixture_lufs = integrated_loudness(song.mixture, SAMPLE_RATE)

    def weights(self, candidate: ChainSettings) -> Tensor:
        """Return the weight of each base, `(base,)`, loudness normalisation included.

        Raises
        ------
        ParameterError
            If weights do not fit the models, or are per stem where bases are not, or the stems were filtered otherwise.
        """
        if candidate.wiener_exponent != self._wiener_exponent:
            raise ParameterError(
                f"These bases have wiener_exponent {self._wiener_exponent}, not {candidate.wiener_exponent}."
            )
        models = simplex_weights(candidate.model_weights, self._models, self._stems)
        if not self._per_stem:
            if (models != models[:, :1]).any():
                raise ParameterError("These bases have one weight for each model; build them with per_stem.")
            models = models[:, 0]
        share = torch.tensor(candidate.mixture_weight, dtype=torch.float64)
        return self.normalised(models.flatten(), share, candidate.mixture_into)

    def normalised(self, model_weights: Tensor, mixture_weight: Tensor, mixture_into: str) -> Tensor:
        """Return the weight of each base as `weights` does, of unchecked weights, and differentiable.

        Shape:
            - model_weights: `(base - 1,)`, float64
            - mixture_weight: `()`, float64
            - result: `(base,)`
        """
        scale = float(mixture_scale(self.gains_db, mixture_into))
        weights = torch.cat([(1 - mixture_weight) * model_weights, (mixture_weight * scale)[None]])
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
    prescription
        Of all candidates; it must be linear.

    Raises
    ------
    ParameterError
        If the prescription is unknown or not linear.
    """

    def __init__(self, scene: SceneBases, listener: Listener, name: str, prescription: str = "nal_r") -> None:
        self.scene, self.listener, self._name = scene, listener, name
        self.prescription = linear_prescription(prescription, "that of linear bases")
        self.signals = self.prescription.amplify(scene.signals, listener)  # (base, ear, time) at 44.1 kHz

    def output(self, candidate: ChainSettings) -> Output:
        """Return what the hearing aids play: `pipeline.enhance` of the models' stems."""
        if candidate.prescription != self.prescription.name:
            raise ParameterError(
                f"These bases are amplified by {self.prescription.name!r}, not {candidate.prescription!r}."
            )
        mixed = torch.tensordot(self.scene.weights(candidate), self.signals, 1)
        return finish(at_output_rate(mixed), self.listener, candidate)

    def score(self, candidate: ChainSettings) -> PairScore:
        """Return HAAQI of a candidate: `pairs.score` of its output."""
        output = self.output(candidate)
        return self.reference(candidate).score(output)

    @cached_property
    def reference(self) -> Callable[[ChainSettings], PairReference]:
        """What gives the reference that a candidate is scored against; see `pairs.references`."""
        return references(reference_remix(self.scene.song, self.scene.gains_db), self.listener, self._name)
