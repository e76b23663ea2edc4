"""The registry of separators: every entry is complete, and code outside the package adds its own."""

import pytest
import torch
from torch import nn

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ModelError
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.separation import checkpoints, separators
from cadenza_lib.separation.estimates import cached_separator, model_identity
from cadenza_lib.separation.registry import ARCHITECTURES, SeparatorEntry, architecture_name

PLACE = {"size": "4 numbers", "source": "this test", "licence": "none needed"}


class Shares(nn.Module):
    """A tiny network of somebody else: each source is a share of the input, above a level."""

    def __init__(self, sources: list[str], floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.shares = nn.Parameter(torch.linspace(0.1, 0.4, len(sources)))

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        heard = mixture * (mixture.abs() > self.floor)
        return self.shares[:, None, None] * heard[:, None]


@pytest.mark.parametrize("table", [ARCHITECTURES, separators.SEPARATORS])
def test_every_entry_tells_its_size_source_and_licence(table):
    for name, entry in table.items():
        assert entry.normalisation in ("mono mixture", "none"), name
        assert all((entry.size, entry.source, entry.licence)), name


def test_a_separator_from_outside_the_package_separates_by_its_name(monkeypatch, tmp_path):
    entry = SeparatorEntry(lambda: (Shares(list(STEMS)), STEMS), "none", **PLACE)
    monkeypatch.setitem(separators.SEPARATORS, "shares", entry)
    song = tiny_song(0.5)
    expected = torch.linspace(0.1, 0.4, 4)[:, None, None] * song.mixture
    torch.testing.assert_close(separators.load("shares", "cpu")(song), expected, rtol=1e-6, atol=1e-8)
    cached = cached_separator("shares", tmp_path, "cpu")
    torch.testing.assert_close(cached(song), cached(song), rtol=0, atol=0)
    assert model_identity("shares") == "shares"
    assert separators.load_network("shares")[1] == STEMS


def test_a_separator_from_outside_needs_no_network(monkeypatch):
    entry = SeparatorEntry(lambda: lambda song: 2 * song.stems, "none", **PLACE)
    monkeypatch.setitem(separators.SEPARATORS, "louder", entry)
    song = tiny_song(0.5)
    assert torch.equal(separators.load("louder")(song), 2 * song.stems)
    with pytest.raises(ModelError, match="'louder' has no network; use a checkpoint"):
        separators.load_network("louder")


@pytest.mark.parametrize("normalisation", ["mono mixture", "none"])
def test_the_entry_of_an_architecture_decides_how_its_input_is_normalised(normalisation, monkeypatch, tmp_path):
    monkeypatch.setitem(ARCHITECTURES, "shares", SeparatorEntry(Shares, normalisation, **PLACE))
    arguments = {"sources": list(STEMS), "floor": 0.2}
    card = {"architecture": "shares", "arguments": arguments}
    path = tmp_path / "shares.safetensors"
    checkpoints.save_checkpoint(Shares(**arguments), path, card, torch.float32)
    network, _ = separators.load_network(str(path))
    assert architecture_name(network) == "shares"
    assert separators.network_card(str(path), network) == card
    song = tiny_song(0.5)
    mono = song.mixture.mean(0)
    mean, deviation = (mono.mean(), mono.std(correction=0)) if normalisation == "mono mixture" else (0, 1)
    heard = (song.mixture - mean) / deviation
    heard = heard * (heard.abs() > 0.2)
    expected = torch.linspace(0.1, 0.4, 4)[:, None, None] * heard * deviation + mean
    torch.testing.assert_close(separators.load(str(path), "cpu")(song), expected, rtol=1e-6, atol=1e-6)


def test_a_named_entry_normalises_as_the_architecture_of_its_network():
    for name in separators.SHIPPED_MODELS:
        network, _ = separators.load_network(name)
        architecture = architecture_name(network)
        assert separators.SEPARATORS[name].normalisation == ARCHITECTURES[architecture].normalisation
