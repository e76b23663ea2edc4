"""Scenes: the gain grid and the sampler against the challenge's own, and subsets of pairs."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from recipes.cad_icassp_2024.generate_dataset import generate_train_scenes as official

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.scenes import (
    GAIN_STEPS_DB,
    Pair,
    Scene,
    choose_pairs,
    gain_grid,
    head_positions,
    legacy_seed,
    sample_scene_listeners,
    sample_scenes,
    spread_scenes,
)

SONGS = ["Actions - One Minute Smile", "Ärger & Söhne", "Tiny 1", "Tiny 2", "歌"]
LISTENERS = [f"L{number:04d}" for number in (3, 57, 66, 10, 99)]


@pytest.fixture
def global_generator() -> Iterator[None]:
    """Give the global generator back as it was: the official sampler seeds it."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def official_metadata(
    root: Path, songs: list[str], listeners: list[str], scenes_per_song: int, listeners_per_scene: int
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Run the official sampler on metadata in `root`."""
    content = {
        "gains.json": gain_grid(),
        "hlp.json": {name: asdict(position) for name, position in head_positions(["VP_E1"]).items()},
        "musdb18.train.json": [{"Track Name": song} for song in songs],
        "listeners.train.json": dict.fromkeys(listeners),
    }
    for name, metadata in content.items():
        (root / name).write_text(json.dumps(metadata), encoding="utf-8")
    config = OmegaConf.create(
        {
            "path": {
                "metadata_dir": str(root),
                "gains_file": str(root / "gains.json"),
                "head_loudspeaker_positions_file": str(root / "hlp.json"),
            },
            "scene": {"number_scenes_per_song": scenes_per_song},
            "scene_listener": {"number_listeners_per_scene": listeners_per_scene},
        }
    )
    official.generate_scenes(config)
    official.generate_scene_listener(config)
    names = ("scenes.train.json", "scene_listeners.train.json")
    scenes, scene_listeners = (json.loads((root / name).read_text(encoding="utf-8")) for name in names)
    return scenes, scene_listeners


# Gains and head positions


def test_gain_grid_equals_the_challenges(cadenza_mini: Path) -> None:
    published = json.loads((cadenza_mini / "metadata" / "gains.json").read_text())
    assert list(gain_grid().items()) == list(published.items())


def test_gain_grid_counts_every_combination_of_up_to_three_stems_once() -> None:
    sets = [tuple(gains[stem] for stem in STEMS) for gains in gain_grid().values()]
    assert len(sets) == len(set(sets)) == 1 + 4 * 6 + 6 * 6**2 + 4 * 6**3
    assert sets[0] == (0, 0, 0, 0)
    assert {gain for gains in sets for gain in gains} == {0, *GAIN_STEPS_DB}
    assert max(sum(gain != 0 for gain in gains) for gains in sets) == 3


def test_head_positions_equal_those_of_the_mini_corpus(cadenza_mini: Path) -> None:
    published = json.loads((cadenza_mini / "metadata" / "head_loudspeaker_positions.json").read_text())
    ours = {name: asdict(position) for name, position in head_positions(["VP_N6"]).items()}
    assert list(ours.items()) == list(published.items())


def test_first_head_position_is_the_challenges_example() -> None:
    positions = head_positions([f"VP_E{number}" for number in range(1, 17)])
    assert len(positions) == 16 * 9
    assert asdict(positions["hlp_0001"]) == {
        "subject": "VP_E1",
        "left_angle": -37.5,
        "right_angle": 22.5,
        "mic": "BTE_fr",
    }


# The sampler


@pytest.mark.usefixtures("global_generator")
@pytest.mark.parametrize(
    ("scenes_per_song", "listeners_per_scene"),
    [(1, 1), (4, 2), (8, 2), (9, 4), (2, 5)],  # 9 takes all head positions; 5 takes all listeners
)
def test_sampler_draws_what_the_official_one_draws(
    scenes_per_song: int, listeners_per_scene: int, tmp_path: Path
) -> None:
    scenes, scene_listeners = official_metadata(tmp_path, SONGS, LISTENERS, scenes_per_song, listeners_per_scene)
    ours = sample_scenes(SONGS, gain_grid(), head_positions(["VP_E1"]), scenes_per_song)
    assert [(name, asdict(scene)) for name, scene in ours.items()] == list(scenes.items())
    assert len(ours) == len(SONGS) * scenes_per_song
    our_listeners = sample_scene_listeners(ours, LISTENERS, listeners_per_scene)
    assert list(our_listeners.items()) == list(scene_listeners.items())


def test_sampler_draws_the_scenes_of_the_mini_corpus(cadenza_mini: Path) -> None:
    def read(name: str) -> Any:
        return json.loads((cadenza_mini / "metadata" / name).read_text())

    songs = [song["Track Name"] for song in read("musdb18.train.json")]
    scenes = sample_scenes(songs, read("gains.json"), read("head_loudspeaker_positions.json"), 4)
    assert {name: asdict(scene) for name, scene in scenes.items()} == read("scenes.train.json")
    assert sample_scene_listeners(scenes, read("listeners.train.json")) == read("scene_listeners.train.json")


def test_first_scene_has_the_listeners_that_the_challenge_published(cadenza_mini: Path) -> None:
    listeners = json.loads((cadenza_mini / "metadata" / "listeners.train.json").read_text())
    assert sample_scene_listeners(["scene_10001"], listeners) == {"scene_10001": ["L0066", "L0057"]}


def test_more_scenes_per_song_keep_the_first_ones() -> None:
    def drawn(scenes_per_song: int) -> dict[str, list[Scene]]:
        scenes = sample_scenes(SONGS, gain_grid(), head_positions(["VP_E1"]), scenes_per_song).values()
        return {song: [scene for scene in scenes if scene.music == song] for song in SONGS}

    four, eight = drawn(4), drawn(8)
    for song in SONGS:
        assert eight[song][:4] == four[song]


def test_song_meets_each_gain_set_and_head_position_at_most_once() -> None:
    scenes = list(sample_scenes(["Tiny 1"], gain_grid(), head_positions(["VP_E1"]), 9).values())
    assert len({scene.gain for scene in scenes}) == 9
    assert len({scene.head_loudspeaker_positions for scene in scenes}) == 9


def test_scene_names_its_song_at_the_ears() -> None:
    assert Scene("Tiny 1", "gain_0001", "hlp_0003").at_ear_song == "Tiny 1-hlp_0003"


@pytest.mark.usefixtures("global_generator")
def test_seed_is_the_one_that_the_recipe_sets() -> None:
    for name in [*SONGS, "scene_10001"]:
        official.set_song_seed(name)
        expected = np.random.random(4)
        np.testing.assert_array_equal(np.random.RandomState(legacy_seed(name)).random_sample(4), expected)


@pytest.mark.usefixtures("global_generator")
def test_sampler_leaves_the_global_generator_alone() -> None:
    np.random.seed(1)
    expected = np.random.random(3)
    np.random.seed(1)
    scenes = sample_scenes(SONGS, gain_grid(), head_positions(["VP_E1"]))
    choose_pairs(sample_scene_listeners(scenes, LISTENERS), 3)
    np.testing.assert_array_equal(np.random.random(3), expected)


@pytest.mark.parametrize("scenes_per_song", [-1, 0, 10])
def test_number_of_scenes_out_of_bounds_is_an_error(scenes_per_song: int) -> None:
    with pytest.raises(ParameterError, match=rf"scenes_per_song {scenes_per_song} must lie .*\(1105\).*\(9\)"):
        sample_scenes(SONGS, gain_grid(), head_positions(["VP_E1"]), scenes_per_song)


@pytest.mark.parametrize("listeners_per_scene", [-1, 0, 6])
def test_number_of_listeners_out_of_bounds_is_an_error(listeners_per_scene: int) -> None:
    with pytest.raises(
        ParameterError, match=f"listeners_per_scene {listeners_per_scene} must lie between 1 and 5, the number of"
    ):
        sample_scene_listeners(["scene_10001"], LISTENERS, listeners_per_scene)


# Subsets of pairs

SCENE_LISTENERS = {f"scene_{number}": LISTENERS[number % 4 : number % 4 + 2] for number in range(10)}
ALL_PAIRS = [Pair(scene, listener) for scene, listeners in SCENE_LISTENERS.items() for listener in listeners]


@pytest.mark.parametrize("n_pairs", [0, len(ALL_PAIRS)])
def test_all_pairs_come_in_the_order_of_the_metadata(n_pairs: int) -> None:
    assert choose_pairs(SCENE_LISTENERS, n_pairs) == ALL_PAIRS


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_smaller_subset_is_contained_in_every_larger_one(seed: int) -> None:
    subsets = [choose_pairs(SCENE_LISTENERS, n_pairs, seed) for n_pairs in range(1, len(ALL_PAIRS) + 1)]
    for n_pairs, subset in enumerate(subsets, 1):
        assert len(set(subset)) == n_pairs
        assert subset == [pair for pair in ALL_PAIRS if pair in subset]  # in the order of the metadata
    for smaller, larger in itertools.pairwise(subsets):
        assert set(smaller) < set(larger)


def test_another_seed_chooses_other_pairs() -> None:
    assert len({tuple(choose_pairs(SCENE_LISTENERS, 5, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("n_scenes", "kept"), [(0, range(10)), (1, [0]), (3, [0, 3, 6]), (6, range(6)), (10, range(10))]
)
def test_scenes_are_spread_over_the_metadata(n_scenes: int, kept: Iterable[int]) -> None:
    scenes = {f"scene_{number}": Scene(f"song {number // 2}", "gain", "hlp") for number in range(10)}
    assert list(spread_scenes(scenes, n_scenes).items()) == [list(scenes.items())[number] for number in kept]


@pytest.mark.parametrize("n_scenes", [-1, 1])
def test_number_of_spread_scenes_out_of_bounds_is_an_error(n_scenes: int) -> None:
    with pytest.raises(ParameterError, match=rf"n_scenes {n_scenes} must lie between 0 \(all\) and 0"):
        spread_scenes({}, n_scenes)


@pytest.mark.parametrize("n_pairs", [-1, len(ALL_PAIRS) + 1])
def test_number_of_pairs_out_of_bounds_is_an_error(n_pairs: int) -> None:
    with pytest.raises(ParameterError, match=rf"n_pairs {n_pairs} must lie between 0 \(all\) and {len(ALL_PAIRS)}"):
        choose_pairs(SCENE_LISTENERS, n_pairs)
