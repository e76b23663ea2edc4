"""Pretrained weights: files of the real formats with random weights, served on this machine."""

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from demucs.hdemucs import HDemucs
from official import official_hdemucs

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ModelError, ParameterError
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.separation import downloads, pretrained, separators
from cadenza_lib.separation.openunmix import OpenUnmix

SOURCES = ["drums", "bass", "other", "vocals"]
SMALL_HDEMUCS = {"sources": SOURCES, "channels": 4, "nfft": 4096, "depth": 6}
SMALL_HIDDEN_SIZE = 8
FULL_HDEMUCS = pretrained._TORCHAUDIO_ARGUMENTS  # before a fixture makes it small
BASELINE_FILE = "hdemucs_high_musdbhq_only.pt"


class _Handler(BaseHTTPRequestHandler):
    """Serve files as they are, or cut the connection in the middle of one."""

    def __init__(self, *arguments, server_state: "Server") -> None:
        self.state = server_state
        super().__init__(*arguments)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.state.requests.append(name)
        if name not in self.state.files:
            self.send_error(404)
            return
        content = self.state.files[name]
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        if start and start >= len(content):
            self.send_error(416)
            return
        if start and self.state.ranges:
            content = content[start:]
            self.send_response(206)
        else:
            start = 0
            self.send_response(200)
        self.state.starts.append(start)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.state.cut else content)

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """What the server has, which of it is cut short, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []
        self.starts: list[int] = []  # the first byte of each answer
        self.ranges = True


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Point torch.hub to an empty directory, and make the networks small."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_TORCHAUDIO_ARGUMENTS", SMALL_HDEMUCS)
    monkeypatch.setattr(pretrained, "_UMXHQ_HIDDEN_SIZE", SMALL_HIDDEN_SIZE)
    return tmp_path / "hub"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, server_state=state))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    for name in ("TORCHAUDIO_URL", "UMXHQ_URL"):
        monkeypatch.setattr(pretrained, name, f"http://127.0.0.1:{http.server_port}/files")
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(scope="module")
def official_network() -> torch.nn.Module:
    """Return a small Hybrid Demucs by torchaudio's code, in which every parameter counts."""
    torch.manual_seed(0)
    network = official_hdemucs().HDemucs(SOURCES, channels=SMALL_HDEMUCS["channels"]).eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network


@pytest.fixture
def baseline_bytes(official_network, tmp_path) -> bytes:
    return _saved(official_network.state_dict(), tmp_path)


@pytest.fixture
def umxhq(server, monkeypatch, tmp_path) -> OpenUnmix:
    """Serve the four files of a random network, with the extra entries of the real ones and true checksums."""
    torch.manual_seed(0)
    network = OpenUnmix(STEMS, SMALL_HIDDEN_SIZE).eval()
    names = {}
    for stem in STEMS:
        window = torch.hann_window(4096)
        old = {"stft.window": window, "transform.0.window": window, "sample_rate": torch.tensor(44100.0)}
        content = _saved(network.target_models[stem].state_dict() | old, tmp_path)
        names[stem] = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        server.files[names[stem]] = content
    monkeypatch.setattr(pretrained, "UMXHQ_FILES", names)
    return network


def _saved(state: dict[str, torch.Tensor], folder: Path) -> bytes:
    path = folder / "state.pt"
    torch.save(state, path)
    content = path.read_bytes()
    path.unlink()
    return content


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


class _RunsCode:
    """A pickle of it would make a directory when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.exact
def test_torchaudios_hybrid_demucs_is_that_of_demucs_under_other_names(official_network):
    ours = HDemucs(**SMALL_HDEMUCS).eval()
    ours.load_state_dict(pretrained.rename_torchaudio_hdemucs(official_network.state_dict()))  # strictly
    mixture = 0.1 * torch.randn(1, 2, 2 * 44100, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, estimate = official_network(mixture), ours(mixture)
    assert "torchaudio" not in sys.modules
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-5)


def test_the_baseline_has_the_architecture_of_torchaudios_pipeline():
    with torch.device("meta"):  # shapes without memory: 83 million parameters
        theirs = official_hdemucs().hdemucs_high(SOURCES).state_dict()
        ours = HDemucs(**FULL_HDEMUCS).state_dict()
    renamed = pretrained.rename_torchaudio_hdemucs(theirs)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in ours.items()}


def test_torchaudios_baseline_is_downloaded_once_and_separates(server, cache, baseline_bytes, official_network, caplog):
    server.files[BASELINE_FILE] = baseline_bytes
    song = tiny_song()
    separate = separators.load("hdemucs_high_musdb", "cpu")
    separators.load("hdemucs_high_musdb", "cpu")
    assert server.requests == [BASELINE_FILE]
    assert _files(cache) == [BASELINE_FILE]
    assert (cache / "torchaudio" / "models" / BASELINE_FILE).is_file()  # where torchaudio would look for it
    assert "rules" not in caplog.text
    mono = song.mixture.mean(0)
    normalised = ((song.mixture - mono.mean()) / mono.std(correction=0)).float()
    with torch.inference_mode():
        expected = official_network(normalised[None])[0].double() * mono.std(correction=0) + mono.mean()
    expected = expected[[SOURCES.index(stem) for stem in STEMS]]
    torch.testing.assert_close(separate(song), expected, rtol=0, atol=1e-5)


def test_a_file_of_torchaudio_is_loaded_by_its_path(cache, tmp_path, baseline_bytes):
    path = tmp_path / "my weights.pt"
    path.write_bytes(baseline_bytes)
    estimate = separators.load(str(path), "cpu")(tiny_song())
    assert estimate.shape == (4, 2, 44100)
    assert not cache.exists()


def test_umxhq_is_downloaded_once_and_sees_the_mixture_as_it_is(server, cache, umxhq):
    song = tiny_song()
    separate = separators.load("umxhq", "cpu")
    separators.load("umxhq", "cpu")
    assert sorted(server.requests) == sorted(pretrained.UMXHQ_FILES.values())
    assert _files(cache) == sorted(pretrained.UMXHQ_FILES.values())
    with torch.inference_mode():
        expected = umxhq(song.mixture.float()[None])[0].double()
    torch.testing.assert_close(separate(song), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("umxhq")
def test_a_download_that_stopped_between_two_files_goes_on_with_the_rest(server, cache):
    drums = pretrained.UMXHQ_FILES["drums"]
    content = server.files.pop(drums)
    with pytest.raises(ModelError, match="404"):
        separators.load("umxhq")
    server.files[drums] = content
    server.requests.clear()
    separators.load("umxhq")
    assert pretrained.UMXHQ_FILES["vocals"] not in server.requests
    assert server.requests[0] == drums
    assert len(_files(cache)) == 4


@pytest.mark.parametrize("name", ["hdemucs_high_musdb", "umxhq"])
@pytest.mark.usefixtures("server")
def test_a_file_that_the_server_does_not_have_ends_in_one_sentence(cache, name):
    with pytest.raises(ModelError, match=r"could not be downloaded from http.*404.*put the file into .*hub.* by hand"):
        separators.load(name)
    assert _files(cache) == []


@pytest.mark.parametrize("name", ["hdemucs_high_musdb", "umxhq"])
@pytest.mark.usefixtures("umxhq")
def test_a_cut_connection_leaves_no_weights_and_the_next_try_goes_on_where_it_ended(
    server, cache, baseline_bytes, name
):
    server.files[BASELINE_FILE] = baseline_bytes
    server.cut = set(server.files)
    with pytest.raises(ModelError, match=r"could not be downloaded.*connection ended after \d+ of \d+ bytes"):
        separators.load(name)
    (part,) = _files(cache)
    assert part.endswith(".part")
    half = len(server.files[part.removesuffix(".part")]) // 2
    server.cut.clear()
    separators.load(name)
    assert server.starts[:2] == [0, half]
    assert not [file for file in _files(cache) if file.endswith(".part")]


def test_a_server_that_only_sends_whole_files_is_asked_again(server, cache, baseline_bytes):
    server.files[BASELINE_FILE] = baseline_bytes
    server.cut, server.ranges = {BASELINE_FILE}, False
    with pytest.raises(ModelError):
        separators.load("hdemucs_high_musdb")
    server.cut.clear()
    separators.load("hdemucs_high_musdb")
    assert (cache / "torchaudio" / "models" / BASELINE_FILE).read_bytes() == baseline_bytes


@pytest.mark.parametrize("rest", [b"", b"and more"])
def test_a_part_as_long_as_the_file_or_longer_begins_anew(server, cache, baseline_bytes, rest):
    server.files[BASELINE_FILE] = baseline_bytes
    folder = cache / "torchaudio" / "models"
    folder.mkdir(parents=True)
    (folder / f"{BASELINE_FILE}.part").write_bytes(bytes(len(baseline_bytes)) + rest)
    separators.load("hdemucs_high_musdb")
    assert (folder / BASELINE_FILE).read_bytes() == baseline_bytes
    assert _files(cache) == [BASELINE_FILE]


@pytest.mark.usefixtures("umxhq")
def test_a_part_of_another_file_is_refused_and_removed(cache):
    name = pretrained.UMXHQ_FILES["vocals"]
    folder = cache / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"{name}.part").write_bytes(bytes(1000))
    with pytest.raises(ModelError, match=f"{name} could not be downloaded.*SHA-256"):
        separators.load("umxhq")
    assert _files(cache) == []
    separators.load("umxhq")


def test_two_downloads_of_one_file_at_the_same_time_load_it_once(server, cache, baseline_bytes):
    server.files[BASELINE_FILE] = baseline_bytes
    with ThreadPoolExecutor(4) as pool:
        networks = list(pool.map(separators.load, ["hdemucs_high_musdb"] * 4))
    assert len(networks) == 4
    assert server.requests == [BASELINE_FILE]
    assert _files(cache) == [BASELINE_FILE]


@pytest.mark.usefixtures("umxhq")
def test_a_wrong_checksum_is_refused_and_leaves_nothing_behind(server, cache):
    vocals, drums = (pretrained.UMXHQ_FILES[stem] for stem in ("vocals", "drums"))
    server.files[vocals] = server.files[drums]  # a whole file of the right kind, but another
    with pytest.raises(ModelError, match=rf"{vocals} could not be downloaded.*SHA-256 does not begin"):
        separators.load("umxhq")
    assert _files(cache) == []


@pytest.mark.parametrize(("name", "file"), [("hdemucs_high_musdb", BASELINE_FILE), ("umxhq", "vocals-b62c91ce.pth")])
def test_without_a_network_the_error_says_which_file_to_put_where(cache, monkeypatch, name, file):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(downloads, "urlopen", unreachable)
    with pytest.raises(ModelError) as raised:
        separators.load(name)
    message = str(raised.value)
    assert message.startswith(f"{file} could not be downloaded from https://")
    assert "Network is unreachable" in message
    assert str(cache) in message
    assert "\n" not in message
    assert _files(cache) == []


def test_a_closed_port_is_no_network(cache, monkeypatch):
    monkeypatch.setattr(pretrained, "TORCHAUDIO_URL", "http://127.0.0.1:9/models")
    with pytest.raises(ModelError, match="Connection refused"):
        separators.load("hdemucs_high_musdb")
    assert _files(cache) == []


def test_a_file_put_there_by_hand_is_used_without_a_network(cache, baseline_bytes):
    folder = cache / "torchaudio" / "models"
    folder.mkdir(parents=True)
    (folder / BASELINE_FILE).write_bytes(baseline_bytes)
    assert separators.load("hdemucs_high_musdb", "cpu")(tiny_song()).isfinite().all()


@pytest.mark.usefixtures("umxhq")
def test_a_damaged_file_in_the_cache_is_refused_by_its_checksum(cache):
    separators.load("umxhq")
    path = cache / "checkpoints" / pretrained.UMXHQ_FILES["bass"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{path.name} cannot be used \(its SHA-256 does not begin with") as raised:
        separators.load("umxhq")
    assert str(raised.value).endswith("move it away, and it is downloaded again.")


def test_a_cache_that_cannot_be_written_is_refused(cache):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the directory should be")
    with pytest.raises(ParameterError, match=r"hub.*cannot be written"):
        separators.load("hdemucs_high_musdb")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"freq_encoder.0.conv.weight": _RunsCode(trace)}, path)
    with pytest.raises(ModelError, match=r"evil\.pt cannot be used.*would run code"):
        separators.load(str(path))
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"\x80\x04", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "weights.pt"
    path.write_bytes(damage)
    with pytest.raises(ModelError, match=r"weights\.pt cannot be used \(it is .*damaged"):
        separators.load(str(path))


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("state_dict", ""),
        ("state_dict", "model."),
        ("model_state_dict", "module."),
        ("model", "_orig_mod."),
        ("state", ""),
    ],
)
def test_a_checkpoint_as_trainers_wrap_it_is_read(tmp_path, official_network, key, prefix):
    state = official_network.state_dict()
    torch.save(state, tmp_path / "plain.pt")
    wrapped = {key: {f"{prefix}{name}": value for name, value in state.items()}, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(wrapped, tmp_path / "mine.pt")
    plain, _ = separators.load_network(str(tmp_path / "plain.pt"))
    mine, sources = separators.load_network(str(tmp_path / "mine.pt"))
    assert list(sources) == SOURCES
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in mine.state_dict().items())


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, [1, 2]])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match="it is not a dictionary of tensors, nor has one as state_dict") as raised:
        separators.load(str(path))
    assert str(raised.value).endswith("copy it again, or save its weights alone.")


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(OpenUnmix(STEMS, SMALL_HIDDEN_SIZE).state_dict(), path)
    expected = r"weights\.pt holds weights of another network .* and \d+ more.*hdemucs_high_musdbhq_only"
    with pytest.raises(ModelError, match=expected) as raised:
        separators.load(str(path))
    assert len(str(raised.value)) < 300 + len(str(path))


def test_weights_that_are_not_a_number_are_refused(tmp_path, official_network):
    path = tmp_path / "weights.pt"
    torch.save({name: value * float("nan") for name, value in official_network.state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"weights\.pt holds NaN or infinite weights"):
        separators.load(str(path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.pt does not exist"):
        separators.load(str(tmp_path / "nothing.pt"))


def test_a_model_that_has_seen_excluded_data_says_so(server, baseline_bytes, caplog):
    server.files["hdemucs_high_trained.pt"] = baseline_bytes
    with caplog.at_level(logging.WARNING):
        separators.load("hdemucs_high_musdb_plus", "cpu")
    assert "hdemucs_high_trained.pt has been trained on data that the challenge's rules exclude" in caplog.text


@pytest.mark.parametrize(("name", "warns"), [("hdemucs_mmi", True), ("mdx_extra", True), ("mdx", False)])
def test_demucs_models_outside_the_rules_say_so(monkeypatch, caplog, name, warns):
    from demucs.apply import BagOfModels

    monkeypatch.setattr("demucs.pretrained.get_model", lambda _: BagOfModels([HDemucs(**SMALL_HDEMUCS, segment=4)]))
    with caplog.at_level(logging.WARNING):
        separators.load(name, "cpu")
    assert (f"{name} has been trained on data that the challenge's rules exclude" in caplog.text) is warns
