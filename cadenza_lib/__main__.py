"""The `cadenza` command."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cadenza_lib import __version__
from cadenza_lib.errors import CadenzaError, ParameterError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for an error, 2 for wrong usage, 130 for an interrupt."""
    parser = argparse.ArgumentParser(prog="cadenza", description="Music rebalanced for hearing-aid listeners.")
    parser.add_argument("--version", action="version", version=f"cadenza {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_check, _add_run):
        add(commands)
    options = parser.parse_args(arguments)
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


# Each command adds its own parser and sets `function`. Libraries are imported when a command runs: help is quick.


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check", help="say whether this machine is ready", description="Check the environment."
    )
    parser.add_argument("path", nargs="?", type=Path, metavar="PATH", help="the data set (default: $CADENZA_CORPUS)")
    parser.set_defaults(function=_check)


def _check(options: argparse.Namespace) -> int:
    from cadenza_lib import check

    return check.main(options.path)


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="run a notebook or a study",
        description="Run a notebook (.ipynb) or a study (.yaml); what is finished and unchanged is not run again.",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="a notebook (.ipynb) or a study (.yaml)")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; a path to a directory is written with a slash, such as ./data (may be repeated)",
    )
    parser.add_argument("-o", "--out-dir", type=Path, metavar="OUT_DIR", help="default: runs/<name of TARGET>")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="notebooks of a study at the same time (default: one per core)"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="run a study on dask.distributed, such as tcp://host:8786"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is left to do of a study, and how long that takes here"
    )
    parser.add_argument("--force", action="store_true", help="run again what is finished")
    parser.set_defaults(function=_run)


def _run(options: argparse.Namespace) -> int:
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
    from cadenza_lib import runs

    manifest = runs.execute(
        options.target,
        runs.parse_parameters(options.target, texts),
        options.out_dir or Path("runs") / options.target.stem,
        force=options.force,
        progress=True,
    )
    print(manifest)
    return 0


def _run_study(options: argparse.Namespace, texts: dict[str, str]) -> int:
    from contextlib import ExitStack

    from tqdm.contrib.logging import logging_redirect_tqdm

    from cadenza_lib import execution, executors
    from cadenza_lib.runs import RunError
    from cadenza_lib.study import load_study

    if options.scheduler is not None and options.jobs is not None:
        raise ParameterError("With --scheduler, the cluster decides how many run at the same time; leave out --jobs.")
    study = load_study(options.target, texts)
    if options.dry_run:
        jobs = execution.default_jobs(study) if options.jobs is None else options.jobs
        print(execution.describe_plan(execution.plan_study(study, options.out_dir, force=options.force), jobs))
        return 0
    with ExitStack() as stack:
        executor = options.scheduler and stack.enter_context(executors.scheduler(options.scheduler))
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


if __name__ == "__main__":
    sys.exit(main())
