"""Listening to several versions of the same music: a player that switches between them without a gap.

All takes start at the same sample and run together; keys 1 to 9 choose which one is heard. Loudness and peak are those
of the signals, computed here; clipped samples are marked where the signals have them, whatever the codec makes of them.
Nothing is normalised: level matching, where it is on, is marked so; it gives all takes the highest common loudness
at which none clips, and shows the gain of each. Takes beyond full scale turn all of them down by one amount, which the
player shows.

The HTML needs no network and no second file, and looks the same in JupyterLab, in nbconvert's pages and alone. Audio in
pages is Ogg Vorbis, a quarter of FLAC's size, whose first sample is the signal's first sample in every browser. (MP3
is smaller still, but its encoder's delay is removed by some browsers only.) Safari plays it from version 18.4.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import soundfile
import torch
import traitlets

from cadenza_lib.audio.acoustics import INT16_SCALE, check_signal
from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.core.files import atomic_path

__all__ = ["Player", "PlayerWidget", "Take", "describe_take"]

MAX_TAKES = 9
"""One for each of the keys 1 to 9."""

FULL_SCALE = (INT16_SCALE - 1) / INT16_SCALE
"""The largest 16-bit sample: from here on a sample counts as clipped."""

_MAX_LENGTH_DIFFERENCE_S = 0.1  # filters lengthen a signal by milliseconds; more is not the same music
_STORED_PEAK = 0.9  # of every encoded signal: codecs overshoot, take no sample beyond full scale, and lose quiet ones
_VORBIS_LEVEL = 0.4  # libsndfile's compression level: quality 6 of 10, about 190 kbit/s for full stereo
_VORBIS_BLOCK = 1 << 16  # libsndfile's encoder keeps a written block on the stack
_COLUMNS = 550  # of the drawn waveform, for each channel

_SCRIPT = Path(__file__).with_name("player.js").read_text(encoding="utf-8")  # defines `mountPlayer(host, matched)`
_WIDGET_SCRIPT = """
export default {
  render({ model, el }) {
    const host = document.createElement("div");
    host.className = "cadenza-player";
    el.append(host);
    const player = mountPlayer(host, true);
    const refresh = () => {
      const heard = model.get("heard").map((take) => ({ ...take, pending: model.get("pending") }));
      player.update([...model.get("steady"), ...model.get("turned"), ...heard], model.get("title"));
    };
    model.on("change", refresh);
    refresh();
    return () => { model.off("change", refresh); player.close(); };
  },
};
"""


@dataclass(frozen=True)
class Take:
    """One version of the music.

    Shape:
        - signal: `(channel, time)`, one or two channels; 1 is full scale
    """

    name: str
    signal: np.ndarray
    sample_rate: int


class Player:
    """A player for one to nine takes; the last expression of a cell shows it.

    Parameters
    ----------
    takes
        Versions of the same music that begin together and last equally long.
    title
        Shown above the takes.
    matched
        Whether level matching is on to begin with: for takes far beyond full scale, which would make all others soft.

    Raises
    ------
    ParameterError
        If there is no take, or more than nine.
    AudioError
        If a signal has another shape than `(channel, time)`, holds NaN, is shorter than 0.4 s, or lasts longer than
        another one.

    >>> tone = 0.1 * np.sin(np.linspace(0, 3000, 32000))
    >>> player = Player([Take("tone", np.stack([tone, tone]), 32000)], "A <b>tone</b>")
    >>> "&lt;b&gt;tone" in player._repr_html_(), "<b>tone" in player._repr_html_()
    (True, False)
    """

    def __init__(self, takes: Sequence[Take], title: str = "", matched: bool = False) -> None:
        if not 1 <= len(takes) <= MAX_TAKES:
            raise ParameterError(f"A player needs 1 to {MAX_TAKES} takes, not {len(takes)}; leave some out.")
        self.title, self.matched = title, matched
        self.takes = [describe_take(take) for take in takes]
        durations_s = [take["duration_s"] for take in self.takes]
        if max(durations_s) - min(durations_s) > _MAX_LENGTH_DIFFERENCE_S:
            raise AudioError(
                f"Takes last from {min(durations_s):.2f} to {max(durations_s):.2f} s; cut them to the same music."
            )

    def _repr_html_(self) -> str:
        takes = [take | {"audio": base64.b64encode(take["audio"]).decode("ascii")} for take in self.takes]
        # "<" must not end the script element, and "<!--" must not begin a comment in it.
        data = json.dumps({"takes": takes, "title": self.title}, allow_nan=False).replace("<", "\\u003c")
        names = ", ".join(escape(take["name"]) for take in self.takes)
        return (
            f'<div class="cadenza-player"><p>{escape(self.title)} ({names}): '
            f"run this cell, or trust the notebook, to listen.</p></div>\n"
            f"<script>(() => {{\n{_SCRIPT}\n"
            f"const data = {data};\n"
            f"const host = document.currentScript.parentElement.querySelector('.cadenza-player');\n"
            f"mountPlayer(host, {json.dumps(self.matched)}).update(data.takes, data.title);\n}})();</script>"
        )

    def save(self, path: Path | str) -> Path:
        """Write the player as a page of its own, complete or not at all, and return its path."""
        path = Path(path)
        page = (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(self.title)}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<style>:root { color-scheme: light dark; } body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }"
            f"</style>\n</head>\n<body>\n<div>{self._repr_html_()}</div>\n</body>\n</html>\n"
        )
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return path


class PlayerWidget(anywidget.AnyWidget):
    """The listening player as a widget: takes can be replaced while it plays, without a gap.

    Each list holds takes as from `describe_take`. Those in `steady` seldom change and need not be sent again when those
    in `turned` do; `pending` marks the ones in `heard` as out of date. Level matching is on at first, because the
    amplified reference goes far beyond full scale.
    """

    _esm = _SCRIPT + _WIDGET_SCRIPT
    title = traitlets.Unicode().tag(sync=True)
    steady: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    turned: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    heard: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    pending = traitlets.Bool(False).tag(sync=True)


def describe_take(take: Take, lossless: bool = False) -> dict[str, Any]:
    """Return what the player's script needs of a take: encoded audio, levels, and what its waveform looks like.

    Parameters
    ----------
    take
        The signal, at its true level.
    lossless
        16-bit FLAC instead of Ogg Vorbis: three times as fast to encode, four times as large.

    Returns
    -------
    dict
        `audio` (bytes) holds the signal times `stored_scale`; `loudness_lufs` and `peak_dbfs` are None for silence;
        `clipped_share` has a value for each channel; `envelope` for each channel and column the least and largest
        sample and whether one of them is clipped.
    """
    signal = np.asarray(take.signal, dtype=np.float64)
    if signal.ndim != 2 or signal.shape[0] not in (1, 2):
        raise AudioError(f"Take {take.name!r} has shape {signal.shape}; give (channel, time) with 1 or 2 channels.")
    samples = torch.from_numpy(signal)
    check_signal(samples, f"Take {take.name!r}")
    loudness_lufs = float(integrated_loudness(samples, take.sample_rate))
    peak = float(np.abs(signal).max())
    stored_scale = _STORED_PEAK / peak if peak else 1.0
    return {
        "name": take.name,
        "sample_rate": take.sample_rate,
        "duration_s": signal.shape[1] / take.sample_rate,
        "loudness_lufs": loudness_lufs if np.isfinite(loudness_lufs) else None,
        "peak_dbfs": 20 * float(np.log10(peak)) if peak else None,
        "clipped_share": np.mean(np.abs(signal) >= FULL_SCALE, axis=1).tolist(),
        "envelope": [_envelope(channel) for channel in signal],
        "stored_scale": stored_scale,
        "media_type": "audio/flac" if lossless else "audio/ogg",
        "audio": _encode(signal * stored_scale, take.sample_rate, lossless),
    }


def _encode(signal: np.ndarray, sample_rate: int, lossless: bool) -> bytes:
    """Return a signal `(channel, time)` within full scale as a FLAC or Ogg Vorbis file."""
    file = io.BytesIO()
    if lossless:
        soundfile.write(file, signal.T, sample_rate, format="FLAC", subtype="PCM_16", compression_level=0.0)
        return file.getvalue()
    with soundfile.SoundFile(
        file, "w", sample_rate, len(signal), format="OGG", subtype="VORBIS", compression_level=_VORBIS_LEVEL
    ) as writer:
        for start in range(0, signal.shape[1], _VORBIS_BLOCK):
            writer.write(signal[:, start : start + _VORBIS_BLOCK].T)
    return file.getvalue()


def _envelope(channel: np.ndarray) -> list[list[float]]:
    """Return least and largest sample and whether one is clipped, for each column of a drawn waveform."""
    starts = np.linspace(0, len(channel), min(_COLUMNS, len(channel)), endpoint=False).astype(int)
    low, high = np.minimum.reduceat(channel, starts), np.maximum.reduceat(channel, starts)
    clipped = np.maximum(-low, high) >= FULL_SCALE
    return np.stack([low.round(3), high.round(3), clipped], axis=1).tolist()
