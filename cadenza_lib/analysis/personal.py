"""Personal settings: what is best for one listener's HAAQI, by gradient ascent, beside a grid and the paper's weights.

Two sets of settings. The fusion: weights of models and mixture, and the output level (`optimise_fusion`). The fitting:
the output level and a trim of the prescribed gain in each of its bands (`optimise_fitting`), an extension that is in
neither the paper nor the challenge. Both are weighted sums of fixed signals, the bases of a scene or the bands of the
prescription, up to the clip of the output stage. HAAQI's gradient comes back through the clip: samples beyond it do not
move, which is the derivative of a hard clip wherever it has one. Only the rounding to 16 bits and the ear's noise are
left out.

Settings are learned on scenes of some songs and reported, officially, on scenes of others: `compare_settings`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cadenza_lib.analysis.comparisons import compare
from cadenza_lib.audio.resampling import resample
from cadenza_lib.chain.fitting import filter_ears
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT, simplex_weights
from cadenza_lib.chain.output import output_stage
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings, at_output_rate, finish
from cadenza_lib.core.conventions import EARS, HAAQI_SAMPLE_RATE, OUTPUT_SAMPLE_RATE, SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import as_tuples, fill, read_json, write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.identity import digest
from cadenza_lib.core.paths import file_name
from cadenza_lib.data.listeners import (
    SEVERITY_CLASSES,
    Listener,
    better_ear_pta_db_hl,
    ear_audiogram,
    severity_class,
    spread_listeners,
)
from cadenza_lib.data.scenes import Pair
from cadenza_lib.haaqi.torch import ReferenceBatch
from cadenza_lib.haaqi.torch_filters import resample as resample_to_haaqi
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.pairs import PairScore
from cadenza_lib.scoring.sweep import CANDIDATE_COLUMNS, PairSet, Sweep, best_of

__all__ = [
    "MAX_TRIM_DB",
    "PersonalFitting",
    "PersonalFusion",
    "compare_settings",
    "optimise_fitting",
    "optimise_fusion",
    "score_fitting",
    "severity_table",
]

MAX_TRIM_DB = 6.0
"""Largest trim of the prescribed gain in a band, up or down."""

_RATE = 0.2  # of Adam, about what it moves a logit in a step
_LEVEL_STEP_DB = 2.0


@dataclass(frozen=True)
class PersonalFusion:
    """The best candidate met on the way, and the score at each step, without the ear's internal noise."""

    candidate: ChainSettings
    scores: list[float]


@dataclass(frozen=True)
class PersonalFitting:
    """The best fitting met on the way, and the score at each step, without the ear's internal noise."""

    output_level_db: float
    trims_db: tuple[tuple[float, float], ...]  # (band, ear), one for each frequency of the prescription
    scores: list[float]


def optimise_fusion(
    pairs: Sequence[PairBases], steps: int = 15, excerpt_s: float = 4.0, start: ChainSettings = OFFICIAL
) -> PersonalFusion:
    """Raise the mean HAAQI of a listener's scenes by gradient ascent (Adam) on weights and output level.

    It begins with equal model weights, the paper's share of the mixture, and 0 dB.

    Parameters
    ----------
    pairs
        The scenes, with one weight for each model, and the listener.
    steps
        Each costs a score with its gradient for each scene.
    excerpt_s
        Seconds from the middle of each scene that are scored, 0: all of it. Loudness is that of the whole scene.
    start
        What is not varied: prescription, place of the mixture, and output stage.

    Raises
    ------
    ParameterError
        If `steps` or `excerpt_s` is out of bounds, or there is no pair.
    AudioError
        If a reference is silent at an ear for all of the excerpt.
    """
    excerpts = [_Excerpt(pair, pair.signals, start, excerpt_s) for pair in _checked(pairs, steps, excerpt_s)]
    scenes = [pair.scene for pair in pairs]
    n_models = len(pairs[0].signals) - 1
    logits = torch.zeros(n_models, dtype=torch.float64, requires_grad=True)
    share = torch.logit(torch.tensor(MIXTURE_WEIGHT, dtype=torch.float64)).requires_grad_()
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def score(index: int) -> Tensor:
        weights = scenes[index].normalised(torch.softmax(logits, 0), torch.sigmoid(share), start.mixture_into)
        return excerpts[index].score((_factor(_level_db(level)) * weights)[:, None])

    (logits, share, level), scores = _ascend([logits, share, level], score, len(pairs), steps)
    weights = torch.softmax(logits, 0).tolist()
    candidate = replace(
        start,
        model_weights=weights,
        mixture_weight=torch.sigmoid(share).item(),
        output_level_db=_level_db(level).item(),
    )
    return PersonalFusion(candidate, scores)


def optimise_fitting(
    pairs: Sequence[PairBases], candidate: ChainSettings, steps: int = 15, excerpt_s: float = 4.0
) -> PersonalFitting:
    """Raise the mean HAAQI of a listener's scenes by gradient ascent on output level and trims of the prescription.

    An extension, not in the paper. The reference keeps the prescription as it is. Begins with 0 dB everywhere;
    arguments and errors as for `optimise_fusion`.

    Parameters
    ----------
    pairs, steps, excerpt_s
        As for `optimise_fusion`.
    candidate
        The fusion that is fitted; its own level counts as 0 dB.
    """
    checked = _checked(pairs, steps, excerpt_s)
    excerpts = [_Excerpt(pair, _bands(pair, candidate), candidate, excerpt_s) for pair in checked]
    trims = torch.zeros(len(pairs[0].prescription.frequencies), len(EARS), dtype=torch.float64, requires_grad=True)
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def score(index: int) -> Tensor:
        return excerpts[index].score(_factor(_level_db(level) + MAX_TRIM_DB * torch.tanh(trims)))

    (trims, level), scores = _ascend([trims, level], score, len(pairs), steps)
    return PersonalFitting(_level_db(level).item(), as_tuples((MAX_TRIM_DB * torch.tanh(trims)).tolist()), scores)


def score_fitting(pair: PairBases, candidate: ChainSettings, fitting: PersonalFitting) -> PairScore:
    """Return HAAQI of a fusion with a fitting, through the candidate's output stage.

    Raises
    ------
    ParameterError
        If a trim lies beyond `MAX_TRIM_DB`.
    """
    trims_db = torch.tensor(fitting.trims_db, dtype=torch.float64)
    n_bands = len(pair.prescription.frequencies)
    if trims_db.shape != (n_bands, len(EARS)) or trims_db.abs().max() > MAX_TRIM_DB:
        raise ParameterError(
            f"trims_db {fitting.trims_db} must be {n_bands} bands of two ears, each from "
            f"{-MAX_TRIM_DB:g} to {MAX_TRIM_DB:g} dB."
        )
    played = (_bands(pair, candidate) * _factor(trims_db)[..., None]).sum(0)
    return pair.reference.score(
        finish(at_output_rate(played), replace(candidate, output_level_db=fitting.output_level_db))
    )


def compare_settings(
    sweep: Sweep,
    searched: PairSet,
    held_out: PairSet,
    candidates: Sequence[ChainSettings],
    n_listeners: int,
    n_scenes: int = 2,
    steps: int = 10,
    excerpt_s: float = 3.0,
) -> pd.DataFrame:
    """Choose settings for each of some listeners on the same scenes in several ways, and score them on held-out songs.

    The ways: `fixed` (equal weights, the paper's share), `no clip` (the same with unlimited headroom), `level` (the
    same at the best level of the grid), `grid` (the best candidate), `gradient` (`optimise_fusion`) and `fitting`
    (`optimise_fitting` of `fixed`; not in the paper). What the last two find is kept in `personal/` beside the scores
    of the sweep.

    Parameters
    ----------
    sweep
        Corpus and models.
    searched, held_out
        Their scenes are heard by each listener, whoever the pairs name.
    candidates
        The grid; `fixed` at its levels is added.
    n_listeners
        How many listeners that are in both splits, spread over pure-tone averages.
    n_scenes
        How many scenes of each set, at most.
    steps, excerpt_s
        As for `optimise_fusion`.

    Returns
    -------
    pandas.DataFrame
        A row per way, listener and held-out scene: setting, severity (of the better ear), scene, listener,
        `CANDIDATE_COLUMNS` and score. Of a fitting, the trims are in its file.

    Raises
    ------
    ParameterError
        If there are fewer listeners.
    """
    held_out_listeners = sweep.split(held_out.split).listeners
    listeners = {
        name: listener for name, listener in sweep.split(searched.split).listeners.items() if name in held_out_listeners
    }
    names = spread_listeners(listeners, n_listeners)
    searched, held_out = (_crossed(pair_set, names, n_scenes) for pair_set in (searched, held_out))
    equal = (1 / sweep.n_models,) * sweep.n_models
    fixed = replace(candidates[0], model_weights=equal, mixture_weight=MIXTURE_WEIGHT, output_level_db=0.0)
    levels_db = dict.fromkeys(candidate.output_level_db for candidate in (fixed, *candidates))
    of_levels = sweep.scores([replace(fixed, output_level_db=level_db) for level_db in levels_db], searched)
    of_grid = pd.concat([of_levels, sweep.scores(candidates, searched)])
    bases = functools.cache(sweep.bases)
    tables = []
    for name in tqdm(names, desc="personal settings", unit="listener", disable=not sweep.progress):
        search, test = _only(searched, name), _only(held_out, name)
        learned = _learn(sweep, bases, listeners[name], search, test, fixed, steps, excerpt_s)
        methods = {
            "fixed": fixed,
            "no clip": replace(fixed, output_stage="none"),
            "level": best_of(of_levels[of_levels["listener"] == name]),
            "grid": best_of(of_grid[of_grid["listener"] == name]),
            "gradient": learned.candidate,
        }
        rows = [sweep.scores([candidate], test).assign(setting=method) for method, candidate in methods.items()]
        fitted: dict[str, Any] = {"score": learned.fitting_scores, "output_level_db": learned.fitting.output_level_db}
        rows.append(rows[0].assign(setting="fitting", **fitted))
        tables.append(pd.concat(rows).assign(severity=severity_class(better_ear_pta_db_hl(listeners[name]))))
    return pd.concat(tables, ignore_index=True)[
        ["setting", "severity", "scene", "listener", *CANDIDATE_COLUMNS, "score"]
    ]


def _learn(
    sweep: Sweep,
    bases: Callable[[str, str], SceneBases],
    listener: Listener,
    search: PairSet,
    test: PairSet,
    fixed: ChainSettings,
    steps: int,
    excerpt_s: float,
) -> "_Learned":
    """Return the settings learned for a listener on the pairs of `search`, from a file if they are kept there."""
    path = make_directory(sweep.out_dir / "personal") / f"{file_name(listener.id)}.json"
    pairs = [sweep.pair_identity(pair_set.split, pair) for pair_set in (search, test) for pair in pair_set.pairs]
    identity = digest(pairs, len(search.pairs), asdict(fixed), steps, excerpt_s)
    learned = _read_learned(path, identity, sweep.n_models, len(test.pairs)) if path.exists() else None
    if learned is None:
        before, after = (
            [
                PairBases(bases(pair_set.split, pair.scene), listener, pair.scene, fixed.prescription)
                for pair in pair_set.pairs
            ]
            for pair_set in (search, test)
        )
        fusion = optimise_fusion(before, steps, excerpt_s, fixed)
        fitting = optimise_fitting(before, fixed, steps, excerpt_s)
        scores = [score_fitting(pair, fixed, fitting).mean for pair in after]
        learned = _Learned(fusion.candidate, fitting, scores)
        content = {"fusion": asdict(fusion), "fitting": asdict(fitting), "fitting_scores": scores}
        write_json(path, {"identity": identity, **content})
    return learned


def severity_table(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return what `compare` gives against `fixed` for each severity class and for all, and what the clip gives back.

    Parameters
    ----------
    scores
        As from `compare_settings`.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        severity, setting, the columns of `compare`, won_back: the difference as a share of that of `no clip`.
    """
    groups = {name: scores[scores["severity"] == name] for name, _ in SEVERITY_CLASSES} | {"all": scores}
    tables = []
    for severity, group in groups.items():
        if not group.empty:
            table = compare(group, "setting", {"setting": "fixed"}, seed)
            lost = table.loc[table["setting"] == "no clip", "difference"].item()
            table["won_back"] = table["difference"] / lost
            table.insert(0, "severity", severity)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Learned:
    """What was found for a listener, as far as it is used again."""

    candidate: ChainSettings
    fitting: PersonalFitting
    fitting_scores: list[float]


def _read_learned(path: Path, identity: str, n_models: int, n_pairs: int) -> _Learned | None:
    """Read what was found for a listener; None if it was found from something else."""
    content = read_json(path)
    try:
        if content["identity"] != identity:
            return None
        candidate = fill(ChainSettings, content["fusion"]["candidate"])
        simplex_weights(candidate.model_weights, n_models, len(STEMS))
        found = _Learned(
            candidate, fill(PersonalFitting, content["fitting"]), [float(n) for n in content["fitting_scores"]]
        )
        if len(found.fitting_scores) != n_pairs:
            raise ValueError(f"it has {len(found.fitting_scores)} scores")
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(
            f"{path} does not hold what was found for a listener ({error}); move it away, and it is computed again."
        ) from error
    return found


class _Excerpt:
    """Some seconds of a pair: HAAQI of weighted sums of signals, clipped, with gradients."""

    def __init__(self, pair: PairBases, signals: Tensor, settings: ChainSettings, excerpt_s: float) -> None:
        length = signals.shape[-1]
        size = min(round(excerpt_s * SAMPLE_RATE), length) or length
        part = slice((length - size) // 2, (length + size) // 2)
        # In float32, which moves a score by less than the noise that is left out, and costs half.
        self._stage = output_stage(settings.output_stage)
        played = at_output_rate(signals[..., part])
        self._signals = played.float()
        reference = torch.stack([pair.reference.amplified(ear)[part] for ear in range(len(EARS))])
        heard = resample(reference.numpy(), SAMPLE_RATE, HAAQI_SAMPLE_RATE)
        audiograms = [ear_audiogram(pair.listener, ear) for ear in EARS]
        level1 = pair.reference.level1.tolist()
        self._reference = ReferenceBatch(torch.from_numpy(heard).float(), HAAQI_SAMPLE_RATE, audiograms, level1=level1)

    def score(self, weights: Tensor) -> Tensor:
        """Return the mean of both ears for weights `(basis, ear)`, or `(basis, 1)`."""
        mixed = self._stage.limit((weights[..., None].float() * self._signals).sum(0))
        return self._reference.score(resample_to_haaqi(mixed, OUTPUT_SAMPLE_RATE)).mean()


def _ascend(
    parameters: list[Tensor], score: Callable[[int], Tensor], n_pairs: int, steps: int
) -> tuple[list[Tensor], list[float]]:
    """Return the best parameters met, and the mean score of the pairs before each step."""
    optimiser = torch.optim.Adam(parameters, lr=_RATE)
    best, scores = parameters, list[float]()
    for _ in range(steps):
        optimiser.zero_grad()
        total = 0.0
        for index in range(n_pairs):  # one after the other, which keeps memory to that of one pair
            part = score(index) / n_pairs
            (-part).backward()
            total += part.item()
        if total > max(scores, default=-1.0):
            best = [parameter.detach().clone() for parameter in parameters]
        scores.append(total)
        optimiser.step()
    return best, scores


def _checked(pairs: Sequence[PairBases], steps: int, excerpt_s: float) -> Sequence[PairBases]:
    if not pairs or steps < 1 or excerpt_s < 0:
        raise ParameterError(
            f"There are {len(pairs)} pairs, {steps} steps and excerpts of {excerpt_s} s: give at least one pair, one "
            f"step, and 0 s (all) or more."
        )
    return pairs


def _level_db(level: Tensor) -> Tensor:
    return level * (_LEVEL_STEP_DB / _RATE)


def _factor(gain_db: Tensor) -> Tensor:
    return 10 ** (gain_db / 20)


def _bands(pair: PairBases, candidate: ChainSettings) -> Tensor:
    """Return a fusion through each band of the prescription, `(band, ear, time)`, at the level of the candidate."""
    mixed = torch.tensordot(pair.scene.weights(candidate), pair.scene.signals, 1)
    return filter_ears(mixed, pair.prescription.band_firs(pair.listener)) * 10 ** (candidate.output_level_db / 20)


def _crossed(pair_set: PairSet, listeners: Sequence[str], n_scenes: int) -> PairSet:
    """Return a set in which each listener hears each of the first scenes."""
    scenes = list(dict.fromkeys(pair.scene for pair in pair_set.pairs))[:n_scenes]
    return replace(pair_set, pairs=tuple(Pair(scene, name) for scene in scenes for name in listeners))


def _only(pair_set: PairSet, listener: str) -> PairSet:
    return replace(pair_set, pairs=tuple(pair for pair in pair_set.pairs if pair.listener == listener))
