import shutil

import pytest
import torch
from torch import Tensor

from cadenza_lib.core.errors import ModelError
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.separation import estimates
from cadenza_lib.separation.estimates import cached_separator, model_identity


@pytest.fixture
def separations(monkeypatch):
    """Replace networks by halves of the true stems, and count how often one is loaded and used."""
    counts = {"load": 0, "separate": 0}

    def load(*_):
        counts["load"] += 1

        def separate(song) -> Tensor:
            counts["separate"] += 1
            return song.stems / 3  # which float32 does not hold exactly

        return separate

    monkeypatch.setattr(estimates, "load", load)
    return counts


def test_a_song_is_separated_once_and_later_read_without_loading_the_network(separations, tmp_path):
    song = tiny_song()
    first = cached_separator("umxhq", tmp_path)(song)
    assert separations == {"load": 1, "separate": 1}
    again = cached_separator("umxhq", tmp_path)(song)
    assert separations == {"load": 1, "separate": 1}
    assert torch.equal(first, again)  # also the first call gives what was stored
    assert first.dtype == torch.float64
    torch.testing.assert_close(first, song.stems / 3, rtol=2**-24, atol=0)  # float32 keeps 24 bits


@pytest.mark.parametrize("what", ["signal", "model"])
def test_another_signal_or_model_is_another_entry(what, separations, tmp_path):
    cached_separator("umxhq", tmp_path)(tiny_song())
    if what == "signal":
        cached_separator("umxhq", tmp_path)(tiny_song(seed=1))
    else:
        cached_separator("mdx", tmp_path)(tiny_song())
    assert separations["separate"] == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda _: b"", lambda _: b"something else"])
def test_a_torn_or_changed_entry_is_noticed_and_made_again(damage, separations, tmp_path):
    song = tiny_song()
    expected = cached_separator("umxhq", tmp_path)(song)
    (entry,) = tmp_path.glob("*.safetensors")
    entry.write_bytes(damage(entry.read_bytes()))
    for _ in range(2):
        assert torch.equal(cached_separator("umxhq", tmp_path)(song), expected)
    assert separations["separate"] == 2  # once before, once to repair it
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]  # nothing half-written is left


def test_a_model_is_known_by_the_content_of_its_checkpoint_not_by_its_place(tmp_path):
    for suffix in (".safetensors", ".json"):
        shutil.copy(DATA / f"demo_openunmix{suffix}", tmp_path / f"copy{suffix}")
    copy = tmp_path / "copy.safetensors"
    assert model_identity(str(copy)) == model_identity("demo_openunmix")
    copy.write_bytes(_flip(copy.read_bytes()))
    assert model_identity(str(copy)) != model_identity("demo_openunmix")
    assert model_identity("mdx_extra") == "mdx_extra"


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.safetensors does not exist; check the path"):
        cached_separator(str(tmp_path / "gone.safetensors"), tmp_path)


def test_bounds_are_not_cached(tmp_path):
    song = tiny_song()
    assert torch.equal(cached_separator("oracle", tmp_path)(song), song.stems)
    assert not list(tmp_path.iterdir())
