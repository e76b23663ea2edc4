"""The search for the best fusion: on functions with a known maximum, and stopped at any moment."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring import optimiser
from cadenza_lib.scoring.optimiser import Space, search
from cadenza_lib.scoring.sweep import PairSet, Sweep, search_and_test, simplex_grid


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(tiny_corpus(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def pairs(corpus):
    return search_and_test(Corpus(corpus), "train", "train", 0, 0)[0]


@pytest.fixture(autouse=True)
def scored(quick_score):
    """Score quickly in all tests of this file."""
    return quick_score


@pytest.mark.parametrize("per_stem", [False, True])
def test_uniform_numbers_stand_for_uniform_weights_and_back(per_stem):
    space = Space(3, 0.5, (-6.0, 0.0), per_stem)
    generator = np.random.default_rng(0)
    draws = [{name: generator.uniform(*bounds) for name, bounds in space.bounds().items()} for _ in range(2000)]
    candidates = [space.candidate(draw) for draw in draws]
    weights = np.array([candidate.model_weights for candidate in candidates]).reshape(len(draws), 3, -1)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    # Each coordinate of a uniform point of this simplex is Beta(1, 2): mean 1/3, variance 1/18; 5 standard errors.
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=5 * np.sqrt(1 / 18 / len(draws)))
    np.testing.assert_allclose(weights.var(0), 1 / 18, atol=0.007)
    for draw, candidate in zip(draws[:50], candidates[:50], strict=True):
        assert space.values(candidate) == pytest.approx(draw, abs=1e-9)


@pytest.mark.parametrize("corner", simplex_grid(3, 2))
def test_borders_of_the_simplex_are_found_again(corner):
    space = Space(3)
    assert space.candidate(
        space.values(ChainSettings(model_weights=corner, mixture_weight=0.1))
    ).model_weights == pytest.approx(corner)


class _Stub:
    """A sweep whose score is a known function with its maximum inside: what it finds can be checked."""

    BEST = ChainSettings(model_weights=(0.2, 0.5, 0.3), mixture_weight=0.15, output_level_db=-4.0)

    def __init__(self, stop_after=None):
        self.stop_after = stop_after

    def scores(self, candidates, on):
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                raise KeyboardInterrupt
        rows = [self.value(candidate) for candidate in candidates for _ in on.pairs]
        return pd.DataFrame({"score": rows})

    def value(self, candidate):
        distance = np.subtract(candidate.model_weights, self.BEST.model_weights) ** 2
        return float(1 - distance.sum() - (candidate.mixture_weight - 0.15) ** 2 - (candidate.output_level_db + 4) ** 2)


PAIRS = PairSet("search", "valid", ("a", "b"))
SPACE = Space(3, 0.5, (-12.0, 0.0))


def test_the_search_comes_nearer_to_the_maximum_of_a_known_function_than_chance():
    stub, generator = _Stub(), np.random.default_rng(0)
    tried = search(stub, PAIRS, SPACE, 24)
    draws = [{name: generator.uniform(*bounds) for name, bounds in SPACE.bounds().items()} for _ in range(24)]
    assert len(tried) == 24
    assert max(map(stub.value, tried)) > max(stub.value(SPACE.candidate(draw)) for draw in draws)
    assert max(map(stub.value, tried)) > 0.8  # the maximum is 1


def test_the_search_begins_with_the_candidate_it_is_given():
    start = ChainSettings(model_weights=(0.25, 0.25, 0.5), mixture_weight=0.15, output_level_db=-3.0)
    first = search(_Stub(), PAIRS, SPACE, 3, start=start)[0]
    assert first.model_weights == pytest.approx(start.model_weights)
    assert (first.mixture_weight, first.output_level_db) == (0.15, -3.0)


N_TRIALS = 14  # the first ten are drawn at random by Optuna's default, those after them by their results


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(optimiser, "BATCH", 4)


@pytest.fixture(scope="module")
def unbroken():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimiser, "BATCH", 4)
        return search(_Stub(), PAIRS, SPACE, N_TRIALS, seed=3)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("where", ["scoring", "asking", "telling"])
def test_a_search_stopped_at_any_moment_tries_the_candidates_of_an_unbroken_one(where, unbroken, monkeypatch):
    import optuna

    with monkeypatch.context() as patch:
        if where != "scoring":
            kind, name, moment = {
                "asking": (optuna.Study, "ask", 12),
                "telling": (optuna.Study, "tell", 13),
            }[where]
            original, counter = getattr(kind, name), itertools.count()

            def stop(self, *arguments, **options):
                if next(counter) == moment:
                    raise KeyboardInterrupt
                return original(self, *arguments, **options)

            patch.setattr(kind, name, stop)
        with pytest.raises(KeyboardInterrupt):
            search(_Stub(3 if where == "scoring" else None), PAIRS, SPACE, N_TRIALS, seed=3)
    assert search(_Stub(), PAIRS, SPACE, N_TRIALS, seed=3) == unbroken


@pytest.mark.usefixtures("small_batches")
def test_a_search_with_fewer_trials_is_the_beginning_of_a_longer_one(unbroken):
    for n_trials in (1, 5, 13):
        assert search(_Stub(), PAIRS, SPACE, n_trials, seed=3) == unbroken[:n_trials]


def test_another_search_is_not_mixed_in(corpus, pairs, tmp_path):
    fresh = search(Sweep(corpus, ["oracle", "mixture"], tmp_path / "fresh", progress=False), pairs, Space(2), 2, seed=5)
    scorer = Sweep(corpus, ["oracle", "mixture"], tmp_path / "used", progress=False)
    assert search(scorer, pairs, Space(2), 2, seed=0) != fresh
    assert search(scorer, pairs, Space(2), 2, seed=5) == fresh


@pytest.mark.filterwarnings("error")
def test_a_search_that_goes_on_scores_nothing_twice_and_prints_nothing(corpus, pairs, scored, tmp_path, capfd):
    tried = search(Sweep(corpus, ["oracle", "mixture"], tmp_path, progress=False), pairs, Space(2), 4)
    assert len(scored) == 4 * len(pairs.pairs)
    assert search(Sweep(corpus, ["oracle", "mixture"], tmp_path, progress=False), pairs, Space(2), 5)[:4] == tried
    assert len(scored) == 5 * len(pairs.pairs)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bounds", [{"max_mixture_weight": 1.5}, {"output_level_db": (0.0, -6.0)}])
def test_a_space_without_sense_is_refused(bounds):
    with pytest.raises(ParameterError, match="A search needs max_mixture_weight from 0 to 1 and a lowest level"):
        Space(2, **bounds)


@pytest.mark.parametrize("n_trials", [0, -1])
def test_a_search_without_trials_is_an_error(n_trials):
    with pytest.raises(ParameterError, match=f"n_trials {n_trials} must be at least 1"):
        search(_Stub(), PAIRS, SPACE, n_trials)
