"""The player in a real browser: what it plays is what it was given, and switching cannot be heard."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cadenza_lib.listening.player import Player, Take

RATE = 44100
DURATION_S = 4.0
HOST = "document.querySelector('.cadenza-player').cadenzaPlayer"

RECORD = """async () => {
  const { context, master } = HOST.graph();
  const source = `registerProcessor("tape", class extends AudioWorkletProcessor {
    process(inputs) { if (inputs[0].length) this.port.postMessage(inputs[0].map((x) => x.slice())); return true; } });`;
  await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(source)}`);
  const tape = new AudioWorkletNode(context, "tape", { channelCount: 2, channelCountMode: "explicit" });
  window.recorded = [];
  tape.port.onmessage = (event) => window.recorded.push(event.data);
  master.connect(tape).connect(context.destination);
}""".replace("HOST", HOST)


def music(seed: int = 0, level: float = 0.2) -> np.ndarray:
    """Return noise below 4 kHz, `(2, time)`: it has an edge at every sample, so that a gap or a shift shows."""
    spectrum = np.random.default_rng(seed).normal(size=(2, round(DURATION_S * RATE) // 2 + 1)).astype(complex)
    spectrum[:, round(4000 * DURATION_S) :] = 0
    signal = np.fft.irfft(spectrum)
    return level * signal / np.abs(signal).max()


def states(page) -> dict:
    return page.evaluate(f"{HOST}.played()")


def wait_for(page, state: str) -> None:
    page.wait_for_selector(f".player[data-state={state}]")


def recorded(page) -> np.ndarray:
    """Return what the page has played since the recording began, `(2, time)`."""
    blocks = page.evaluate("window.recorded.map((block) => block.map((channel) => Array.from(channel)))")
    return np.concatenate([np.array(block if len(block) == 2 else block * 2) for block in blocks], axis=1)


@pytest.fixture
def opened(tmp_path: Path, open_page: Callable):
    def open_player(*takes: Take, title: str = "Takes"):
        watched = open_page()
        watched.page.goto(Player(takes, title).save(tmp_path / "player.html").as_uri())
        return watched

    return open_player


STALL = """() => {
  const cancel = AudioParam.prototype.cancelScheduledValues;
  AudioParam.prototype.cancelScheduledValues = function (start) {
    const end = performance.now() + 5;
    while (performance.now() < end);
    return cancel.call(this, start);
  };
}"""  # a busy machine stops the page for longer than a quantum of the audio thread, between any two takes


def test_switching_between_equal_takes_leaves_the_music_as_it_is(opened) -> None:
    signal = music()
    watched = opened(*(Take(name, signal, RATE) for name in ("one", "two", "three")))
    page = watched.page
    page.click("button.play")
    wait_for(page, "playing")
    page.evaluate(RECORD)
    page.evaluate(STALL)
    page.wait_for_timeout(300)
    for key in "2313":
        page.keyboard.press(key)
        page.wait_for_timeout(150)
    page.wait_for_timeout(500)
    tape = recorded(page)[:, : round(1.0 * RATE)]  # from somewhere in the signal, which loops
    heard = np.trim_zeros(tape[0], "f")[RATE // 10 :]
    decoded = np.array(page.evaluate(f"Array.from({HOST}.graph().buffers[0].getChannelData(0))"))
    decoded *= np.abs(signal).max() / 0.9  # what is stored has a peak of 0.9
    looped = np.tile(decoded, 2)
    size = 1 << 19
    match = np.fft.irfft(np.fft.rfft(looped, size) * np.conj(np.fft.rfft(heard, size)), size)
    start = int(np.argmax(match[: len(decoded)]))
    error = heard - looped[start : start + len(heard)]
    # A gap, a click or a shift by one sample makes errors of the signal's size; the browser computes in float32.
    assert np.abs(error).max() < 1e-3 * np.abs(heard).max()
    assert states(page)["active"] == 2
    assert watched.complaints == []


def test_all_takes_start_at_the_same_sample(opened) -> None:
    signal = music()
    watched = opened(Take("signal", signal, RATE), Take("quieter", 0.25 * signal, RATE), Take("again", signal, RATE))
    page = watched.page
    page.click("button.play")
    wait_for(page, "playing")
    buffers = page.evaluate(
        f"{HOST}.graph().buffers.map((buffer) => Array.from(buffer.getChannelData(0).slice(0, 40000)))"
    )
    for buffer in buffers:
        decoded = np.array(buffer)
        lags = [np.dot(decoded[100:-100], signal[0, 100 + lag : 40000 - 100 + lag]) for lag in range(-100, 100)]
        assert int(np.argmax(lags)) - 100 == 0  # samples


def test_keys_switch_play_and_match_levels_without_clipping(opened) -> None:
    watched = opened(
        Take("soft", music(level=0.1), RATE),
        Take("loud", music(level=0.8), RATE),
        Take("beyond", music(level=3.0), RATE),
    )
    page = watched.page
    page.locator(".player").focus()
    page.keyboard.press("3")
    assert page.get_attribute(".player", "data-active") == "3"
    page.keyboard.press("9")  # there is no such take
    assert states(page)["active"] == 2
    # 3 is 9.5 dB beyond full scale: all takes are turned down by the same two steps of 6 dB.
    assert states(page)["gains_db"] == [-12, -12, -12]
    assert "12.0 dB lower" in page.text_content(".note")
    page.keyboard.press("m")
    matched = np.array(states(page)["gains_db"])
    # The same noise at three levels, so that the gains undo the levels, and its peak comes to full scale.
    np.testing.assert_allclose(matched, -20 * np.log10([0.1, 0.8, 3.0]), atol=1e-9)
    assert page.text_content("tbody tr:nth-child(3) .gain") == "\u22129.5 dB"
    assert "Levels are matched" in page.text_content(".note")
    page.keyboard.press("m")
    page.keyboard.press(" ")
    wait_for(page, "playing")
    before = states(page)["position_s"]
    page.wait_for_timeout(400)
    assert states(page)["position_s"] != before
    page.keyboard.press(" ")
    wait_for(page, "stopped")
    assert watched.complaints == []


def test_levels_and_clipped_samples_stand_on_the_page(opened) -> None:
    signal = music(level=0.5)
    signal[1, 1000 : 1000 + signal.shape[1] // 10] = 1.0
    watched = opened(Take("clipped", signal, RATE), Take("silence", 0 * signal, RATE))
    cells = watched.page.locator("tbody tr:nth-child(1) td").all_text_contents()
    assert cells[2:5] == ["0.0 dBFS", "0 %", "10.0 %"]
    assert watched.page.locator("tbody tr:nth-child(2) td").all_text_contents()[1:3] == ["silent", "silent"]
    red = watched.page.evaluate("""() => {
      const canvas = document.querySelector('.cadenza-player').shadowRoot.querySelector('canvas');
      const lane = (top) => canvas.getContext('2d').getImageData(0, top, canvas.width, canvas.height / 2).data;
      const count = (data) => {
        let n = 0;
        for (let i = 0; i < data.length; i += 4) n += data[i] > 180 && data[i + 2] < 120;
        return n;
      };
      return [count(lane(0)), count(lane(canvas.height / 2))];
    }""")
    assert red[0] == 0
    assert red[1] > 0


@pytest.mark.parametrize(
    "name", ["<script>window.bad = 1</script>", "</script><img src=x onerror='window.bad = 1'>", "\"'&🎻<!--"]
)
def test_names_are_text_whatever_they_hold(opened, name: str) -> None:
    watched = opened(Take(name, music(), RATE), title=name)
    assert watched.page.text_content("td.name").endswith(name)
    assert watched.page.text_content(".title") == name
    assert watched.page.evaluate("window.bad") is None
    assert watched.complaints == [], json.dumps(watched.complaints)
