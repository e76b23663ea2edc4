"""What `cadenza enhance` takes for long music: time and peak memory of a process of its own.

python tests/benchmarks/own_music.py                                    # an hour without a network
python tests/benchmarks/own_music.py --minutes 10 --system twin_hdemucs
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

RATE = 44100
AUDIOGRAM = "L 250:20 1k:30 4k:60 R 250:15 1k:25 4k:50"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[60.0])
    parser.add_argument("--system", default="mixture")
    arguments = parser.parse_args()
    print("| minutes | system | elapsed s | CPU s | peak memory, MB |\n|---:|---|---:|---:|---:|")
    for minutes in arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            song = Path(folder) / "song.wav"
            write_song(song, minutes)
            command = [sys.executable, "-m", "cadenza_lib", "enhance", str(song), "--audiogram", AUDIOGRAM]
            command += ["--gains", "vocals=+6", "--system", arguments.system, "-o", f"{folder}/out"]
            begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            usage, elapsed_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begin
        cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
        peak_mb = usage.ru_maxrss * 1024 / 1e6  # of the largest child so far
        row = f"| {minutes:g} | {arguments.system} | {elapsed_s:.0f} | {cpu_s:.0f} | {peak_mb:.0f} |"
        print(row, flush=True)


def write_song(path: Path, minutes: float) -> None:
    """Write noise whose level changes every second, a minute at a time."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for _ in range(round(minutes * 60)):
            file.write(generator.uniform(0.01, 0.2) * generator.normal(size=(RATE, 2)))


if __name__ == "__main__":
    main()
