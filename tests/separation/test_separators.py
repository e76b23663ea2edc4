import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from demucs.hdemucs import HDemucs
from safetensors.torch import load_file, save_file

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import AudioError, CorpusError, ModelError, ParameterError
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.runs.study import load_study
from cadenza_lib.separation import checkpoints, chunking, separators
from cadenza_lib.separation.consistent import ConsistentHDemucs, MaskedHDemucs
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.separation.registry import ARCHITECTURES
from cadenza_lib.training.finetuning import separate_segments

ARCHITECTURE = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4, "depth": 6, "nfft": 4096}
SEGMENT, OVERLAP = 40, 0.25  # samples, so that every border can be tried; the stride is then 30


def _identity(chunk: torch.Tensor) -> torch.Tensor:
    return chunk.expand(4, -1, -1)


class _Identity(torch.nn.Module):
    """A network that returns its input for every source."""

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return mixture[:, None].expand(-1, 4, -1, -1)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "random.safetensors"
    checkpoints.save_checkpoint(HDemucs(**ARCHITECTURE), path, {"architecture": "hdemucs", "arguments": ARCHITECTURE})
    return path


@pytest.mark.parametrize("length", [*range(1, 2 * SEGMENT + 3), 99, 100, 101, 129, 130, 131, 1000])
def test_no_sample_changes_at_any_length_around_every_chunk_border(length):
    signal = torch.randn(2, length, dtype=torch.float64)
    result = chunking.chunked(_identity, signal, SEGMENT, OVERLAP)
    torch.testing.assert_close(result, signal.expand(4, -1, -1), rtol=0, atol=1e-12)  # rounding of the cross-fade


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5])
def test_no_sample_changes_at_any_overlap(overlap):
    signal = torch.randn(2, 333, dtype=torch.float64)
    result = chunking.chunked(_identity, signal, SEGMENT, overlap)
    torch.testing.assert_close(result, signal.expand(4, -1, -1), rtol=0, atol=1e-12)


def test_every_chunk_has_the_length_of_a_segment():
    lengths = []

    def forward(chunk: torch.Tensor) -> torch.Tensor:
        lengths.append(chunk.shape[-1])
        return _identity(chunk)

    chunking.chunked(forward, torch.randn(2, 101), SEGMENT, OVERLAP)
    assert set(lengths) == {SEGMENT}


@pytest.mark.parametrize("duration_s", [0.5, 9.9, 10.0, 10.1, 17.5, 21.3])
def test_an_identity_network_returns_the_mixture_for_every_stem(duration_s):
    song = tiny_song(duration_s)
    separate = separators.network_separator(_Identity(), tuple(ARCHITECTURE["sources"]), torch.device("cpu"))
    torch.testing.assert_close(separate(song), song.mixture.expand(4, -1, -1), rtol=0, atol=1e-6)  # float32 inside


def test_sources_are_put_into_our_order():
    class Numbered(torch.nn.Module):
        def forward(self, mixture: torch.Tensor) -> torch.Tensor:
            return torch.arange(4.0)[None, :, None, None].expand(1, 4, *mixture.shape[1:])

    song = tiny_song()
    mono = song.mixture.mean(0)
    estimate = separators.network_separator(Numbered(), tuple(ARCHITECTURE["sources"]), torch.device("cpu"))(song)
    source = ((estimate - mono.mean()) / mono.std(correction=0))[:, 0, 0].round().int().tolist()
    assert [ARCHITECTURE["sources"][index] for index in source] == list(STEMS)


@pytest.mark.parametrize("duration_s", [2.0, 10.95, 11.0, 11.05, 13.0])
def test_official_chunking_is_that_of_the_recipe(duration_s):
    """The recipe's `separate_sources` needs torchaudio for its linear fade; here it is written out step by step."""
    signal = torch.randn(2, round(duration_s * 44100))
    length, chunk, fade = signal.shape[-1], int(44100 * 10.0 * 1.1), int(0.1 * 44100)
    expected = torch.zeros(4, 2, length)
    ramp = torch.linspace(0, 1, fade)
    out = signal[:, :chunk].clone()
    out[:, -fade:] *= 1 - ramp
    expected[..., :chunk] += out
    if length > chunk:  # start of the second chunk; its fade-out is off since its end lies beyond the signal
        start = chunk - fade
        out = signal[:, start : 2 * chunk].clone()
        out[:, :fade] *= ramp
        expected[..., start:] += out
    result = chunking.official_chunks(_identity, signal)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    if duration_s <= 11.0:
        assert not result[..., -1].any()  # the trap: the end of a short clip is lost


def test_official_chunking_is_off_by_default():
    song = tiny_song(2.0)
    sources, cpu = tuple(ARCHITECTURE["sources"]), torch.device("cpu")
    ours, official = (
        separators.network_separator(_Identity(), sources, cpu, official_chunking=mode)(song) for mode in (False, True)
    )
    assert (ours[..., -100:] - song.mixture[..., -100:]).abs().max() < 1e-6
    assert (official[..., -100:] - song.mixture[..., -100:]).abs().max() > 0.01


def test_the_oracle_returns_the_true_stems():
    song = tiny_song()
    assert torch.equal(separators.load("oracle")(song), song.stems)


def test_the_stems_of_the_mixture_system_sum_to_the_mixture():
    song = tiny_song()
    torch.testing.assert_close(separators.load("mixture")(song).sum(0), song.mixture)


def test_silence_is_separated_into_silence():
    silence = AtEarSong("silence", torch.zeros(4, 2, 44100).double(), torch.zeros(2, 44100).double())
    separate = separators.network_separator(_Identity(), tuple(ARCHITECTURE["sources"]), torch.device("cpu"))
    assert not separate(silence).any()


def test_a_network_that_gives_no_numbers_is_told():
    separate = separators.network_separator(_Identity(), tuple(ARCHITECTURE["sources"]), torch.device("cpu"))
    song = tiny_song()
    song.mixture[0, 3] = 1e300  # infinite in float32
    with pytest.raises(AudioError, match=r"What the network makes of tiny holds .* NaN or infinite"):
        separate(song)


def test_a_song_of_another_rate_is_refused():
    song = tiny_song()
    other = AtEarSong(song.name, song.stems, song.mixture, sample_rate=48000)
    separate = separators.network_separator(_Identity(), tuple(ARCHITECTURE["sources"]), torch.device("cpu"))
    with pytest.raises(AudioError, match="tiny has a rate of 48000 Hz, not 44100"):
        separate(other)


def test_a_checkpoint_gives_the_network_that_was_saved(checkpoint):
    song = tiny_song()
    torch.manual_seed(0)
    network = HDemucs(**ARCHITECTURE).eval()
    mono = song.mixture.mean(0)
    normalised = ((song.mixture - mono.mean()) / mono.std(correction=0)).float()
    with torch.inference_mode():
        expected = network(normalised[None])[0].double() * mono.std(correction=0) + mono.mean()
    expected = expected[[ARCHITECTURE["sources"].index(stem) for stem in STEMS]]
    # Half-precision weights: a relative error of 2^-11 in each, seen through six layers.
    torch.testing.assert_close(separators.load(str(checkpoint))(song), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("niter", [0, 1])
def test_an_open_unmix_checkpoint_sees_the_mixture_as_it_is(tmp_path, niter):
    arguments = {"sources": ["bass", "drums", "other", "vocals"], "hidden_size": 8, "n_fft": 1024, "hop_length": 256}
    arguments["niter"] = niter
    torch.manual_seed(0)
    network = OpenUnmix(**arguments).eval()
    path = tmp_path / "random.safetensors"
    checkpoints.save_checkpoint(network, path, {"architecture": "openunmix", "arguments": arguments})
    song = tiny_song()
    with torch.inference_mode():
        expected = network(song.mixture.float()[None])[0].double()
    expected = expected[[arguments["sources"].index(stem) for stem in STEMS]]
    estimate = separators.load(str(path), "cpu")(song)
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-3)  # half-precision weights
    assert estimate.abs().max() > 0.01


def test_a_loud_mixture_is_an_open_unmix_input_like_any_other():
    """Normalised mixtures would all have one level; what Open-Unmix hears has that of the song."""
    heard = []

    class Listening(OpenUnmix):
        def forward(self, mixture: torch.Tensor) -> torch.Tensor:
            heard.append(mixture)
            return super().forward(mixture)

    song = tiny_song()
    network = Listening(STEMS, hidden_size=4, n_fft=512, hop_length=128)
    separators.network_separator(network, STEMS, torch.device("cpu"))(song)
    assert torch.equal(heard[0][0], song.mixture.float())


def test_counters_of_a_checkpoint_keep_their_value(tmp_path):
    arguments = {"sources": list(STEMS), "hidden_size": 4, "n_fft": 512, "hop_length": 128}
    network = OpenUnmix(**arguments)
    steps = network.target_models["vocals"].bn1.num_batches_tracked
    steps.fill_(100_001)  # beyond half precision
    path = tmp_path / "long.safetensors"
    checkpoints.save_checkpoint(network, path, {"architecture": "openunmix", "arguments": arguments})
    loaded, _ = separators.load_network(str(path))
    assert loaded.target_models["vocals"].bn1.num_batches_tracked == 100_001


@pytest.mark.parametrize("name", separators.SHIPPED_MODELS)
def test_the_card_of_a_shipped_model_tells_how_to_train_it_again(name):
    card = json.loads((DATA / f"{name}.json").read_text())
    if "study" in card:
        path, point = card["study"].split(", point ")
        (finetune, *_) = load_study(DATA.parent / path).steps
        (planned,) = (planned for planned in finetune.points if planned.name == point)
        assert card["steps"] == planned.parameters["max_steps"]
        assert list(card["fine_tuning"]["targets"]) == planned.parameters["targets"]
        assert max(map(int, card["validation_loss"])) == card["steps"]
    else:
        program, script, *options = card["command"].split()
        assert program == "python"
        assert (DATA.parent / script).is_file()
        assert options[: options.index("--steps") + 2][-1] == str(card["steps"])
        assert options[options.index("--architecture") + 1] == card["architecture"]


def test_the_shipped_models_stay_small():
    sizes = [separators.checkpoint_path(name).stat().st_size for name in separators.SHIPPED_MODELS]
    assert sum(sizes) <= 60e6


@pytest.mark.parametrize("length", [1500, 44100])
@pytest.mark.parametrize("architecture", [ConsistentHDemucs, MaskedHDemucs])
def test_the_stems_of_a_consistent_network_sum_to_its_input(architecture, length):
    torch.manual_seed(0)
    network = architecture(**ARCHITECTURE).eval()
    mixture = torch.randn(2, 2, length)
    with torch.no_grad():
        stems = network(mixture)
    assert stems.shape == (2, 4, 2, length)
    torch.testing.assert_close(stems.sum(1), mixture, rtol=0, atol=1e-5)  # float32 through an FFT and back


def test_a_masked_network_has_finite_gradients_for_silence():
    torch.manual_seed(0)
    network = MaskedHDemucs(**ARCHITECTURE)
    network(torch.zeros(1, 2, 44100)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_an_unknown_separator_is_refused_with_the_known_names():
    with pytest.raises(ModelError, match=r"'spleeter' is unknown; use one of \['oracle', 'mixture', 'demo_hdemucs'"):
        separators.load("spleeter")


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.safetensors does not exist"):
        separators.load(str(tmp_path / "nothing.safetensors"))


def test_a_checkpoint_without_its_card_is_refused(checkpoint):
    checkpoint.with_suffix(".json").unlink()
    with pytest.raises(CorpusError, match=r"random\.json does not exist"):
        separators.load(str(checkpoint))


def test_a_checkpoint_of_another_shape_is_refused(checkpoint):
    card = json.loads(checkpoint.with_suffix(".json").read_text())
    card["arguments"]["channels"] = 6
    checkpoint.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(
        ModelError,
        match=r"random\.safetensors holds weights of another network.*size mismatch for.*use the random\.json",
    ):
        separators.load(str(checkpoint))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"\xff" * 100])
def test_a_damaged_checkpoint_is_refused(checkpoint, damage):
    checkpoint.write_bytes(damage)
    with pytest.raises(ModelError, match=r"random\.safetensors is not a readable safetensors file"):
        separators.load(str(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "spleeter"},
            r"architecture 'spleeter'; use one of \['hdemucs', 'hdemucs_consistent', 'hdemucs_masked', 'openunmix'\]",
        ),
        ({"arguments": {"sources": ["vocals"], "channels": 4}}, r"sources \['vocals'\]"),
        ({"arguments": {"sources": list(STEMS), "wheels": 4}}, "arguments that 'hdemucs' does not take.*wheels"),
        ({"arguments": {"sources": list(STEMS), "channels": -4}}, "arguments that 'hdemucs' does not take"),
        ({"arguments": {"sources": list(STEMS), "niter": -1}, "architecture": "openunmix"}, "niter is -1"),
        ({"arguments": None}, "does not describe a network"),
    ],
)
def test_a_wrong_card_is_refused(checkpoint, change, message):
    card = json.loads(checkpoint.with_suffix(".json").read_text()) | change
    checkpoint.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=message):
        separators.load(str(checkpoint))


def test_weights_that_are_not_a_number_are_refused(checkpoint):
    state = HDemucs(**ARCHITECTURE).state_dict()
    save_file({name: value * np.nan for name, value in state.items()}, checkpoint)
    with pytest.raises(ModelError, match=r"random\.safetensors holds NaN"):
        separators.load(str(checkpoint))


def test_an_unavailable_device_is_refused():
    with pytest.raises(ParameterError, match="Device 'abacus' is not available here"):
        separators.select_device("abacus")


def test_a_demucs_model_without_a_network_is_refused_with_its_name(monkeypatch):
    def unreachable(_):
        raise OSError("no route to host")

    monkeypatch.setattr("demucs.pretrained.get_model", unreachable)
    with pytest.raises(ModelError, match=r"could not download the model 'mdx' \(OSError\)"):
        separators.load("mdx")


def test_a_demucs_bag_is_called_with_its_own_order_of_sources(monkeypatch):
    from demucs.apply import BagOfModels

    torch.manual_seed(0)
    bag = BagOfModels([HDemucs(**ARCHITECTURE, segment=4)])
    monkeypatch.setattr("demucs.pretrained.get_model", lambda _: bag)
    song = tiny_song()
    estimate = separators.load("mdx", "cpu")(song)
    assert estimate.shape == song.stems.shape
    assert estimate.isfinite().all()


SIX = ["drums", "bass", "other", "vocals", "guitar", "piano"]  # in the order of htdemucs_6s


def test_guitar_and_piano_of_a_model_with_six_sources_join_other(monkeypatch):
    from demucs.apply import BagOfModels, apply_model

    torch.manual_seed(0)
    bag = BagOfModels([HDemucs(**{**ARCHITECTURE, "sources": SIX}, segment=4)]).eval()
    monkeypatch.setattr("demucs.pretrained.get_model", lambda _: bag)
    song = tiny_song()
    estimate = separators.load("htdemucs_6s", "cpu")(song)
    mono = song.mixture.mean(0)
    mean, deviation = mono.mean(), mono.std(correction=0)
    six = apply_model(bag, ((song.mixture - mean) / deviation).float()[None], shifts=0)[0].double()
    expected = torch.stack([six[3], six[0], six[1], six[2] + six[4] + six[5]]) * deviation + mean
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-5)
    assert six[4].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (STEMS, [1, 2, 4, 8]),
        (("drums", "bass", "other", "vocals"), [8, 1, 2, 4]),
        (SIX, [8, 1, 2, 4 + 16 + 32]),
        (("vocals", "drums", "bass", "guitar", "piano"), [1, 2, 4, 8 + 16]),  # without an other of its own
    ],
)
def test_sources_of_any_order_and_number_become_the_four_stems(sources, expected):
    estimates = 2.0 ** torch.arange(len(sources)).reshape(-1, 1, 1).expand(-1, 2, 3)
    stems = separators.sum_to_stems(estimates[None], sources)
    assert stems.shape == (1, 4, 2, 3)
    assert stems[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("architecture", ["hdemucs", "hdemucs_masked", "openunmix"])
def test_a_checkpoint_with_further_sources_separates_and_can_be_trained_on(architecture, tmp_path):
    arguments = {"sources": SIX, "hidden_size": 4, "n_fft": 512, "hop_length": 128}
    arguments = arguments if architecture == "openunmix" else {**ARCHITECTURE, "sources": SIX}
    torch.manual_seed(0)
    network, path = ARCHITECTURES[architecture].factory(**arguments), tmp_path / "six.safetensors"
    checkpoints.save_checkpoint(network, path, {"architecture": architecture, "arguments": arguments}, torch.float32)
    loaded, sources = separators.load_network(str(path))
    song = tiny_song(0.5)
    estimate = separators.network_separator(loaded, sources, torch.device("cpu"))(song)
    with torch.no_grad():
        ours = separate_segments(loaded, sources, song.mixture.float()[None])[0].double()
    torch.testing.assert_close(ours, estimate, rtol=0, atol=1e-6)
    assert estimate.shape == song.stems.shape
    if architecture == "hdemucs_masked":  # whose sources sum to the mixture; the recipe adds its mean to each stem
        expected = song.mixture + 3 * song.mixture.mean()
        torch.testing.assert_close(estimate.sum(0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "sources", [["vocals", "accompaniment"], ["vocals", "drums", "bass"], ["vocals", "drums", "bass", "bass", "other"]]
)
def test_a_network_that_cannot_give_the_four_stems_is_refused(checkpoint, sources, monkeypatch):
    card = json.loads(checkpoint.with_suffix(".json").read_text())
    card["arguments"]["sources"] = sources
    checkpoint.with_suffix(".json").write_text(json.dumps(card))
    expected = "vocals, drums and bass must be among them, and at least one more, which becomes other"
    with pytest.raises(ModelError, match=rf"random\.json separates the sources .*; {expected}"):
        separators.load(str(checkpoint))
    monkeypatch.setattr("demucs.pretrained.get_model", lambda _: SimpleNamespace(sources=sources))
    with pytest.raises(ModelError, match=rf"The model 'mdx' separates the sources .*; {expected}"):
        separators.load("mdx")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model._orig_mod.module."])
def test_a_checkpoint_is_read_whatever_compilers_and_trainers_put_before_its_names(checkpoint, prefix):
    song = tiny_song(0.5)
    expected = separators.load(str(checkpoint), "cpu")(song)
    save_file({f"{prefix}{name}": value for name, value in load_file(checkpoint).items()}, checkpoint)
    assert torch.equal(separators.load(str(checkpoint), "cpu")(song), expected)


def test_a_checkpoint_of_another_network_is_refused_in_a_short_sentence(checkpoint):
    save_file({f"student.{name}": value for name, value in load_file(checkpoint).items()}, checkpoint)
    expected = r'holds weights of another network \(Missing key.* "[^"]+" and \d+ more\); use the random\.json'
    with pytest.raises(ModelError, match=expected) as raised:
        separators.load(str(checkpoint))
    assert len(str(raised.value)) < 300 + len(str(checkpoint))


def test_a_network_without_a_checkpoint_gets_a_card_that_builds_it_again():
    card = separators.network_card("hdemucs_high_musdb", HDemucs(**ARCHITECTURE))
    again = ARCHITECTURES[card["architecture"]].factory(**card["arguments"])
    again.load_state_dict(HDemucs(**ARCHITECTURE).state_dict())
    json.dumps(card)
    with pytest.raises(ModelError, match="'mdx' cannot be trained on; start from"):
        separators.network_card("mdx", torch.nn.Identity())


def test_full_precision_is_kept_where_it_is_asked_for(tmp_path):
    network = HDemucs(**ARCHITECTURE)
    card = {"architecture": "hdemucs", "arguments": ARCHITECTURE}
    checkpoints.save_checkpoint(network, tmp_path / "full.safetensors", card, torch.float32)
    loaded, _ = separators.load_network(str(tmp_path / "full.safetensors"))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_stems_are_saved_at_their_own_level(tmp_path):
    stems = 0.25 * tiny_song(0.5).stems
    paths = separators.save_stems(stems, tmp_path)
    assert [path.name for path in paths] == [f"{stem}.flac" for stem in STEMS]
    for path, stem in zip(paths, stems, strict=True):
        samples, rate = soundfile.read(path)
        assert rate == 44100
        np.testing.assert_allclose(samples.T, stem.numpy(), rtol=0, atol=1 / 32768)


def test_a_loaded_separator_goes_to_another_process_by_its_name():
    separator, song = separators.load("demo_openunmix", "cpu"), tiny_song(0.5)
    sent = pickle.dumps(separator)
    assert len(sent) < 1000  # no weights
    assert torch.equal(pickle.loads(sent)(song), separator(song))
