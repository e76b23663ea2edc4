"""Personal fusion: what the gradient finds, the official chain and metric confirm."""

import pytest
import torch

from cadenza_lib import evaluation
from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.demo import tiny_listener, tiny_song
from cadenza_lib.errors import AudioError, ParameterError
from cadenza_lib.fitting import amplify, finish, listener_firs, resample
from cadenza_lib.fusion import fuse
from cadenza_lib.haaqi.ear import SAMPLE_RATE as HAAQI_SAMPLE_RATE
from cadenza_lib.listeners import EARS, ear_audiogram
from cadenza_lib.loudness import loudness_matching_gain
from cadenza_lib.personal import optimise_fusion
from cadenza_lib.remix import apply_gains, downmix, remix

GAINS_DB = torch.tensor([6.0, -6.0, 0.0, 3.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def scene():
    """A song, two models' stems (one of them is mostly noise), the listener, and what `optimise_fusion` needs."""
    song, listener = tiny_song(1.0), tiny_listener()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(song.stems.shape, generator=generator, dtype=torch.float64) * song.stems.std()
    leaked = 0.8 * song.stems + 0.1 * song.mixture
    estimates = [leaked + 0.5 * noise, leaked]
    mixtures = song.mixture.expand_as(song.stems)
    downmixes = torch.stack([downmix(apply_gains(stems, GAINS_DB)) for stems in (*estimates, mixtures)])
    reference = evaluation.reference_remix(song, GAINS_DB)
    firs = listener_firs(listener)
    arguments = {
        "bases": torch.from_numpy(resample(amplify(downmixes, firs).numpy(), SAMPLE_RATE, 32000)),
        "reference": torch.from_numpy(resample(amplify(reference, firs).numpy(), SAMPLE_RATE, HAAQI_SAMPLE_RATE)),
        "audiograms": [ear_audiogram(listener, ear) for ear in EARS],
        "level1": (65 - 20 * torch.log10(reference.square().mean(-1).sqrt())).tolist(),
        "scale": lambda weights: loudness_matching_gain(
            torch.tensordot(weights, downmixes, 1), song.mixture, SAMPLE_RATE
        ).squeeze(),
    }

    def official(model_weights: list[float], mixture_weight: float, output_level_db: float) -> float:
        fused = fuse(estimates, song.mixture, model_weights, mixture_weight)
        output = finish(amplify(remix(fused, GAINS_DB, song.mixture), firs), output_level_db)
        return evaluation.score(output, reference, listener, "scene_10001").mean

    return arguments, official


def test_personal_settings_raise_the_official_score(scene):
    arguments, official = scene
    found = optimise_fusion(**arguments, steps=8)
    before = official([0.5, 0.5], 0.15, 0.0)
    after = official(found.model_weights, found.mixture_weight, found.output_level_db)
    # The same chain but for 16 bits and the ear's noise, which these steady tones feel more than music (8e-3).
    assert found.scores[0] == pytest.approx(before, abs=0.02)
    assert found.score == pytest.approx(after, abs=0.02)
    assert after > before + 0.05
    assert found.model_weights[1] > 0.6  # away from the noise
    assert sum(found.model_weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("error", "text", "changed"),
    [
        (AudioError, "do not fit", {"bases": torch.zeros(1, 2, 32000)}),
        (AudioError, "do not fit", {"reference": torch.zeros(24000)}),
        (ParameterError, "mixture_weight 1", {"mixture_weight": 1}),
        (ParameterError, "steps is 0", {"steps": 0}),
    ],
)
def test_wrong_arguments_are_errors(scene, error, text, changed):
    with pytest.raises(error, match=text):
        optimise_fusion(**{**scene[0], **changed})
