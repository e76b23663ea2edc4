import numpy as np
import pytest
import torch
from clarity.enhancer.nalr import NALR
from recipes.cad_icassp_2024.baseline import evaluate as recipe
from signals import ten_kinds

from cadenza_lib.chain.fitting import PRESCRIPTIONS
from cadenza_lib.chain.pipeline import STAGES, enhance, remix, stage_signals
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.listeners import ear_audiogram
from cadenza_lib.data.tiny import tiny_listener, tiny_song
from cadenza_lib.scoring.pairs import score
from cadenza_lib.training.targets import TargetLoss

RECIPE = 1e-6  # what the targets must equal the recipe to
GAINS_DB = {"vocals": 6, "drums": -10, "bass": 3, "other": 0}


def _gains() -> torch.Tensor:
    return torch.tensor([GAINS_DB[stem] for stem in STEMS], dtype=torch.float64)


def _scene(duration_s: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return estimated stems, true stems and a mixture that is not their sum."""
    kinds = ten_kinds(duration_s)
    truth = torch.stack([kinds["music"], kinds["white noise"], kinds["low tone"], kinds["half silent"]])
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=truth.shape))
    return 0.8 * truth + 0.02 * noise, truth, 1.3 * truth.sum(0)


def _recipe_signals(stems: torch.Tensor, mixture: torch.Tensor, stage: str, per_stem: bool) -> np.ndarray:
    """Return a stage by the official functions, `(stem, time, channel)` or `(time, channel)`."""
    signals = {name: stem.numpy().T.copy() for name, stem in zip(STEMS, stems, strict=True)}
    if stage != "stems":
        signals = recipe.apply_gains(signals, 44100, GAINS_DB)
    if stage in ("normalised", "amplified"):
        total = sum(signals.values())
        remix = recipe.remix_stems(signals, mixture.numpy().T, 44100)
        scale = np.sum(remix * total) / np.sum(total**2)  # the one gain that the recipe has applied to the sum
        signals = {name: scale * signal for name, signal in signals.items()}
        np.testing.assert_allclose(sum(signals.values()), remix, rtol=0, atol=1e-12)
    if stage == "amplified":
        enhancer = NALR(nfir=220, sample_rate=44100)
        audiograms = [ear_audiogram(tiny_listener(), ear) for ear in EARS]
        signals = {
            name: np.stack(
                [recipe.apply_ha(enhancer, None, signal[:, ear], audiograms[ear]) for ear in range(2)], axis=-1
            )
            for name, signal in signals.items()
        }
    return np.stack(list(signals.values())) if per_stem else sum(signals.values())


@pytest.mark.exact
@pytest.mark.parametrize("per_stem", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_equals_the_l1_of_the_recipes_signals(stage, per_stem):
    estimate, truth, mixture = _scene()
    ours, parts = TargetLoss((stage,), per_stem=per_stem)(
        estimate, truth, _gains(), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener())
    )
    difference = _recipe_signals(estimate, mixture, stage, per_stem) - _recipe_signals(truth, mixture, stage, per_stem)
    expected = np.mean([np.abs(part).mean() for part in (difference if per_stem else [difference])])
    assert expected > 1e-3
    assert ours.item() == pytest.approx(expected, abs=RECIPE)
    assert parts[stage].item() == ours.item()


@pytest.mark.parametrize("per_stem", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_perfect_stems_have_no_loss(stage, per_stem):
    _, truth, mixture = _scene()
    loss, _ = TargetLoss((stage,), per_stem=per_stem)(
        truth.clone(), truth, _gains(), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener())
    )
    assert loss.item() == 0


def test_stems_of_the_last_stages_sum_to_the_signal_of_the_sum():
    estimate, _, mixture = _scene()
    apart, together = (
        stage_signals(estimate, _gains(), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener()), per_stem)
        for per_stem in (True, False)
    )
    for stage in STAGES:
        torch.testing.assert_close(apart[stage].sum(0), together[stage], rtol=0, atol=1e-9)


def test_errors_that_cancel_in_the_sum_are_seen_only_per_stem():
    _, truth, mixture = _scene()
    estimate = truth.clone()
    estimate[0] += 0.1
    estimate[1] -= 0.1
    arguments = (estimate, truth, torch.zeros(4), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener()))
    assert TargetLoss(("downmix",), per_stem=True)(*arguments)[0].item() == pytest.approx(0.05)  # 0.1 in two of four
    assert TargetLoss(("downmix",), per_stem=False)(*arguments)[0].item() < 1e-12


def test_targets_are_combined_with_their_weights():
    estimate, truth, mixture = _scene()
    arguments = (estimate, truth, _gains(), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener()))
    total, parts = TargetLoss(("amplified", "stems"), (0.25, 2.0))(*arguments)
    alone = {stage: TargetLoss((stage,))(*arguments)[0] for stage in ("stems", "amplified")}
    assert parts == alone
    assert total.item() == pytest.approx(0.25 * alone["amplified"].item() + 2 * alone["stems"].item())


def test_a_batch_has_the_mean_loss_of_its_items_each_with_its_own_listener():
    (estimate, truth, mixture), other = _scene(), tiny_song(2.0)
    firs = torch.stack(
        [PRESCRIPTIONS["nal_r"].firs(tiny_listener()), PRESCRIPTIONS["nal_r"].firs(tiny_listener()).flip(0)]
    )
    gains_db = torch.stack([_gains(), -_gains()])
    estimates = torch.stack([estimate, 0.5 * other.stems])
    truths, mixtures = torch.stack([truth, other.stems]), torch.stack([mixture, other.mixture])
    loss = TargetLoss(("amplified",))
    single = [loss(estimates[i], truths[i], gains_db[i], mixtures[i], firs[i])[0].item() for i in range(2)]
    assert loss(estimates, truths, gains_db, mixtures, firs)[0].item() == pytest.approx(np.mean(single))


@pytest.mark.parametrize("silent", ["a true stem", "an estimated stem", "the estimate", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_there_is_silence(silent, dtype):
    estimate, truth, mixture = (signal.to(dtype) for signal in _scene(0.5))
    if silent == "a true stem":
        truth[0] = 0
    elif silent == "an estimated stem":
        estimate[0] = 0
    else:
        estimate[:] = 0
    if silent == "everything":
        truth[:], mixture[:] = 0, 0
    estimate.requires_grad_()
    loss, _ = TargetLoss(STAGES)(estimate, truth, _gains(), mixture, PRESCRIPTIONS["nal_r"].firs(tiny_listener()))
    loss.backward()
    assert loss.isfinite()
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("per_stem", [True, False])
def test_the_gradient_is_that_of_finite_differences(stage, per_stem):
    estimate, truth, mixture = _scene(0.5)
    estimate.requires_grad_()
    loss, firs = TargetLoss((stage,), per_stem=per_stem), PRESCRIPTIONS["nal_r"].firs(tiny_listener())
    loss(estimate, truth, _gains(), mixture, firs)[0].backward()
    direction = estimate.grad.sign()  # the steepest, so that the kinks of the L1 matter little
    with torch.no_grad():
        step = 1e-7
        up, down = (
            loss(estimate + sign * step * direction, truth, _gains(), mixture, firs)[0].item() for sign in (1, -1)
        )
    slope = (estimate.grad * direction).sum().item()
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-9)


def _batch(duration_s: float = 1.0) -> dict[str, object]:
    """Return what a loss takes beside the estimate: one item."""
    _, truth, mixture = (signal[None].float() for signal in _scene(duration_s))
    firs = PRESCRIPTIONS["nal_r"].firs(tiny_listener())[None].float()
    return {
        "truth": truth,
        "gains_db": _gains()[None].float(),
        "mixture": mixture,
        "firs": firs,
        "listeners": [tiny_listener()],
    }


def test_the_haaqi_target_is_one_minus_the_score_of_the_evaluation():
    """Apart from the noise of the ear model, which moves a score by up to 2e-3, and the resampling."""
    batch = _batch(2.0)
    estimate = 0.5 * batch["truth"] + 0.5 * batch["mixture"][:, None] / 4
    loss, parts = TargetLoss(("haaqi",))(estimate, **batch)
    song = AtEarSong("song", batch["truth"][0].double(), batch["mixture"][0].double())
    output = enhance(song, [estimate[0].double()], _gains(), tiny_listener())
    reference = remix(batch["truth"][0].double(), _gains(), batch["mixture"][0].double())
    official = score(output, reference, tiny_listener(), "scene_10001").mean
    assert 0.2 < official < 0.9
    assert loss.item() == parts["haaqi"].item() == pytest.approx(1 - official, abs=4e-3)


def test_a_step_against_the_gradient_of_the_haaqi_target_raises_haaqi():
    batch = _batch()
    estimate = (0.7 * batch["truth"] + 0.1 * batch["mixture"][:, None]).requires_grad_()
    loss = TargetLoss(("haaqi",))
    before, _ = loss(estimate, **batch)
    before.backward()
    with torch.no_grad():
        step = 1e-3 * estimate.square().mean().sqrt() / estimate.grad.square().mean().sqrt()
        after, _ = loss(estimate - step * estimate.grad, **batch)
    assert after < before
    predicted = step * estimate.grad.square().sum()
    assert (before - after).item() == pytest.approx(predicted.item(), rel=0.3)  # a step is not infinitely small


def test_the_haaqi_target_leaves_out_what_is_silent():
    batch = _batch()
    silent = {**batch, "truth": 0 * batch["truth"]}
    estimate = batch["truth"].clone().requires_grad_()
    loss, _ = TargetLoss(("stems", "haaqi"))(estimate, **silent)
    loss.backward()
    assert loss.item() == estimate.abs().mean().item()
    assert estimate.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stages": ("stems", "enhanced")}, "Target 'enhanced' is unknown; use one or several of stems, gained"),
        ({"stages": ()}, "No target was given"),
        ({"stages": ("stems", "stems")}, "names a stage twice"),
        ({"stages": ("stems",), "weights": (1.0, 2.0)}, r"has 2 value\(s\) for 1 target"),
        ({"stages": ("stems",), "weights": (-1.0,)}, "must not be negative"),
        ({"stages": ("stems",), "weights": (0.0,)}, "one of them must be above 0"),
        ({"stages": ("stems",), "weights": (float("nan"),)}, "must not be negative"),
    ],
)
def test_unusable_targets_are_refused(arguments, sentence):
    with pytest.raises(ParameterError, match=sentence):
        TargetLoss(**arguments)
