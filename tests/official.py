"""The recipe's generator, and official network code read from its files: the packages would import torchaudio."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf
from recipes.cad_icassp_2024.generate_dataset import generate_at_mic_musdb18, generate_train_scenes

from cadenza_lib.core.conventions import SAMPLE_RATE


def simulate_officially(root: Path) -> None:
    """Let the recipe's generator write the songs of all scenes at the ears, and their metadata."""
    metadata, audio = root / "metadata", root / "audio"
    generate_at_mic_musdb18.run(
        OmegaConf.create(
            {
                "sample_rate": SAMPLE_RATE,
                "path": {
                    "scene_file": str(metadata / "scenes.train.json"),
                    "music_file": str(metadata / "musdb18.train.json"),
                    "head_loudspeaker_positions_file": str(metadata / "head_loudspeaker_positions.json"),
                    "hrtf_dir": str(audio / "hrtf"),
                    "music_dir": str(audio / "music"),
                    "output_music_dir": str(audio / "at_mic_music"),
                    "output_music_file": str(metadata / "at_mic_music.train.json"),
                },
            }
        )
    )


def draw_officially(root: Path, scenes_per_song: int = 4) -> None:
    """Let the recipe's sampler write the scenes of the training songs, and who hears them."""
    metadata = root / "metadata"
    generate_train_scenes.run(
        OmegaConf.create(
            {
                "path": {
                    "metadata_dir": str(metadata),
                    "gains_file": str(metadata / "gains.json"),
                    "head_loudspeaker_positions_file": str(metadata / "head_loudspeaker_positions.json"),
                },
                "scene": {"number_scenes_per_song": scenes_per_song},
                "scene_listener": {"number_listeners_per_scene": 2},
            }
        )
    )


def official_openunmix() -> ModuleType:
    """Return `openunmix.model`, whose transforms import torchaudio and do not use it."""
    folder = _folder("openunmix")
    package = ModuleType("openunmix")
    package.__path__ = [str(folder)]
    with _modules({"openunmix": package, "torchaudio": ModuleType("torchaudio")}):
        return _load("openunmix.model", folder / "model.py")


def official_hdemucs() -> ModuleType:
    """Return `torchaudio.models._hdemucs`, which imports nothing but torch."""
    with _modules({}):
        return _load("_hdemucs", _folder("torchaudio") / "models" / "_hdemucs.py")


def _folder(package: str) -> Path:
    try:
        return Path(str(distribution(package).locate_file(package)))
    except PackageNotFoundError:
        pytest.skip(f"the official code of {package} is not installed: pip install {package}")


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _modules(stubs: dict[str, ModuleType]) -> Iterator[None]:
    """Put stubs into `sys.modules`, and take all away again that was not there before."""
    before = dict(sys.modules)
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
        sys.modules.update(before)
