"""The `cadenza` command."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cadenza_lib import __version__
from cadenza_lib.core.errors import CadenzaError, ParameterError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for an error, 2 for wrong usage, 130 for an interrupt."""
    options = _parser().parse_args(arguments)
    if arguments is None:
        _set_up_interpreter()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cadenza_lib").setLevel(logging.INFO)
    try:
        return options.function(options)
    except CadenzaError as error:
        print(f"cadenza: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cadenza: interrupted", file=sys.stderr)
        return 130


def _set_up_interpreter() -> None:
    """Keep a shell's settings of Python from breaking file names and from turning warnings and prints into errors.

    Python reads some of them only when it starts, so it may have to start again.
    """
    if "PYTHONWARNINGS" in os.environ or sys.getfilesystemencoding() != "utf-8":
        os.environ.pop("PYTHONWARNINGS", None)
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cadenza", description="Music rebalanced for hearing-aid listeners.")
    parser.add_argument("--version", action="version", version=f"cadenza {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = _add(commands, "check", "say whether this machine is ready", _check)
    check.add_argument("path", nargs="?", type=Path, metavar="PATH", help="the data set (default: $CADENZA_CORPUS)")

    run = _add(commands, "run", "run a notebook or a study", _run)
    run.add_argument("target", type=Path, metavar="TARGET", help="a notebook (.ipynb) or a study (.yaml)")
    run.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; a path to a directory is written with a slash, such as ./data (may be repeated)",
    )
    run.add_argument("-o", "--out-dir", type=Path, metavar="OUT_DIR", help="default: runs/<name of TARGET>")
    run.add_argument("--jobs", type=int, metavar="N", help="notebooks of a study at once (default: one per core)")
    run.add_argument("--scheduler", metavar="ADDRESS", help="run a study on dask.distributed: tcp://host:8786")
    run.add_argument("--dry-run", action="store_true", help="tell how many runs of a study are left")
    run.add_argument("--force", action="store_true", help="compute again also what is finished or kept")

    music = _add(commands, "enhance", "enhance music of your own for one listener", _enhance)
    music.add_argument("song", type=Path, metavar="SONG", help="a sound file, a folder of four stems, or of songs")
    music.add_argument(
        "--audiogram", default="", metavar="FILE_OR_TEXT", help="a table, or a text in dB HL by ear and Hz"
    )
    music.add_argument("--listener", default="", metavar="ID", help="which of several in the table")
    music.add_argument("--gains", default="", metavar="GAINS", help="in dB, such as vocals=+6,bass=-3")
    music.add_argument(
        "--system",
        action="append",
        metavar="NAME",
        help="separator or checkpoint, may be repeated (default: hdemucs_high_musdb)",
    )
    music.add_argument("--weights", metavar="A,B", help="of several systems, with sum 1 (default: equal)")
    music.add_argument("--mixture-weight", type=float, default=0.0, metavar="SHARE", help="of the mixture in each stem")
    music.add_argument("--wiener-exponent", type=float, default=0.0, metavar="EXPONENT", help="of the filter of stems")
    music.add_argument("--prescription", default="nal_r", metavar="NAME", help="default: nal_r")
    music.add_argument("--output-stage", metavar="NAME", help="default: limiter, and with --official hard_clip")
    music.add_argument("--level", type=float, default=0.0, metavar="DB", help="gain in dB before the output stage")
    music.add_argument("--heads", default="none", metavar="HEADS", help="none (default), mean, or CORPUS:POSITION")
    music.add_argument("--official", action="store_true", help="32 kHz and 16 bits, as 03_evaluate writes")
    music.add_argument("-o", "--out-dir", type=Path, metavar="OUT", help="default: runs/<name of SONG>")
    music.add_argument("--force", action="store_true", help="replace an earlier result in OUT")

    data = commands.add_parser("data", help="check, complete or simulate a data set", description="Real data sets.")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)

    check = _add(actions, "check", "say what is there, missing or damaged", _check_data)
    check.add_argument("path", type=Path, metavar="PATH", help="a corpus, or a folder of songs")
    check.add_argument("--levels", action="store_true", help="read the mixtures and say how loud they are")
    check.add_argument("--scores", type=Path, metavar="DIR", help="also say how much an evaluation in DIR clips")

    songs = _add(actions, "import", "add songs of a folder or table to a corpus", _import)
    songs.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of songs, MUSDB18, MoisesDB, or a table (.csv)"
    )

    scenes = _add(actions, "scenes", "draw scenes and their listeners", _draw_scenes)
    scenes.add_argument("--per-song", type=int, default=4, metavar="N", help="scenes per song (default: 4)")
    scenes.add_argument("--listeners", type=int, default=2, metavar="N", help="listeners per scene (default: 2)")
    scenes.add_argument("--like", metavar="SPLIT", help="take songs and listeners of this split where there are none")
    scenes.add_argument("--force", action="store_true", help="replace other scenes")

    simulate = _add(actions, "simulate", "write the songs at the ears", _simulate)
    simulate.add_argument("--jobs", type=int, metavar="N", help="files at the same time (default: one per core)")
    simulate.add_argument("--dry-run", action="store_true", help="only say how much disk it takes")

    sample = _add(actions, "sample", "make a corpus of six seconds of real music", _sample)
    sample.add_argument("path", type=Path, metavar="PATH", help="its directory")

    for action in (songs, scenes, simulate):
        action.add_argument("path", type=Path, metavar="PATH", help="the corpus")
        action.add_argument("--split", default="train", help="default: train")
    return parser


def _add(commands: Any, name: str, text: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=function.__doc__)
    parser.set_defaults(function=function)
    return parser


# The docstring of a command is its description. Libraries are imported when a command runs, so that help is quick.


def _check(options: argparse.Namespace) -> int:
    """Check packages, settings of the shell, the score of a second of music, and the data set."""
    from cadenza_lib.runs import check

    return check.main(options.path)


def _run(options: argparse.Namespace) -> int:
    """Run a notebook (.ipynb) or a study (.yaml); what is finished and unchanged is not run again."""
    suffix = options.target.suffix
    texts = dict(options.parameters)
    if suffix in (".yaml", ".yml"):
        return _run_study(options, texts)
    if suffix != ".ipynb":
        raise ParameterError(f"{options.target} is neither a notebook (.ipynb) nor a study (.yaml); name one of these.")
    if options.scheduler is not None or options.jobs is not None or options.dry_run:
        raise ParameterError(
            f"{options.target} is one notebook, so --jobs, --scheduler and --dry-run mean nothing; leave them out."
        )
    from cadenza_lib.runs.notebooks import execute
    from cadenza_lib.runs.parameters import parse_parameters

    manifest = execute(
        options.target,
        parse_parameters(options.target, texts),
        options.out_dir or Path("runs") / options.target.stem,
        force=options.force,
        progress=True,
    )
    print(manifest)
    return 0


def _run_study(options: argparse.Namespace, texts: dict[str, str]) -> int:
    from contextlib import ExitStack

    from tqdm.contrib.logging import logging_redirect_tqdm

    from cadenza_lib.core import processes
    from cadenza_lib.runs import execution
    from cadenza_lib.runs.kernel import RunError
    from cadenza_lib.runs.study import load_study

    if options.scheduler is not None and options.jobs is not None:
        raise ParameterError("With --scheduler, the cluster decides how many run at the same time; leave out --jobs.")
    study = load_study(options.target, texts)
    if options.dry_run:
        jobs = execution.default_jobs(study) if options.jobs is None else options.jobs
        print(execution.describe_plan(execution.plan_study(study, options.out_dir, force=options.force), jobs))
        return 0
    with ExitStack() as stack:
        executor = options.scheduler and stack.enter_context(processes.scheduler(options.scheduler))
        stack.enter_context(logging_redirect_tqdm())
        result = execution.run_study(
            study,
            options.out_dir,
            executor=executor,
            jobs=options.jobs,
            force=options.force,
            progress=True,
        )
    print(result.page)
    if result.failed:
        names = ", ".join(str(point.out_dir.relative_to(result.page.parent)) for point in result.failed)
        raise RunError(
            f"{len(result.failed)} of {len(result.points)} points did not finish ({names}); see {result.page}."
        )
    return 0


def _enhance(options: argparse.Namespace) -> int:
    """Enhance music for one listener: stems gained, amplified after the audiogram; a page lets you listen to it.

    A folder of songs gets a folder for each in OUT. A song that is finished is not enhanced again, and one that was
    stopped goes on.
    """
    from cadenza_lib.chain.pipeline import ChainSettings
    from cadenza_lib.data.audiograms import read_listener
    from cadenza_lib.listening.own_music import enhance_file, find_music, parse_gains

    if not options.audiogram:
        raise ParameterError("Whose ears? Give --audiogram a table or a text such as 'L 250:20 1k:30 4k:60 R 1k:25'.")
    try:
        weights = options.weights and tuple(map(float, options.weights.split(",")))
    except ValueError as error:
        raise ParameterError(f"Weights {options.weights!r} are not numbers; write them as 0.5,0.5.") from error
    chain = ChainSettings(
        model_weights=weights or None,
        mixture_weight=options.mixture_weight,
        wiener_exponent=options.wiener_exponent,
        prescription=options.prescription,
        output_level_db=options.level,
        output_stage=options.output_stage or ("hard_clip" if options.official else "limiter"),
    )
    listener, gains_db = read_listener(options.audiogram, options.listener), parse_gains(options.gains)
    systems = options.system or ["hdemucs_high_musdb"]
    songs = find_music(options.song)
    out_dir = options.out_dir or Path("runs") / options.song.resolve().stem
    for song in songs:
        folder = out_dir if song == options.song.resolve() else out_dir / song.name
        how = (systems, chain, options.heads, options.official, options.force)
        print(enhance_file(song, folder, listener, gains_db, *how).page)
    return 0


def _check_data(options: argparse.Namespace) -> int:
    """Say what a data set has, what is missing or damaged, and what each split can run; 1 if there is damage."""
    from cadenza_lib.data.datasets import Finding, check_data

    findings = check_data(options.path, options.levels)
    if options.scores is not None:
        from cadenza_lib.analysis.tables import clipping_note

        findings.append(Finding("OK", "scores", clipping_note(options.scores)))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<7}  {finding.subject:<{width}}  {finding.detail}")
    damaged = sum(finding.status == "DAMAGE" for finding in findings)
    print(f"{damaged} to repair." if damaged else "No damage.")
    return 1 if damaged else 0


def _import(options: argparse.Namespace) -> int:
    """Add four-stem songs of any format to a split of a corpus: a folder of songs, MUSDB18, MoisesDB, or a table."""
    from collections import Counter

    from cadenza_lib.data.supplement import import_songs

    counts = Counter(import_songs(options.source, options.path, options.split).values())
    states = ", ".join(f"{counts[state]} {state}" for state in ("added", "kept", "replaced"))
    print(f"Split {options.split} of {options.path}: {states}.")
    return 0


def _draw_scenes(options: argparse.Namespace) -> int:
    """Draw the scenes of a split and who hears them with the official sampler; more per song keep the first ones."""
    from cadenza_lib.data.corpus import Corpus
    from cadenza_lib.data.supplement import draw_scenes

    scenes, pairs = draw_scenes(
        Corpus(options.path), options.split, options.per_song, options.listeners, options.like, options.force
    )
    print(f"Split {options.split} of {options.path} has {scenes} scenes and {pairs} scene-listener pairs.")
    return 0


def _simulate(options: argparse.Namespace) -> int:
    """Write the songs of a split at the ears, as the official generator does; what is there is kept."""
    from cadenza_lib.data.corpus import Corpus
    from cadenza_lib.data.simulation import plan_simulation, simulate

    corpus = Corpus(options.path)
    plan = plan_simulation(corpus, options.split)
    print(
        f"{len(plan.missing)} of {len(plan.songs)} songs at the ears are to be written: "
        f"{plan.needed_bytes / 1e9:.2f} GB, where {plan.free_bytes / 1e9:.2f} GB are free.",
        flush=True,
    )
    if not options.dry_run:
        simulate(corpus, options.split, options.jobs)
        print(f"Split {options.split} of {options.path} has {len(plan.songs)} songs at the ears.")
    return 0


def _sample(options: argparse.Namespace) -> int:
    """Make a corpus of six seconds of real music, which the package stempeg contains, with the twin's listeners."""
    from cadenza_lib.data.sample import SAMPLE_SONG, SAMPLE_SPLIT, sample_corpus

    scenes = sample_corpus(options.path).split(SAMPLE_SPLIT).scene_listeners
    pairs = sum(map(len, scenes.values()))
    print(f"{SAMPLE_SONG}.")
    print(f"Split {SAMPLE_SPLIT} of {options.path} has {len(scenes)} scenes and {pairs} scene-listener pairs.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
