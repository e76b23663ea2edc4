"""The fault campaign: what befalls long operations, and whether a restart makes it good.

Each operation is run once undisturbed. Then a seed chooses where a fault strikes; the operation is started again until
it ends by itself, and its directory is compared with the undisturbed one: the same numbers, every row once, nothing
left over. What a person can cause, such as a full disk, must end in a sentence.

    python tests/faults/campaign.py [--short] [--operation NAME] [--fault NAME]

prints a table of faults that struck, were recovered from, or lost something, and ends with 1 if anything is lost.
"""

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `stubs`

import torch
from harness import (
    Outcome,
    Process,
    Strike,
    fill_disk,
    forbid_writing,
    kill,
    kill_alone,
    leftovers,
    move_file_times,
    small_disk,
    tear,
)
from operations import OPERATIONS, Contents, Operation, make_inputs, prepare_process

_YEAR_S = 365 * 24 * 3600.0


@dataclass
class Count:
    """What became of the faults of one kind in one operation."""

    injected: int = 0
    recovered: int = 0
    losses: list[str] = field(default_factory=list)


class Trial:
    """One directory of an operation: started, struck, started again and judged."""

    def __init__(self, operation: Operation, inputs: Path, folder: Path, usual: Contents, undisturbed: Outcome) -> None:
        self.operation, self.inputs, self.folder = operation, inputs, folder
        self.usual, self.undisturbed = usual, undisturbed
        self.complaints: list[str] = []

    def prepare(self) -> None:
        """Make the directory as it is before the first start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.operation.prepare(self.inputs, self.folder)

    def start(self, strike_at: int = 0, strike: Strike | None = None, clock_offset_s: float = 0.0) -> Process:
        """Start the operation in a process."""
        return Process(
            lambda: self.operation.run(self.inputs, self.folder), self.folder, strike_at, strike, clock_offset_s
        )

    def strike(self, rng: random.Random, strike: Strike) -> Outcome:
        """Start the operation and strike at a random event."""
        return self.check(self.start(rng.randint(1, max(1, self.undisturbed.n_events)), strike).wait())

    def check(self, outcome: Outcome) -> Outcome:
        """Note what is wrong with how a process ended."""
        if outcome.complaint:
            self.complaints.append(outcome.complaint)
        if outcome.code == 1 and str(self.folder) not in outcome.said:
            self.complaints.append(f"its sentence names no file: {outcome.said.strip()[-300:]}")
        return outcome

    def finish(self) -> None:
        """Start the operation again, undisturbed, and judge."""
        outcome = self.start().wait()
        if outcome.code:
            self.complaints.append(f"the restart ended with {outcome.code}: {outcome.said.strip()[-1500:]}")
        self.judge()

    def judge(self) -> None:
        """Compare what is there with what should be."""
        found = self.operation.contents(self.folder)
        for name in sorted(self.usual.keys() | found.keys()):
            if self.usual.get(name) != found.get(name):
                what = "is lost" if name not in found else "is too much" if name not in self.usual else "differs"
                self.complaints.append(f"{name} {what}")
        self.complaints += [f"{name} is left over" for name in leftovers(self.folder)]


# The faults: each returns whether it struck, which a process that was quicker may have escaped


def killed_at_an_event(trial: Trial, rng: random.Random) -> bool:
    return trial.strike(rng, rng.choice([kill, kill_alone])).code < 0


def killed_twice(trial: Trial, rng: random.Random) -> bool:
    first, _ = (trial.strike(rng, kill) for _ in range(2))
    return first.code < 0


def killed_at_any_time(trial: Trial, rng: random.Random) -> bool:
    return trial.check(trial.start().wait(kill_after_s=rng.uniform(0, trial.undisturbed.seconds))).code < 0


def torn_write(trial: Trial, rng: random.Random) -> bool:
    return trial.strike(rng, tear).code < 0


def disk_full_at_an_event(trial: Trial, rng: random.Random) -> bool:
    return trial.strike(rng, fill_disk).code > 0


def read_only_from_an_event(trial: Trial, rng: random.Random) -> bool:
    return trial.strike(rng, forbid_writing).code > 0


def small_real_disk(trial: Trial, rng: random.Random) -> bool:
    trial.folder.mkdir()
    with small_disk(trial.folder, 64 << 20) as remount:
        trial.prepare()
        used = shutil.disk_usage(trial.folder).used
        whole = sum(map(_size, trial.usual.values()))
        remount(f"size={(used + rng.randrange(1, max(2, whole - used))) // 4096 * 4096 + 4096}")
        struck = trial.check(trial.start().wait()).code > 0
        remount("size=64m")
        trial.finish()
    return struck


def read_only_real_disk(trial: Trial, rng: random.Random) -> bool:
    trial.folder.mkdir()
    with small_disk(trial.folder, 64 << 20) as remount:
        trial.prepare()
        trial.strike(rng, kill)
        remount("ro")
        struck = trial.check(trial.start().wait()).code > 0
        remount("rw")
        trial.finish()
    return struck


def clock_jumps(trial: Trial, rng: random.Random) -> bool:
    offset_s = rng.choice([-_YEAR_S, _YEAR_S])
    at = rng.randint(1, max(1, trial.undisturbed.n_events))
    struck = trial.check(trial.start(at, kill, clock_offset_s=offset_s).wait()).code < 0
    move_file_times(trial.folder, offset_s)
    return struck


def two_at_once(trial: Trial, rng: random.Random) -> bool:
    both = [trial.start()]
    time.sleep(rng.uniform(0, trial.undisturbed.seconds / 2))
    both.append(trial.start())
    if rng.random() < 0.5:  # the other takes over
        outcomes = [both[0].wait(kill_after_s=rng.uniform(0, trial.undisturbed.seconds)), both[1].wait()]
    else:
        outcomes = [process.wait() for process in both]
    for outcome in outcomes:
        trial.check(outcome)
        if outcome.code > 0:
            trial.complaints.append(f"one of two gave up: {outcome.said.strip()[-300:]}")
    if all(outcome.code == 0 for outcome in outcomes):
        trial.judge()  # before the restart, which would make it good
    return True


def worker_dies(trial: Trial, rng: random.Random) -> bool:
    process = trial.start()
    while not process.children() and not process.has_ended():
        time.sleep(0.005)
    time.sleep(rng.uniform(0, trial.undisturbed.seconds / 2))
    children = process.children()[:1]
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    if trial.check(process.wait()).code == 0:
        trial.judge()  # before the restart, which would make it good
    return bool(children)


Fault = Callable[[Trial, random.Random], bool]

FAULTS: dict[Fault, tuple[int, int]] = {  # how often, in short and in full
    killed_at_an_event: (1, 8),
    killed_twice: (0, 2),
    killed_at_any_time: (0, 3),
    torn_write: (1, 4),
    disk_full_at_an_event: (1, 3),
    read_only_from_an_event: (0, 2),
    small_real_disk: (0, 2),
    read_only_real_disk: (0, 1),
    clock_jumps: (0, 2),
    two_at_once: (1, 3),
    worker_dies: (0, 3),
}
_MOUNTED = (small_real_disk, read_only_real_disk)


def _size(content: object) -> int:
    return len(content) if isinstance(content, bytes) else len(str(content))


def _name(fault: Fault) -> str:
    return fault.__name__.replace("_", " ")


def run(root: Path, short: bool, only: tuple[str, str] = ("", ""), seed: int = 0) -> dict[str, dict[str, Count]]:
    """Run the campaign in an empty directory; return counts by operation and fault."""
    inputs = root / "inputs"
    _forked(lambda: make_inputs(inputs), root)
    counts: dict[str, dict[str, Count]] = {}
    for operation in OPERATIONS:
        if only[0] not in operation.name or (short and not operation.in_short):
            continue
        usual, undisturbed = _undisturbed(operation, inputs, root)
        print(
            f"{operation.name}: {undisturbed.n_events} events in {undisturbed.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        counts[operation.name] = {}
        for fault, (n_short, n_full) in FAULTS.items():
            if only[1] not in _name(fault) or (fault is worker_dies and not operation.has_workers):
                continue
            count = counts[operation.name][_name(fault)] = Count()
            for index in range(n_short if short else n_full):
                where = f"{operation.name}, {_name(fault)}, seed {seed}, number {index}"
                rng = random.Random(where)
                folder = root / f"{operation.name}-{_name(fault)}-{index}".replace(" ", "_")
                trial = Trial(operation, inputs, folder, usual, undisturbed)
                try:
                    struck = _try(trial, fault, rng)
                except PermissionError:
                    print(f"{where}: not possible here", file=sys.stderr)
                    continue
                count.injected += struck
                if trial.complaints:
                    count.losses.append(f"{where}: {'; '.join(trial.complaints)}")
                    print(f"LOST {count.losses[-1]}", file=sys.stderr, flush=True)
                else:
                    count.recovered += struck
                shutil.rmtree(folder)
        print(f"{operation.name}: {_summary(counts[operation.name])}", file=sys.stderr, flush=True)
    return counts


def _try(trial: Trial, fault: Fault, rng: random.Random) -> bool:
    if fault in _MOUNTED:
        return fault(trial, rng)
    trial.prepare()
    struck = fault(trial, rng)
    trial.finish()
    return struck


def _undisturbed(operation: Operation, inputs: Path, root: Path) -> tuple[Contents, Outcome]:
    folder = root / f"{operation.name}-undisturbed".replace(" ", "_")
    trial = Trial(operation, inputs, folder, {}, Outcome(0, "", 0, 0.0))
    trial.prepare()
    outcome = trial.start().wait()
    if outcome.code or leftovers(folder):
        raise RuntimeError(f"{operation.name} does not work at all: {outcome.said} {leftovers(folder)}")
    return operation.contents(folder), outcome


def _forked(work: Callable[[], None], root: Path) -> None:
    outcome = Process(work, root).wait()
    if outcome.code:
        raise RuntimeError(outcome.said)


def _summary(counts: dict[str, Count]) -> str:
    injected, recovered = (sum(getattr(count, name) for count in counts.values()) for name in ("injected", "recovered"))
    return f"{injected} injected, {recovered} recovered, {sum(len(count.losses) for count in counts.values())} lost"


def table(counts: dict[str, dict[str, Count]]) -> str:
    """Return operation, fault, and how many were injected, recovered and lost, as aligned text."""
    rows = [
        (operation, fault, str(count.injected), str(count.recovered), str(len(count.losses)))
        for operation, faults in counts.items()
        for fault, count in faults.items()
        if count.injected or count.losses
    ]
    totals = [str(sum(int(row[column]) for row in rows)) for column in (2, 3, 4)]
    rows = [("operation", "fault", "injected", "recovered", "lost"), *rows, ("all", "", *totals)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)),
                *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)),
            ]
        )
        for row in rows
    )


def main() -> int:
    """Run the campaign and print its table; return 1 if anything is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="some faults of each kind")
    parser.add_argument("--operation", default="", metavar="NAME", help="operations whose names hold this")
    parser.add_argument("--fault", default="", metavar="NAME", help="faults whose names hold this")
    parser.add_argument("--seed", type=int, default=0, help="chooses where faults strike")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_process()
    gc.freeze()  # or each process would copy it all
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        counts = run(Path(directory).resolve(), options.short, (options.operation, options.fault), options.seed)
    print(table(counts))
    print(f"{time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(
            json.dumps({name: {fault: vars(one) for fault, one in of.items()} for name, of in counts.items()})
        )
    losses = [loss for faults in counts.values() for count in faults.values() for loss in count.losses]
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
