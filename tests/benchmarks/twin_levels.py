"""HAAQI of systems on the twin against the level of its songs: what the levels of `embedded.SPLITS` were set by.

    .venv/bin/python tests/benchmarks/twin_levels.py --split valid --levels 0 -2 -4 --systems mixture oracle

Levels are changes of all songs in dB. HAAQI presents the reference at one level, so a change acts through the clip of
the output stage alone, and every level is compared with the same reference. Scenes come in a random order, so that the
means of any number of them, printed as they grow, are those of the split within their standard errors.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from cadenza_lib.chain.pipeline import enhance, reference_remix
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import seeded
from cadenza_lib.scoring.pairs import PairReference
from cadenza_lib.separation import separators

PRINTED_EVERY = 10  # scenes


def main() -> None:
    """Score scene by scene, and print means and standard errors over pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="valid")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0], help="changes of the songs' level in dB")
    parser.add_argument("--systems", nargs="+", default=["mixture"])
    parser.add_argument("--scenes", type=int, default=0, help="number of scenes, 0: all")
    parser.add_argument("--listeners", type=int, default=2, help="for each scene")
    parser.add_argument("--out", help="CSV table of all scores")
    arguments = parser.parse_args()
    rows = []
    for number, scene in enumerate(scores(arguments), 1):
        rows += scene
        if number % PRINTED_EVERY == 0:
            report(rows, number, arguments.out)
    report(rows, number, arguments.out)


def scores(arguments: argparse.Namespace) -> Iterator[list[dict[str, object]]]:
    """Yield the rows of one scene after the other."""
    corpus = open_corpus("twin")
    split = corpus.split(arguments.split)
    separators = {name: separators.load(name, "cpu") for name in arguments.systems}
    names = list(split.scenes)
    for index in seeded(1).permutation(len(names))[: arguments.scenes or None]:
        scene = split.scenes[names[index]]
        song, gains_db = corpus.at_ear_song(split, scene), corpus.gains_db(scene)
        remix = reference_remix(song, gains_db)
        estimates = {name: separator(song) for name, separator in separators.items()}
        rows = []
        for listener in split.scene_listeners[names[index]][: arguments.listeners]:
            reference = PairReference(remix, split.listeners[listener], names[index])
            for level_db in arguments.levels:
                gain = 10 ** (level_db / 20)
                louder = replace(song, stems=song.stems * gain, mixture=song.mixture * gain)
                for name, stems in estimates.items():
                    output = enhance(louder, [stems * gain], gains_db, split.listeners[listener])
                    score = reference.score(replace(output, signal=output.signal / gain))
                    clipped = sum(output.clipped_share) / 2
                    rows.append(
                        {"scene": names[index], "listener": listener, "system": name, "level_db": level_db}
                        | {"haaqi": score.mean, "clipped": clipped}
                    )
        yield rows


def report(rows: list[dict[str, object]], n_scenes: int, out: str | None) -> None:
    """Print the means so far."""
    table = pd.DataFrame(rows)
    if out:
        table.to_csv(out, index=False)
    means = table.groupby(["system", "level_db"])[["haaqi", "clipped"]].mean()
    means["standard_error"] = table.groupby(["system", "level_db"])["haaqi"].sem()
    print(f"{n_scenes} scenes\n{means.round(4).to_string()}", flush=True)


if __name__ == "__main__":
    main()
