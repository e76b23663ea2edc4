import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from demucs.hdemucs import HDemucs
from safetensors.torch import load_file

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import CadenzaError, CorpusError, ModelError, ParameterError
from cadenza_lib.data.tiny import tiny_corpus, tiny_song
from cadenza_lib.separation import checkpoints, separators
from cadenza_lib.separation.registry import ARCHITECTURES
from cadenza_lib.training import finetuning as module
from cadenza_lib.training.files import Config, read_metrics, read_result
from cadenza_lib.training.finetuning import finetune, separate_segments
from cadenza_lib.training.launch import connect

ARCHITECTURE = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4, "nfft": 4096, "depth": 6}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    checkpoints.save_checkpoint(
        HDemucs(**ARCHITECTURE),
        root / "random.safetensors",
        {"architecture": "hdemucs", "arguments": ARCHITECTURE},
        torch.float32,
    )
    return Config(
        corpus=str(tiny_corpus(root / "tiny")),
        valid_split="train",
        init=str(root / "random.safetensors"),
        segment_s=0.5,
        batch_size=2,
        learning_rate=1e-3,
        max_steps=4,
        n_valid_segments=2,
        device="cpu",
    )


def _weights(out_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(out_dir / f"{name}.safetensors")


def _largest_difference(one: Path, other: Path) -> float:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.fixture(scope="module")
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of twelve steps, validated every four, with a moving average."""
    out_dir = tmp_path_factory.mktemp("trained")
    finetune(_long(config), out_dir, progress=False)
    return out_dir


def _long(config: Config) -> Config:
    return replace(
        config, max_steps=12, valid_every=4, checkpoint_every=1, ema_decay=0.9, workers=2, learning_rate=1e-2
    )


def test_training_lowers_the_validation_loss(trained):
    result = read_result(trained)
    assert result.steps == 12
    assert result.best_step > 0
    assert result.valid_loss_best < 0.95 * result.valid_loss_before
    validated = read_metrics(trained).dropna(subset="valid_loss").set_index("step")["valid_loss"]
    assert list(validated.index) == [0, 4, 8, 12]
    assert validated.min() == result.valid_loss_best
    assert validated.idxmin() == result.best_step


def test_metrics_have_every_step(trained, config):
    steps = read_metrics(trained).dropna(subset="loss")
    assert steps["step"].tolist() == list(range(1, 13))
    assert (steps["loss"] == steps["loss_stems"]).all()
    assert (steps["learning_rate"] == _long(config).learning_rate).all()
    assert (steps["gradient_norm"] > 0).all()
    assert steps["waited_share"].between(0, 1).all()


def test_checkpoints_are_separators_with_a_card(trained, config):
    for name in ("best", "last"):
        stems = separators.load(str(trained / f"{name}.safetensors"), "cpu")(tiny_song())
        assert stems.shape == (4, 2, 44100)
        card = json.loads((trained / f"{name}.json").read_text())
        assert card["arguments"] == ARCHITECTURE
        assert card["fine_tuning"]["targets"] == ["stems"]
        assert card["fine_tuning"]["corpus"] == config.corpus
        assert _weights(trained, name)["encoder.0.conv.weight"].dtype == torch.float32
    assert card["steps"] == 12


def test_a_finished_run_is_not_run_again(trained, config):
    before = (trained / "result.json").stat().st_mtime_ns
    assert finetune(_long(config), trained, progress=False) == read_result(trained)
    assert (trained / "result.json").stat().st_mtime_ns == before


def test_a_run_that_is_killed_at_any_moment_ends_with_the_weights_of_an_unbroken_one(trained, config, tmp_path):
    out_dir = tmp_path / "killed"
    out_dir.mkdir()
    (tmp_path / "config.json").write_text(json.dumps(_long(config).__dict__))
    command = [sys.executable, "-m", "cadenza_lib.training.finetuning", str(tmp_path / "config.json"), str(out_dir)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for kills in range(2):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        metrics, state = out_dir / "metrics.jsonl", out_dir / "training_state.pt"
        wanted = (2, 6)[kills]
        while not (state.exists() and sum('"loss"' in row for row in metrics.read_text().splitlines()) >= wanted):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(0.013 * kills)  # not at the same place of a step
        process.send_signal(signal.SIGKILL)
        process.wait()
        with metrics.open("a") as file:
            file.write('{"step": 3, "lo')  # as if killed in the middle of a line
    finetune(_long(config), out_dir, progress=False)
    for name in ("last", "best"):
        ours, theirs = _weights(out_dir, name), _weights(trained, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert read_metrics(out_dir).dropna(subset="loss")["step"].tolist() == list(range(1, 13))
    columns = ["step", "loss", "valid_loss", "gradient_norm"]
    assert read_metrics(out_dir)[columns].equals(read_metrics(trained)[columns])


@pytest.mark.parametrize("per_stem", [True, False])
def test_a_target_that_no_masks_can_change_is_told(config, tmp_path, caplog, per_stem):
    finetune(replace(config, init="demo_hdemucs", per_stem=per_stem, max_steps=1), tmp_path, progress=False)
    assert ("always sum to the mixture" in caplog.text) is not per_stem


def test_a_run_that_ends_while_its_last_weights_are_written_writes_them_again(trained, config, tmp_path, monkeypatch):
    save = module.save_checkpoint

    def stop(network, path, card, dtype):
        if path.stem == "last" and card["steps"] == 12:
            raise KeyboardInterrupt
        save(network, path, card, dtype)

    monkeypatch.setattr(module, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(_long(config), tmp_path, progress=False)
    monkeypatch.setattr(module, "save_checkpoint", save)
    finetune(_long(config), tmp_path, progress=False)
    assert _largest_difference(tmp_path, trained) == 0


def test_a_run_can_be_made_longer(config, tmp_path):
    finetune(config, tmp_path / "short", progress=False)
    finetune(replace(config, max_steps=5), tmp_path / "short", progress=False)
    finetune(replace(config, max_steps=5), tmp_path / "long", progress=False)
    assert _largest_difference(tmp_path / "short", tmp_path / "long") == 0


def test_a_failed_write_leaves_the_state_before_it(config, tmp_path, monkeypatch):
    finetune(config, tmp_path, progress=False)
    before = (tmp_path / "training_state.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ParameterError, match=r"cannot be written .*No space left on device.*; make room"):
        finetune(replace(config, max_steps=5), tmp_path, progress=False)
    assert (tmp_path / "training_state.pt").read_bytes() == before
    assert not list(tmp_path.rglob("*.unfinished*"))


@pytest.mark.slow
def test_two_processes_have_the_same_weights_and_train_like_one(config, tmp_path):
    config = replace(config, batch_size=4, max_steps=3, learning_rate=1e-4, targets=("amplified",))
    finetune(config, tmp_path / "one", progress=False)
    script = tmp_path / "compare.py"
    script.write_text(
        "import sys, torch\n"
        "from cadenza_lib.training import finetuning\n"
        "run = finetuning._Run(finetuning.read_config(sys.argv[1]), finetuning.Path(sys.argv[2]), False)\n"
        "run.train()\n"
        "mine = torch.cat([weight.detach().flatten() for weight in run.network.parameters()])\n"
        "both = run.fabric.all_gather(mine)\n"
        "assert both.shape == (2, len(mine)) and torch.equal(both[0], both[1])\n"
        "print('same weights', flush=True)\n"
        "torch.distributed.destroy_process_group()\n"
    )
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "one" / "config.json"), str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same weights") == 2
    # Adam divides gradients by their size, so rounding of the smallest ones can move a weight by part of the rate, of
    # which a tenth is allowed; with micro-batches 6e-8 are measured, with AVX-512 and with SSE alone.
    assert _largest_difference(tmp_path / "one", tmp_path / "two") < 1e-5
    ours, theirs = (read_result(tmp_path / name).valid_loss_best for name in ("two", "one"))
    assert ours == pytest.approx(theirs, abs=1e-5)
    ours, theirs = (read_metrics(tmp_path / name)["loss"].dropna().tolist() for name in ("two", "one"))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_an_error_in_one_of_several_processes_is_its_one_sentence(config, tmp_path):
    with pytest.raises(CadenzaError, match=r"^batch_size 3 cannot be shared out to 2 processes evenly\.$"):
        finetune(replace(config, batch_size=3, devices=2), tmp_path, progress=False)


def test_variables_of_a_slurm_job_make_a_run_none_of_several_processes(config, monkeypatch):
    for name, value in {"NTASKS": "8", "JOB_NAME": "study", "JOB_ID": "12", "PROCID": "3", "LOCALID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)  # as after sbatch --ntasks 8
    fabric = connect(config)
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_accumulated_micro_batches_train_like_the_whole_batch(config, tmp_path):
    config = replace(config, batch_size=3, learning_rate=1e-4, max_steps=2, targets=("normalised",))
    finetune(config, tmp_path / "whole", progress=False)
    finetune(replace(config, micro_batch=2), tmp_path / "parts", progress=False)
    assert _largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-5


def test_the_learning_rate_warms_up_linearly(config, tmp_path):
    finetune(replace(config, warmup_steps=3), tmp_path, progress=False)
    rates = read_metrics(tmp_path)["learning_rate"].dropna()
    assert rates.tolist() == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])


def test_validation_scores_are_those_of_the_evaluation_and_choose_the_best(config, tmp_path):
    result = finetune(replace(config, max_steps=2, n_valid_pairs=1), tmp_path, progress=False)
    scores = {}
    for step in (0, 2):
        table = (tmp_path / "validation" / f"step_{step:06d}" / "scores.csv").read_text().splitlines()
        assert len(table) == 2
        scores[step] = float(table[1].split(",")[5])
    assert result.haaqi_before == scores[0]
    assert result.haaqi_best == max(scores.values())
    assert result.best_step == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_precisions_train_all_targets(config, tmp_path, precision):
    config = replace(config, max_steps=1, precision=precision, targets=("stems", "gained", "downmix", "amplified"))
    loss = read_metrics_after(replace(config, per_stem=False), tmp_path)
    assert set(loss) >= {"loss_stems", "loss_gained", "loss_downmix", "loss_amplified"}


def read_metrics_after(config: Config, out_dir: Path) -> dict[str, float]:
    finetune(config, out_dir, progress=False)
    return read_metrics(out_dir).dropna(subset="loss").iloc[-1].to_dict()


def test_the_moving_average_forgets_its_start():
    network, averaged = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
        averaged.weight.fill_(0.0)
    expected = 0.0
    for step in range(50):
        module._move_average(averaged, network, step, 0.999)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay)
        assert averaged.weight.item() == pytest.approx(expected, abs=1e-6)
    assert expected > 0.999  # with a constant decay of 0.999 it would be 0.05
    module._move_average(averaged, network, 0, 0.0)
    assert torch.equal(averaged.weight, network.weight)


def test_training_separates_as_the_separator_does(config):
    song = tiny_song(0.7)
    network, sources = separators.load_network(config.init)
    expected = separators.network_separator(network, sources, torch.device("cpu"))(song)
    with torch.no_grad():
        ours = separate_segments(network, sources, song.mixture.float()[None])[0]
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6)  # float32


def test_silence_is_separated_into_silence_with_finite_gradients(config):
    network, sources = separators.load_network(config.init)
    estimate = separate_segments(network, sources, torch.zeros(1, 2, 22050))
    assert not estimate.any()
    estimate.abs().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(config, tmp_path):
    with pytest.raises(ModelError, match=r"not a finite number in step \d+; lower learning_rate or set clip_norm"):
        finetune(replace(config, learning_rate=1e36, max_steps=20), tmp_path, progress=False)
    assert not (tmp_path / "result.json").exists()
    separators.load(str(tmp_path / "best.safetensors"), "cpu")
    separators.load(str(tmp_path / "last.safetensors"), "cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": -1e-3}, "learning_rate -0.001 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan must be above 0"),
        ({"targets": ["stem"]}, "Target 'stem' is unknown"),
        ({"target_weights": [1.0, 1.0]}, "give one for each"),
        ({"ema_decay": 1.0}, "ema_decay 1.0 must be at least 0 and below 1"),
        ({"clip_norm": -1.0}, "clip_norm -1.0 must not be negative"),
        ({"precision": "16"}, "precision '16' is unknown"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"max_steps": 0}, "max_steps 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must be at least 0"),
    ],
)
def test_a_bad_configuration_is_refused(config, changes, sentence):
    with pytest.raises(ParameterError, match=sentence):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_scenes": 10**6}, "n_scenes 1000000 must lie between 0"),
        ({"device": "cuda:99"}, "Device 'cuda:99' is not available"),
        ({"segment_s": 0.1}, "segment_s 0.1 must be at least 0.4 s"),
        ({"segment_s": 8.0}, "lower segment_s"),
        ({"augmentations": ("pitch",)}, "Augmentation 'pitch' is unknown"),
        ({"init": "umx"}, "Separator 'umx' is unknown"),
        ({"init": "missing.safetensors"}, r"missing\.safetensors does not exist"),
        ({"split": "nothing"}, "has no split 'nothing'"),
        ({"n_valid_pairs": 1000}, "n_pairs 1000 must lie between 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(config, tmp_path, changes, sentence):
    with pytest.raises(CadenzaError, match=sentence) as caught:
        finetune(replace(config, **changes), tmp_path, progress=False)
    assert "\n" not in str(caught.value)


def test_a_disk_without_room_is_refused_before_training(config, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**5))
    with pytest.raises(ParameterError, match=r"has 0.00 GB of free disk, but checkpoints take .* GB; make room"):
        finetune(config, tmp_path, progress=False)


def test_a_directory_of_another_run_is_refused(trained, config):
    with pytest.raises(ParameterError, match=r"holds results with seed 0, not 5; choose another"):
        finetune(replace(_long(config), seed=5), trained)


def test_a_broken_training_state_is_refused(config, tmp_path):
    finetune(config, tmp_path, progress=False)
    (tmp_path / "training_state.pt").write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(ModelError, match=r"training_state\.pt cannot be read as the state of this run"):
        finetune(replace(config, max_steps=5), tmp_path, progress=False)


def test_results_and_metrics_of_no_run_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist"):
        read_result(tmp_path)
    with pytest.raises(ParameterError, match="train first"):
        read_metrics(tmp_path)
    (tmp_path / "config.json").write_text('{"rate": 1}')
    with pytest.raises(ParameterError, match="has 'rate'; a configuration holds some of"):
        module.read_config(tmp_path / "config.json")


def test_the_command_reports_an_error_in_one_line(tmp_path, capsys):
    assert module.main([]) == 1
    assert module.main([str(tmp_path / "no.json"), str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("cadenza: ") for line in lines)


def test_open_unmix_is_trained_by_its_own_input_and_with_its_dropout(config, tmp_path):
    arguments = {"sources": list(STEMS), "hidden_size": 8}
    torch.manual_seed(0)
    card = {"architecture": "openunmix", "arguments": arguments}
    checkpoints.save_checkpoint(ARCHITECTURES["openunmix"].factory(**arguments), tmp_path / "umx.safetensors", card)
    config = replace(config, init=str(tmp_path / "umx.safetensors"), max_steps=2)
    finetune(config, tmp_path / "once", progress=False)
    finetune(replace(config, max_steps=1), tmp_path / "twice", progress=False)
    finetune(config, tmp_path / "twice", progress=False)  # dropout draws by step, so it needs no state either
    assert _largest_difference(tmp_path / "once", tmp_path / "twice") == 0
    stems = separators.load(str(tmp_path / "once" / "last.safetensors"), "cpu")(tiny_song())
    assert stems.isfinite().all()
    statistics = separators.input_statistics(separators.load_network(config.init)[0], torch.ones(1, 2, 9))
    assert [value.item() for value in statistics] == [0, 1]
