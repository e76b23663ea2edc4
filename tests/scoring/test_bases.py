from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from cadenza_lib.chain.output import Output, save_output
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_listener, tiny_song
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation.separators import load

HAAQI_TOLERANCE = 1e-6  # of the fast path to the full one through the FLAC file
ROUNDING = 1e-6  # of the peak: the file without a clip holds float32
BIT = 2.0**-15

PER_STEM = ((0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1), (0.5, 0.5, 0.5, 0.5))
CANDIDATES = {
    "no mixture": ChainSettings(model_weights=(0.5, 0.3, 0.2)),
    "the paper's weight": ChainSettings(model_weights=(0.0, 1.0, 0.0), mixture_weight=0.15),
    "the mixture alone, softer": ChainSettings(model_weights=(0.2, 0.2, 0.6), mixture_weight=1.0, output_level_db=-6.0),
    "masks": ChainSettings(model_weights=(0.5, 0.3, 0.2), mixture_weight=0.1, wiener_exponent=1.5),
    "per stem": ChainSettings(model_weights=PER_STEM, mixture_weight=0.3, output_level_db=3.0),
}


@pytest.fixture(scope="module", params=["twin", "cadenza_mini"])
def case(request):
    """Return two seconds of a scene, three separations of them, its gains, and who listens."""
    corpus = open_corpus("twin" if request.param == "twin" else request.getfixturevalue(request.param))
    split = corpus.split(corpus.splits[-1])
    pair = choose_pairs(split.scene_listeners)[0]
    song = corpus.at_ear_song(split, split.scenes[pair.scene])
    song = replace(song, stems=song.stems[..., :88200], mixture=song.mixture[..., :88200])
    estimates = [load(name, "cpu")(song) for name in ("demo_hdemucs", "demo_openunmix")]
    estimates.append(0.6 * song.stems + 0.4 * load("mixture")(song))
    return song, estimates, corpus.gains_db(split.scenes[pair.scene]), split.listeners[pair.listener], pair.scene


def _through_the_file(case, candidate, folder) -> Output:
    """Enhance by the whole chain, write the file, and read it back with another library."""
    song, estimates, gains_db, listener, _ = case
    output = enhance(song, estimates, gains_db, listener, candidate)
    samples, _ = soundfile.read(save_output(output, folder / "x"), dtype="float32")
    return Output(np.ascontiguousarray(samples.T), output.clipped_share, output.is_16_bit)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in CANDIDATES),
        ("per stem", {"mixture_into": "downmix"}),
        ("no mixture", {"prescription": "camfit_linear", "output_stage": "soft_clip"}),
        ("no mixture", {"output_stage": "compressor", "output_level_db": -3.0, "reference": "same"}),
    ],
)
def test_the_fast_path_scores_what_the_file_scores(case, name, changes, tmp_path):
    song, estimates, gains_db, listener, scene = case
    candidate = replace(CANDIDATES[name], **changes)
    scene_bases = SceneBases(song, estimates, gains_db, name == "per stem", candidate.wiener_exponent)
    bases = PairBases(scene_bases, listener, scene, candidate.prescription)
    expected = _through_the_file(case, candidate, tmp_path)
    ours = bases.output(candidate)
    assert np.abs(ours.signal - expected.signal).max() <= BIT  # rounding may fall on the other side of a step
    assert np.mean(ours.signal != expected.signal) < 1e-4
    full = score(expected, reference_remix(song, gains_db), listener, scene, candidate)
    fast = bases.score(candidate)
    np.testing.assert_allclose(fast.haaqi, full.haaqi, rtol=0, atol=HAAQI_TOLERANCE)
    np.testing.assert_allclose(fast.clipped_share, full.clipped_share, rtol=0, atol=1e-4)


def test_without_the_clip_the_fast_path_is_the_full_one_up_to_rounding(case, tmp_path):
    song, estimates, gains_db, listener, scene = case
    candidate = replace(CANDIDATES["no mixture"], output_stage="none")
    ours = PairBases(SceneBases(song, estimates, gains_db), listener, scene).output(candidate)
    expected = _through_the_file(case, candidate, tmp_path)
    np.testing.assert_allclose(ours.signal, expected.signal, rtol=0, atol=ROUNDING * np.abs(expected.signal).max())


def test_the_mixture_and_a_model_that_is_the_truth_are_the_bounds_of_every_sweep():
    song, listener, gains_db = tiny_song(), tiny_listener(), torch.tensor([6.0, -10.0, 0.0, 3.0])
    bases = PairBases(SceneBases(song, [song.stems], gains_db), listener, "scene_1")
    for weight, system in ((0.0, "oracle"), (1.0, "mixture")):
        expected = enhance(song, [load(system)(song)], gains_db, listener, ChainSettings(output_stage="none"))
        ours = bases.output(ChainSettings(model_weights=(1.0,), mixture_weight=weight, output_stage="none"))
        np.testing.assert_allclose(ours.signal, expected.signal, rtol=0, atol=ROUNDING * np.abs(expected.signal).max())


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"model_weights": (1.0,)}, "1 values for 2 models"),
        ({"model_weights": (0.5, 0.6)}, "must have the sum 1"),
        ({"mixture_weight": 1.5}, r"mixture_weight 1\.5 must lie between 0 and 1"),
        ({"wiener_exponent": 5.0}, r"wiener_exponent 5\.0 must lie between 0 and 4"),
        ({"wiener_exponent": 1.5}, r"These bases have wiener_exponent 0\.0, not 1\.5"),
        ({"output_level_db": 90.0}, r"output_level_db 90\.0 must lie between -60 and 60"),
        ({"mixture_into": "ears"}, "mixture_into 'ears' is unknown; use one of stems, downmix"),
        ({"prescription": "none"}, "amplified by 'nal_r', not 'none'"),
        ({"output_stage": "louder"}, "output_stage 'louder' is unknown"),
        ({"model_weights": ((1.0, 0.0, 1.0, 1.0), (0.0, 1.0, 0.0, 0.0))}, "build them with per_stem"),
    ],
)
def test_a_candidate_out_of_bounds_is_refused(candidate, message):
    song = tiny_song()
    bases = PairBases(SceneBases(song, [song.stems, song.stems], torch.zeros(4)), tiny_listener(), "scene_1")
    with pytest.raises(ParameterError, match=message):
        bases.output(ChainSettings(**candidate))
