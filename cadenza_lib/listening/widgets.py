"""Widgets that ipywidgets does not have, the listening player and an audiogram to drag, and a thread to serve them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets

from cadenza_lib.core.conventions import EARS
from cadenza_lib.data.listeners import Audiogram, Listener
from cadenza_lib.listening.player import player_script

__all__ = ["AUDIOGRAM_FREQUENCIES", "AudiogramWidget", "LatestTask", "PlayerWidget"]

AUDIOGRAM_FREQUENCIES = (250, 500, 1000, 2000, 3000, 4000, 6000, 8000)
"""Frequencies of the points that can be dragged, in Hz: all that NAL-R and HAAQI look at are among them."""

_PLAYER_MODULE = """
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


class PlayerWidget(anywidget.AnyWidget):
    """The listening player as a widget: takes can be replaced while it plays, without a gap.

    Each list holds takes as from `player.describe_take`. Those in `steady` seldom change and need not be sent again
    when those in `turned` do; `pending` marks the ones in `heard` as out of date. Levels are matched to begin
    with, since the amplified reference goes far beyond full scale.
    """

    _esm = player_script() + _PLAYER_MODULE
    title = traitlets.Unicode().tag(sync=True)
    steady: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    turned: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    heard: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    pending = traitlets.Bool(False).tag(sync=True)


class AudiogramWidget(anywidget.AnyWidget):
    """The audiograms of both ears in dB HL at `AUDIOGRAM_FREQUENCIES`, with points to drag."""

    _esm = Path(__file__).with_name("audiogram.js")
    frequencies = traitlets.List(list(AUDIOGRAM_FREQUENCIES)).tag(sync=True)
    left = traitlets.List([0.0] * len(AUDIOGRAM_FREQUENCIES)).tag(sync=True)
    right = traitlets.List([0.0] * len(AUDIOGRAM_FREQUENCIES)).tag(sync=True)

    def show(self, ear: str, audiogram: Audiogram) -> None:
        """Move the points of an ear to an audiogram."""
        setattr(self, ear, audiogram.resample(np.array(AUDIOGRAM_FREQUENCIES, dtype=float)).levels.tolist())

    def listener(self) -> Listener:
        """Return a listener with the ears that are shown."""
        left, right = (Audiogram(np.array(getattr(self, ear)), np.array(AUDIOGRAM_FREQUENCIES)) for ear in EARS)
        return Listener(left, right, id="explored")


class LatestTask:
    """A thread that runs the newest of the tasks it is given, and skips those that were overtaken while they waited."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        # Threads of torch's own in every thread here would wait for each other, and burn the processor meanwhile.
        self._pool = ThreadPoolExecutor(1, "cadenza", initializer=torch.set_num_threads, initargs=(1,))
        self._on_error = on_error
        self._newest: Future[None] | None = None
        self._number = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task after the one that is running now, instead of any that waits."""
        self._number += 1
        self._newest = self._pool.submit(self._run, task, self._number)

    def wait(self) -> None:
        """Wait for the task that was submitted last."""
        if self._newest is not None:
            self._newest.result()

    def _run(self, task: Callable[[], None], number: int) -> None:
        if number != self._number:
            return
        try:
            task()
        except Exception as error:  # a thread has no other way to tell the person at the knobs
            self._on_error(error)
