"""The search for the best fusion of some models, with Optuna's tree-structured Parzen estimator.

A search keeps no file of its own. It depends on its seed and the scores alone, and the sweep keeps every score. So a
search that was stopped is simply begun again: it proposes the same candidates and scores nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cadenza_lib.chain.pipeline import MAX_LEVEL_DB, OFFICIAL, ChainSettings
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.scoring.sweep import PairSet, Sweep

__all__ = ["Space", "search"]

BATCH = 8
"""Trials that the optimiser proposes at a time: a scene's bases are then built once for all of them."""


@dataclass(frozen=True)
class Space:
    """What the optimiser varies."""

    n_models: int
    max_mixture_weight: float = 0.5
    output_level_db: tuple[float, float] = (0.0, 0.0)  # lowest and highest gain before the clip; equal: not varied
    per_stem: bool = False  # model weights for each stem
    n_stems: int = 4
    base: ChainSettings = OFFICIAL  # what is not varied

    def __post_init__(self) -> None:
        """Refuse bounds that cannot be used."""
        low, high = self.output_level_db
        if not (
            self.n_models >= 1 and 0 <= self.max_mixture_weight <= 1 and -MAX_LEVEL_DB <= low <= high <= MAX_LEVEL_DB
        ):
            raise ParameterError(
                f"A search needs max_mixture_weight from 0 to 1 and a lowest level that is not above the highest, both "
                f"from -{MAX_LEVEL_DB:g} to {MAX_LEVEL_DB:g} dB, and a model; it has {self.max_mixture_weight}, {low} "
                f"to {high} dB and {self.n_models}."
            )

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the bounds of each number that is varied."""
        sets = range(self.n_stems if self.per_stem else 1)
        sticks = [f"stick_{number}_{index}" for number in sets for index in range(self.n_models - 1)]
        bounds = dict.fromkeys(sticks, (0.0, 1.0))
        bounds["mixture_weight"] = (0.0, self.max_mixture_weight)
        bounds["output_level_db"] = self.output_level_db
        return {name: (low, high) for name, (low, high) in bounds.items() if low < high}

    def candidate(self, values: Mapping[str, float]) -> ChainSettings:
        """Return the candidate that a trial's numbers stand for.

        Weights on the simplex come from breaking a stick: the first model takes `1 - u^(1/(K-1))` of it, and so on, so
        that uniform numbers give uniform weights.
        """
        sets = []
        for number in range(self.n_stems if self.per_stem else 1):
            left, weights = 1.0, []
            for index in range(self.n_models - 1):
                kept = values[f"stick_{number}_{index}"] ** (1 / (self.n_models - 1 - index))
                weights.append(left * (1 - kept))
                left *= kept
            sets.append((*weights, left))
        model_weights = tuple(zip(*sets, strict=True)) if self.per_stem else sets[0]
        level = values.get("output_level_db", self.output_level_db[0])
        share = values.get("mixture_weight", 0.0)
        return replace(self.base, model_weights=model_weights, mixture_weight=share, output_level_db=level)

    def values(self, candidate: ChainSettings) -> dict[str, float]:
        """Return the numbers that stand for a candidate, moved into the bounds; the inverse of `candidate`."""
        weights = np.array(candidate.model_weights, dtype=float).reshape(self.n_models, -1)
        weights = np.broadcast_to(weights, (self.n_models, self.n_stems))
        values = {"mixture_weight": candidate.mixture_weight, "output_level_db": candidate.output_level_db}
        for number, column in enumerate(weights.T):
            left = np.cumsum(column[::-1])[::-1]  # what the first models leave
            for index in range(self.n_models - 1):
                kept = left[index + 1] / left[index] if left[index] > 0 else 0.0
                values[f"stick_{number}_{index}"] = float(kept ** (self.n_models - 1 - index))
        return {name: float(np.clip(values[name], low, high)) for name, (low, high) in self.bounds().items()}


def search(
    sweep: Sweep, on: PairSet, space: Space, n_trials: int, seed: int = 0, start: ChainSettings | None = None
) -> list[ChainSettings]:
    """Return the candidates that a search for the highest mean HAAQI tries, in their order.

    The optimiser is Optuna's tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for hyper-parameter
    optimization", NeurIPS 2011). A search that was stopped at any moment tries the same candidates as an unbroken one,
    and one with more trials begins with those of one with fewer, as long as `seed`, `space` and `start` stay the same
    (and Optuna's version).

    Parameters
    ----------
    sweep
        Where candidates are scored.
    on
        The pairs to search on.
    space
        What is varied.
    n_trials
        Number of candidates to try, counted over all calls.
    seed
        Of the optimiser.
    start
        Candidate to try first, such as the best of a grid.

    Raises
    ------
    ParameterError
        If there is no trial to make.
    """
    if n_trials < 1:
        raise ParameterError(f"n_trials {n_trials} must be at least 1.")
    import optuna  # slow to import

    # Numbers are drawn one by one and from finished trials alone, so that the size of a batch does not change them.
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=False)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the new study
    study = optuna.create_study(direction="maximize", sampler=sampler)
    optuna.logging.set_verbosity(verbosity)
    if start is not None:
        study.enqueue_trial(space.values(start))
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(low, high) for name, (low, high) in space.bounds().items()
    }
    candidates: list[ChainSettings] = []
    while len(candidates) < n_trials:
        trials = [study.ask(distributions) for _ in range(min(BATCH, n_trials - len(candidates)))]
        batch = [space.candidate(trial.params) for trial in trials]
        scores = sweep.scores(batch, on)["score"].to_numpy().reshape(len(batch), -1)
        for trial, score in zip(trials, scores.mean(axis=1), strict=True):
            study.tell(trial, float(score))
        candidates += batch
    return candidates
