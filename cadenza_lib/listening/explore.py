"""Knobs for every stage of the chain, for people in JupyterLab: turn one and hear, see and read what changes.

Sound, levels, spectra and clipped shares follow a knob at once; how it sounds to the listener and HAAQI are computed in
the background, marked as pending until they are there, and dropped when a knob moves again. Two threads do the work,
one for each: a request that has been overtaken is skipped, so that dragging a knob never makes a queue. There is no
`ipywidgets.Output` and no `interact`, which stop a notebook that is run without a browser.
"""

import functools
import io
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from cadenza_lib import figures
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.data.corpus import Split
from cadenza_lib.data.listeners import (
    BISGAARD_THRESHOLDS_DB_HL,
    Listener,
    ear_audiogram,
    pure_tone_average_db_hl,
    standard_audiogram,
)
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.listening import stages
from cadenza_lib.listening.player import Take, describe_take
from cadenza_lib.listening.stages import Excerpt, Setting, Stages
from cadenza_lib.listening.widgets import AudiogramWidget, LatestTask, PlayerWidget
from cadenza_lib.separation.separators import BOUNDS, DEMO_MODELS

__all__ = ["Explorer", "draw_stages"]

_LOGGER = logging.getLogger(__name__)

_GAIN_LIMIT_DB = 20.0
_LEVEL_LIMIT_DB = 24.0
_SCENES_IN_MEMORY = 4
_TURNED = ("remixed", "output", "reference_amplified")  # takes that follow the knobs, and are drawn
_PARTS = ("cepstral_correlation", "fine_structure", "loudness", "spectrum", "nonlinear", "linear")  # of HAAQI
_NUMBERS_STYLE = """<style>.cadenza-numbers table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.cadenza-numbers th, .cadenza-numbers td { padding: 3px 14px 3px 0; text-align: right; font-weight: 400; }
.cadenza-numbers tr:first-child th { opacity: .7; } .cadenza-numbers th:first-child { text-align: left; }
.cadenza-numbers td[data-name="haaqi"] { font-weight: 700; } .cadenza-explorer img { border-radius: 8px; }
[data-jp-theme-light="false"] .cadenza-explorer img { filter: invert(.93) hue-rotate(180deg); }</style>"""
_WRAP = {"flex_flow": "row wrap"}
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


class Explorer(ipw.VBox):
    """The knobs of one excerpt: scene, listener, systems, gains, fusion, output level and audiogram.

    The first answer is computed before the widget is shown, so that data that cannot be used stop the cell.

    Parameters
    ----------
    corpus
        "demo" or the path of a corpus.
    split
        Name of the split.
    scene, listener
        Ids to begin with.
    systems
        Systems to begin with, and to be offered besides the bounds and the demo's networks.
    start_s, duration_s
        The excerpt of every song, in seconds.
    device
        Where networks run; see `separation.load`.
    chain
        Prescription and output stage; the rest is under the knobs.

    Raises
    ------
    CadenzaError
        If the corpus, scene, listener or a system cannot be used.
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
    ) -> None:
        self._chain = chain
        self._split, self._part, self._device = split, (start_s, duration_s), device
        self._corpus = open_corpus(corpus)
        self._excerpts: dict[tuple[Any, ...], Excerpt] = {}
        self._quick, self._slow = LatestTask(self._fail), LatestTask(self._fail)
        self._steady_key: tuple[Any, ...] = ()  # what the player's steady takes were made with
        self._turns = 0  # of all knobs: what belongs to an earlier one is out of date
        self._quiet = False  # while knobs are set by the program
        self._turned_s = time.monotonic()
        self._make_knobs(scene, listener, systems)
        self.player = PlayerWidget()
        self.status, self.numbers = ipw.HTML(), ipw.HTML()
        self.picture = ipw.Image(format="png", layout={"max_width": "1180px", "object_fit": "contain"})
        super().__init__(self._layout(), layout={"max_width": "1180px"})
        self.add_class("cadenza-explorer")
        self._set_scene()
        self._set_listener()
        self._set_systems()
        excerpt, setting = self._excerpt(), self._setting()
        with figures.style():  # sets global parameters for a moment, which threads must not
            takes = stages.stage_takes(stages.run_chain(excerpt, setting))
            self._figure = draw_stages([takes[name] for name in _TURNED], setting)
            self._canvas, self._background = _freeze(self._figure)
        self._turned_s = time.monotonic()
        self._answer()
        self._watch()

    def wait(self) -> None:
        """Wait until all that was asked for is there."""
        self._quick.wait()
        self._slow.wait()

    def _make_knobs(self, scene: str, listener: str, systems: Sequence[str]) -> None:
        split = self._corpus.split(self._split)
        for name, known, kind in ((scene, split.scenes, "scene"), (listener, split.listeners, "listener")):
            if name not in known:
                raise ParameterError(f"{kind} {name!r} is not in split {self._split!r}; it has {', '.join(known)}.")
        self.corpus = ipw.Text(self._corpus.name, description="Corpus", continuous_update=False)
        self.scene = ipw.Dropdown(options=_scene_options(split), value=scene, description="Scene")
        self.listener = ipw.Dropdown(options=list(split.listeners), value=listener, description="Listener")
        offered = list(dict.fromkeys([*systems, *DEMO_MODELS, *BOUNDS]))
        self.systems = ipw.SelectMultiple(options=offered, value=list(systems), rows=4, description="Systems")
        self.gains = {
            stem: _slider(stem.capitalize(), 0.0, -_GAIN_LIMIT_DB, _GAIN_LIMIT_DB, 0.5, "+.1f") for stem in STEMS
        }
        self.mixture_weight = _slider("Mixture", MIXTURE_WEIGHT, 0.0, 1.0, 0.01, ".2f")
        self.model_weights: dict[str, ipw.FloatSlider] = {}
        self._weights_box = ipw.VBox()
        self.output_level_db = _slider("Level", 0.0, -_LEVEL_LIMIT_DB, _LEVEL_LIMIT_DB, 0.5, "+.1f")
        self.audiogram = AudiogramWidget()
        choices = [_OWN, *BISGAARD_THRESHOLDS_DB_HL]
        self.standard = {ear: ipw.Dropdown(options=choices, description=f"{ear.capitalize()} ear") for ear in EARS}

    def _layout(self) -> list[ipw.Widget]:
        def heading(text: str) -> ipw.HTML:
            return ipw.HTML(f"<b>{text}</b>")

        knobs = [heading("Gains of the stems (dB)"), *self.gains.values()]
        knobs += [heading("Fusion: share of the mixture, weights of the systems"), self.mixture_weight]
        knobs += [self._weights_box, heading("Level before the clip (dB)"), self.output_level_db]
        ears = ipw.VBox([self.audiogram, ipw.HBox(list(self.standard.values()), layout=_WRAP)])
        ears.layout = {"flex": "1 1 420px"}
        return [
            ipw.HBox([ipw.VBox([self.corpus, self.scene, self.listener]), self.systems], layout=_WRAP),
            ipw.HBox([ipw.VBox(knobs, layout={"flex": "1 1 420px"}), ears], layout=_WRAP),
            self.player,
            self.status,
            self.numbers,
            self.picture,
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
                self._fail(error)
                return
            finally:
                self._quiet = False
            self._turns += 1
            self.player.pending = True
            self._tell("Computing …")
            self._quick.submit(self._answer)

        return observer

    def _set_corpus(self) -> None:
        corpus = open_corpus(self.corpus.value)
        split = corpus.split(self._split)  # before anything is changed
        self._corpus = corpus
        self.scene.options, self.listener.options = _scene_options(split), list(split.listeners)
        self._set_scene()
        self._set_listener()

    def _set_scene(self) -> None:
        scene = self._corpus.split(self._split).scenes[self.scene.value]
        for slider, gain_db in zip(self.gains.values(), self._corpus.gains_db(scene).tolist(), strict=True):
            slider.value = gain_db

    def _set_listener(self) -> None:
        listener = self._corpus.split(self._split).listeners[self.listener.value]
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
        self.model_weights = {name: _slider(name, 1.0, 0.0, 1.0, 0.05, ".2f") for name in chosen}
        for slider in self.model_weights.values():
            slider.observe(self._changed(), "value")
        self._weights_box.children = list(self.model_weights.values()) if len(chosen) > 1 else []

    def _excerpt(self) -> Excerpt:
        key = (self._corpus.name, self.scene.value, self.systems.value)
        if key not in self._excerpts:
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
        if (key := (self._corpus.name, self.scene.value, self.systems.value)) not in self._excerpts:
            self._tell(f"Reading and separating {escape(self.scene.value)} …")
        excerpt, setting = self._excerpt(), self._setting()
        current = stages.run_chain(excerpt, setting)
        takes = stages.stage_takes(current)
        with self.player.hold_sync():
            self.player.turned = _describe([takes[name] for name in _TURNED])
            self.player.title = f"{excerpt.song.name}, {self.scene.value}"
            self.player.pending = True
        self.numbers.value = _numbers_html(setting.listener, current)
        self._update_picture([takes[name] for name in _TURNED], setting)
        self._tell(f"Answered in {1000 * (time.monotonic() - turned_s):.0f} ms; HAAQI and hearing are pending …")
        steady_key = (*key, setting.chain.model_weights, setting.chain.mixture_weight)
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
        self._tell("Ready.")

    def _update_picture(self, takes: Sequence[Take], setting: Setting) -> None:
        """Draw the lines of the figure on what was frozen: ten times as fast as drawing it anew."""
        table, gains = stages.spectrum_table(takes), stages.gain_table(setting)
        *spectra, gain = self._figure.axes
        for axes, ear in zip(spectra, EARS, strict=True):
            for line, take in zip(axes.lines, takes, strict=True):
                line.set_ydata(table[(table["ear"] == ear) & (table["signal"] == take.name)]["level_db"])
        for line, ear in zip(gain.lines, EARS, strict=True):
            line.set_ydata(gains[gains["ear"] == ear]["gain_db"])
        self._canvas.restore_region(self._background)
        for axes in self._figure.axes:
            for line in axes.lines:
                axes.draw_artist(line)
        picture = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())
        imsave(picture, pixels, format="png", origin="upper", pil_kwargs={"compress_level": 1})
        self.picture.value = picture.getvalue()

    def _tell(self, html: str) -> None:
        self.status.value = f'<span class="cadenza-status">{html}</span>'

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, CadenzaError):
            _LOGGER.error("The explorer failed.", exc_info=error)
        self._tell(f'<b style="color: #e5484d">{escape(str(error) or type(error).__name__)}</b>')


def _freeze(figure: Figure) -> tuple[FigureCanvasAgg, Any]:
    """Draw all of a figure but its lines, and return its canvas and what was drawn."""
    for axes in figure.axes:
        for line in axes.lines:
            line.set_animated(True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas, canvas.copy_from_bbox(figure.bbox)


def _slider(description: str, value: float, low: float, high: float, step: float, form: str) -> ipw.FloatSlider:
    return ipw.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        readout_format=form,
        description=description,
        style={"description_width": "11em"},
        layout={"width": "auto"},
    )


def _scene_options(split: Split) -> list[tuple[str, str]]:
    return [(f"{name}: {scene.music}", name) for name, scene in split.scenes.items()]


def _describe(takes: Sequence[Take]) -> list[dict[str, Any]]:
    """Describe several takes, on two cores: transforms and encoders run outside of Python."""
    with ThreadPoolExecutor(max_workers=2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(functools.partial(describe_take, lossless=True), takes))


def _numbers_html(listener: Listener, current: Stages, scores: pd.DataFrame | None = None) -> str:
    """Return the table of both ears; scores that are not there yet are pending."""
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
