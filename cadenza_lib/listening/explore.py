"""Knobs for every stage of the chain, for people in JupyterLab: turn one and hear, see and read what changes.

Sound, levels, spectra and clipped shares follow a knob at once; how it sounds to the listener and HAAQI are computed in
the background, marked as pending until they are ready, and dropped when a knob moves again. Two threads do the work,
one for each: a request that has been overtaken is skipped, so that dragging a knob never makes a queue. There is no
`ipywidgets.Output` and no `interact`, because they stop a notebook that is run without a browser.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as ipw
import numpy as np
import pandas as pd
import torch
import traitlets
from matplotlib.figure import Figure

from cadenza_lib import figures
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.data.corpus import Split
from cadenza_lib.data.listeners import (
    AUDIOGRAM_FREQUENCIES,
    BISGAARD_THRESHOLDS_DB_HL,
    Audiogram,
    Listener,
    ear_audiogram,
    pure_tone_average_db_hl,
    standard_audiogram,
)
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.figures.common import LiveFigure
from cadenza_lib.listening import stages
from cadenza_lib.listening.background import LatestTask
from cadenza_lib.listening.player import PlayerWidget, Take, describe_take
from cadenza_lib.listening.stages import Excerpt, Setting, Stages
from cadenza_lib.separation.separators import BOUNDS, SHIPPED_MODELS

__all__ = ["AudiogramWidget", "Explorer", "draw_stages"]

_LOGGER = logging.getLogger(__name__)

_GAIN_LIMIT_DB = 20.0
_LEVEL_LIMIT_DB = 24.0
_SCENES_IN_MEMORY = 4
_TURNED = ("remixed", "output", "reference_amplified")  # takes that follow the knobs and are drawn
_PARTS = ("cepstral_correlation", "fine_structure", "loudness", "spectrum", "nonlinear", "linear")  # of HAAQI
_NUMBERS_STYLE = """<style>.cadenza-numbers table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.cadenza-numbers th, .cadenza-numbers td { padding: 3px 14px 3px 0; text-align: right; font-weight: 400; }
.cadenza-numbers tr:first-child th { opacity: .7; } .cadenza-numbers th:first-child { text-align: left; }
.cadenza-numbers td[data-name="haaqi"] { font-weight: 700; } .cadenza-explorer img { border-radius: 8px; }
[data-jp-theme-light="false"] .cadenza-explorer img { filter: invert(.93) hue-rotate(180deg); }</style>"""
_WRAP = {"flex_flow": "row wrap"}
_COLUMN = {"flex": "1 1 420px"}
_SLIDER = {"style": {"description_width": "11em"}, "layout": {"width": "auto"}}
_OWN = "as drawn"  # in the choice of standard audiograms: the listener's, or dragged by hand


def draw_stages(heard: Sequence[Take], setting: Setting) -> Figure:
    """Return a figure with the spectra of takes at both ears, and the prescribed gain."""
    figure = Figure(figsize=(11, 3.4))
    table = stages.spectrum_table(heard)
    *spectra, gain = figure.subplots(1, 3)
    for axes, ear in zip(spectra, EARS, strict=True):
        figures.spectra(table, axes, ear)
    spectra[0].legend(loc="lower center")
    figures.insertion_gain(stages.gain_table(setting), gain)
    return figure


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


class Explorer(ipw.VBox):
    """The knobs of one excerpt: scene, listener, systems, gains, fusion, output level and audiogram.

    The first answer is computed before the widget is shown, so that unusable data stop the cell.

    Parameters
    ----------
    corpus, split
        "twin" or the path of a corpus, and the name of a split.
    scene, listener
        Ids to begin with.
    systems
        Systems to begin with, and to be offered besides the bounds and the networks that ship with the package.
    start_s, duration_s
        The excerpt of every song, in seconds.
    device
        Where networks run; see `separation.load`.
    chain
        Prescription and output stage; the rest is under the knobs.
    audiogram
        A file or text to begin with in the place of the listener; see `Split.listener`.

    Raises
    ------
    CadenzaError
        If the corpus, scene, listener, a system or the audiogram cannot be used.
    """

    def __init__(
        self,
        corpus: str,
        split: str,
        scene: str,
        listener: str,
        systems: Sequence[str],
        start_s: float = 0.0,
        duration_s: float = 6.0,
        device: str = "auto",
        chain: ChainSettings = OFFICIAL,
        audiogram: str = "",
    ) -> None:
        self._chain = chain
        self._split, self._part, self._device = split, (start_s, duration_s), device
        self._corpus = open_corpus(corpus)
        self._excerpts: dict[tuple[Any, ...], Excerpt] = {}
        self._quick, self._slow = LatestTask(self._show_error), LatestTask(self._show_error)
        self._steady_key: tuple[Any, ...] = ()  # what the player's steady takes were made with
        self._turns = 0  # of all knobs: an answer to an earlier turn is out of date
        self._quiet = False  # whether the program, not a person, is turning knobs
        self._turned_s = time.monotonic()
        person = self._corpus.split(split).listener(listener, audiogram)
        self._own = {person.id: person} if audiogram else {}
        self._make_knobs(scene, person.id, systems)
        self.player = PlayerWidget()
        self.status, self.numbers = ipw.HTML(), ipw.HTML()
        self.picture = ipw.Image(format="png", layout={"max_width": "1180px", "object_fit": "contain"})
        super().__init__(self._layout(), layout={"max_width": "1180px"})
        self.add_class("cadenza-explorer")
        self._set_scene()
        self._set_listener()
        self._set_systems()
        excerpt, setting = self._excerpt(), self._setting()
        with figures.style():  # here, because it sets global parameters for a moment, which threads must not do
            takes = stages.stage_takes(stages.run_chain(excerpt, setting))
            self._figure = LiveFigure(draw_stages([takes[name] for name in _TURNED], setting))
        self._turned_s = time.monotonic()
        self._answer()
        self._watch()

    def wait(self) -> None:
        """Wait until every answer is shown."""
        self._quick.wait()
        self._slow.wait()

    def _make_knobs(self, scene: str, listener: str, systems: Sequence[str]) -> None:
        split = self._corpus.split(self._split)
        if scene not in split.scenes:
            raise ParameterError(f"Scene {scene!r} is not in split {split.name!r}; it has {', '.join(split.scenes)}.")
        self.corpus = ipw.Text(self._corpus.name, description="Corpus", continuous_update=False)
        self.scene = ipw.Dropdown(options=_scene_options(split), value=scene, description="Scene")
        self.listener = ipw.Dropdown(options=list(self._listeners(split)), value=listener, description="Listener")
        offered = list(dict.fromkeys([*systems, *SHIPPED_MODELS, *BOUNDS]))
        self.systems = ipw.SelectMultiple(options=offered, value=list(systems), rows=4, description="Systems")
        self.gains = {stem: _level_slider(stem.capitalize(), _GAIN_LIMIT_DB) for stem in STEMS}
        self.mixture_weight = _share_slider("Mixture", MIXTURE_WEIGHT, 0.01)
        self.model_weights: dict[str, ipw.FloatSlider] = {}
        self._weights_box = ipw.VBox()
        self.output_level_db = _level_slider("Level", _LEVEL_LIMIT_DB)
        self.audiogram = AudiogramWidget()
        choices = [_OWN, *BISGAARD_THRESHOLDS_DB_HL]
        self.standard = {ear: ipw.Dropdown(options=choices, description=f"{ear.capitalize()} ear") for ear in EARS}

    def _layout(self) -> list[ipw.Widget]:
        knobs = [ipw.HTML("<b>Gains of the stems (dB)</b>"), *self.gains.values()]
        knobs += [ipw.HTML("<b>Fusion: share of the mixture, weights of the systems</b>"), self.mixture_weight]
        knobs += [self._weights_box, ipw.HTML("<b>Level before the clip (dB)</b>"), self.output_level_db]
        ears = [self.audiogram, ipw.HBox(list(self.standard.values()), layout=_WRAP)]
        return [
            ipw.HBox([ipw.VBox([self.corpus, self.scene, self.listener]), self.systems], layout=_WRAP),
            ipw.HBox([ipw.VBox(knobs, layout=_COLUMN), ipw.VBox(ears, layout=_COLUMN)], layout=_WRAP),
            *(self.player, self.status, self.numbers, self.picture),
        ]

    def _watch(self) -> None:
        self.corpus.observe(self._changed(self._set_corpus), "value")
        self.scene.observe(self._changed(self._set_scene), "value")
        self.listener.observe(self._changed(self._set_listener), "value")
        self.systems.observe(self._changed(self._set_systems), "value")
        for knob in (*self.gains.values(), self.mixture_weight, self.output_level_db):
            knob.observe(self._changed(), "value")
        for ear in EARS:
            self.standard[ear].observe(self._changed(functools.partial(self._set_standard, ear)), "value")
            self.audiogram.observe(self._changed(functools.partial(self._set_own, ear)), ear)

    def _changed(self, consequence: Callable[[], None] = lambda: None) -> Callable[[Any], None]:
        """Return an observer that sets what depends on a knob, and asks for an answer once."""

        def observer(_: Any) -> None:
            if self._quiet:
                return
            self._quiet, self._turned_s = True, time.monotonic()
            try:
                consequence()
            except CadenzaError as error:
                self._show_error(error)
                return
            finally:
                self._quiet = False
            self._turns += 1
            self.player.pending = True
            self._show_status("Computing …")
            self._quick.submit(self._answer)

        return observer

    def _set_corpus(self) -> None:
        corpus = open_corpus(self.corpus.value)
        split = corpus.split(self._split)  # may fail, and then nothing has been changed
        self._corpus = corpus
        self.scene.options, self.listener.options = _scene_options(split), list(self._listeners(split))
        self._set_scene()
        self._set_listener()

    def _set_scene(self) -> None:
        scene = self._corpus.split(self._split).scenes[self.scene.value]
        for slider, gain_db in zip(self.gains.values(), self._corpus.gains_db(scene).tolist(), strict=True):
            slider.value = gain_db

    def _listeners(self, split: Split) -> dict[str, Listener]:
        return {**split.listeners, **self._own}

    def _set_listener(self) -> None:
        listener = self._listeners(self._corpus.split(self._split))[self.listener.value]
        for ear in EARS:
            self.audiogram.show(ear, ear_audiogram(listener, ear))
            self.standard[ear].value = _OWN

    def _set_standard(self, ear: str) -> None:
        if self.standard[ear].value != _OWN:
            self.audiogram.show(ear, standard_audiogram(self.standard[ear].value))

    def _set_own(self, ear: str) -> None:
        self.standard[ear].value = _OWN

    def _set_systems(self) -> None:
        chosen = self.systems.value
        self.model_weights = {name: _share_slider(name, 1.0, 0.05) for name in chosen}
        for slider in self.model_weights.values():
            slider.observe(self._changed(), "value")
        self._weights_box.children = list(self.model_weights.values()) if len(chosen) > 1 else []

    def _excerpt_key(self) -> tuple[Any, ...]:
        return self._corpus.name, self.scene.value, self.systems.value

    def _excerpt(self) -> Excerpt:
        key = self._excerpt_key()
        if key not in self._excerpts:
            self._show_status(f"Reading and separating {escape(self.scene.value)} …")
            while len(self._excerpts) >= _SCENES_IN_MEMORY:
                self._excerpts.pop(next(iter(self._excerpts)))
            self._excerpts[key] = stages.load_excerpt(
                self._corpus, self._split, self.scene.value, self.systems.value, *self._part, device=self._device
            )
        return self._excerpts[key]

    def _setting(self) -> Setting:
        weights = np.array([slider.value for slider in self.model_weights.values()])
        if not weights.any():
            weights += 1.0
        return Setting(
            gains_db=tuple(slider.value for slider in self.gains.values()),
            listener=self.audiogram.listener(),
            chain=replace(
                self._chain,
                model_weights=tuple(weights / weights.sum()),
                mixture_weight=self.mixture_weight.value,
                output_level_db=self.output_level_db.value,
            ),
        )

    def _answer(self) -> None:
        """Compute and show all that is quick, then ask for the rest."""
        turned_s, turn = self._turned_s, self._turns
        excerpt, setting = self._excerpt(), self._setting()
        current = stages.run_chain(excerpt, setting)
        takes = stages.stage_takes(current)
        turned = [takes[name] for name in _TURNED]
        with self.player.hold_sync():
            self.player.turned = _describe(turned)
            self.player.title = f"{excerpt.song.name}, {self.scene.value}"
            self.player.pending = True
        self.numbers.value = _numbers_html(setting.listener, current)
        self._update_picture(turned, setting)
        self._show_status(f"Answered in {1000 * (time.monotonic() - turned_s):.0f} ms; HAAQI and hearing are pending …")
        steady_key = (*self._excerpt_key(), setting.chain.model_weights, setting.chain.mixture_weight)
        if steady_key != self._steady_key:
            self.player.steady = _describe([takes["mixture"], *stages.stem_takes(stages.fused_stems(excerpt, setting))])
            self._steady_key = steady_key
        if turn == self._turns:
            self._slow.submit(functools.partial(self._score, excerpt, setting, current, takes["output"], turn))

    def _score(self, excerpt: Excerpt, setting: Setting, current: Stages, output: Take, turn: int) -> None:
        """Compute and show what takes longer: HAAQI first, then how the output sounds to the listener."""
        table = stages.score_table(excerpt, current, setting)
        if turn != self._turns:
            return
        self.numbers.value = _numbers_html(setting.listener, current, table)
        heard = describe_take(stages.heard_take(output, current, setting.listener), lossless=True)
        if turn != self._turns:
            return
        with self.player.hold_sync():
            self.player.heard, self.player.pending = [heard], False
        self._show_status("Ready.")

    def _update_picture(self, takes: Sequence[Take], setting: Setting) -> None:
        table, gains = stages.spectrum_table(takes), stages.gain_table(setting)
        *spectra, gain = self._figure.axes
        for axes, ear, gain_line in zip(spectra, EARS, gain.lines, strict=True):
            for line, take in zip(axes.lines, takes, strict=True):
                line.set_ydata(table[(table["ear"] == ear) & (table["signal"] == take.name)]["level_db"])
            gain_line.set_ydata(gains[gains["ear"] == ear]["gain_db"])
        self.picture.value = self._figure.png()

    def _show_status(self, html: str) -> None:
        self.status.value = f'<span class="cadenza-status">{html}</span>'

    def _show_error(self, error: Exception) -> None:
        if not isinstance(error, CadenzaError):
            _LOGGER.error("The explorer failed.", exc_info=error)
        self._show_status(f'<b style="color: #e5484d">{escape(str(error) or type(error).__name__)}</b>')


def _level_slider(description: str, limit_db: float) -> ipw.FloatSlider:
    limits = {"min": -limit_db, "max": limit_db, "step": 0.5}
    return ipw.FloatSlider(value=0.0, readout_format="+.1f", description=description, **limits, **_SLIDER)


def _share_slider(description: str, value: float, step: float) -> ipw.FloatSlider:
    limits = {"min": 0.0, "max": 1.0, "step": step}
    return ipw.FloatSlider(value=value, readout_format=".2f", description=description, **limits, **_SLIDER)


def _scene_options(split: Split) -> list[tuple[str, str]]:
    return [(f"{name}: {scene.music}", name) for name, scene in split.scenes.items()]


def _describe(takes: Sequence[Take]) -> list[dict[str, Any]]:
    """Describe several takes, on two cores: transforms and encoders run outside of Python."""
    with ThreadPoolExecutor(max_workers=2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(functools.partial(describe_take, lossless=True), takes))


def _numbers_html(listener: Listener, current: Stages, scores: pd.DataFrame | None = None) -> str:
    """Return the table of both ears; without scores, these are pending."""
    header = ["Ear", "PTA (dB HL)", "Clipped", "HAAQI", *(name.replace("_", " ") for name in _PARTS)]
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in header) + "</tr>"]
    for index, ear in enumerate(EARS):
        pta_db_hl = pure_tone_average_db_hl(ear_audiogram(listener, ear))
        pta = "not measured" if np.isnan(pta_db_hl) else f"{pta_db_hl:.1f}"
        cells = {"pta_db_hl": pta, "clipped_share": f"{100 * current.output.clipped_share[index]:.1f} %"}
        for name in ("haaqi", *_PARTS):
            cells[name] = "pending" if scores is None else f"{scores[name].iloc[index]:.3f}"
        values = "".join(f'<td data-ear="{ear}" data-name="{name}">{text}</td>' for name, text in cells.items())
        lines.append(f"<tr><th>{ear}</th>{values}</tr>")
    return f'<div class="cadenza-numbers">{_NUMBERS_STYLE}<table>{"".join(lines)}</table></div>'
