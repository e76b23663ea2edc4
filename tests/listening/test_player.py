import json
import re

import numpy as np
import pyloudnorm
import pytest
import soundfile
from tolerances import LOUDNESS_LU

from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.listening.player import FULL_SCALE, MAX_TAKES, Player, Take, describe_take

RATE = 44100


def music(duration_s: float = 2.0, level: float = 0.5) -> np.ndarray:
    """Return tones that come and go, `(2, time)`, with a peak of `level` on the left."""
    time_s = np.arange(round(duration_s * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * frequency * time_s) for frequency in (220.0, 554.4, 1318.5))
    tone *= 1.2 + np.sin(2 * np.pi * 2 * time_s)
    tone *= level / np.abs(tone).max()
    return np.stack([tone, 0.5 * tone])


def decoded(description: dict) -> np.ndarray:
    """Return the audio of a described take at its true level, as libsndfile reads it."""
    import io

    samples, rate = soundfile.read(io.BytesIO(description["audio"]))
    assert rate == description["sample_rate"]
    return samples.T / description["stored_scale"]


@pytest.mark.parametrize("level", [1e-4, 0.5, 20.0])  # far below and far beyond full scale
def test_audio_keeps_level_and_alignment_through_both_codecs(level: float) -> None:
    signal = music(level=level)
    for lossless, tolerance in ((True, 1 / 32768), (False, 0.05)):  # 16 bits; the shape of waves is Vorbis' to change
        heard = decoded(describe_take(Take("x", signal, RATE), lossless))
        assert heard.shape == signal.shape
        assert np.abs(heard - signal).max() < 1.2 * tolerance * np.abs(signal).max()
        lags = [np.dot(heard[0, 50:-50], signal[0, 50 + lag : signal.shape[1] - 50 + lag]) for lag in range(-50, 50)]
        assert int(np.argmax(lags)) == 50  # lag 0


def test_levels_are_those_that_pyloudnorm_and_the_definition_give() -> None:
    signal = music(level=0.25)
    description = describe_take(Take("x", signal, RATE))
    expected = pyloudnorm.Meter(RATE).integrated_loudness(signal.T)
    assert description["loudness_lufs"] == pytest.approx(expected, abs=LOUDNESS_LU)
    assert description["peak_dbfs"] == pytest.approx(20 * np.log10(0.25), abs=1e-9)
    silence = describe_take(Take("silence", 0 * signal, RATE))
    assert silence["loudness_lufs"] is None
    assert silence["peak_dbfs"] is None


def test_clipped_samples_are_counted_in_the_signal_and_marked_where_they_are() -> None:
    signal = music(level=0.5)
    first, count = 3 * signal.shape[1] // 4, 441
    signal[1, first : first + count] = -1.0
    description = describe_take(Take("x", signal, RATE))
    assert description["clipped_share"] == [0.0, count / signal.shape[1]]
    left, right = (np.array(channel) for channel in description["envelope"])
    assert not left[:, 2].any()
    columns = np.flatnonzero(right[:, 2])
    assert abs(columns[0] - 0.75 * len(right)) <= 1
    assert right[:, 0].min() == -1.0
    assert describe_take(Take("x", np.full((1, RATE), FULL_SCALE), RATE))["clipped_share"] == [1.0]


def test_no_name_or_title_can_end_the_script_or_become_markup() -> None:
    evil = "</script><script>alert(1)</script><!-- \"'& \u2028 🎻"
    html = Player([Take(evil, music(), RATE)], evil)._repr_html_()
    assert html.count("<script>") == html.count("</script>") == 1
    assert "<!--" not in html
    data = json.loads(re.search(r"const data = (.*);\n", html)[1])
    assert data["takes"][0]["name"] == data["title"] == evil


def test_a_minute_of_takes_stays_far_below_what_a_notebook_may_hold() -> None:
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(size=(2, 10 * RATE)), -1, 1)  # clipped noise is the worst that a codec meets
    size = len(describe_take(Take("x", noise, RATE))["audio"])
    assert 6 * size * 4 / 3 < 5e6  # six takes of ten seconds, in base64


def test_page_names_no_other_file_or_machine(tmp_path) -> None:
    path = Player([Take("x", music(), RATE)], "Alone").save(tmp_path / "alone.html")
    page = path.read_text(encoding="utf-8")
    page = re.sub(r'"audio": "[^"]*"', "", page)
    assert not re.search(r"https?:|//cdn|src=|href=|@import|url\(", page)


def test_takes_that_cannot_be_compared_are_refused() -> None:
    take = Take("x", music(), RATE)
    with pytest.raises(ParameterError, match=f"needs 1 to {MAX_TAKES} takes, not 0"):
        Player([])
    with pytest.raises(ParameterError, match="not 10"):
        Player([take] * 10)
    with pytest.raises(AudioError, match=r"last from 1.00 to 2.00 s"):
        Player([take, Take("y", music(1.0), RATE)])
    with pytest.raises(AudioError, match=r"shape \(10,\)"):
        Player([Take("x", np.zeros(10), RATE)])
    with pytest.raises(AudioError, match="NaN"):
        Player([Take("x", np.full((2, RATE), np.nan), RATE)])
    with pytest.raises(AudioError, match="no integrated loudness"):
        Player([Take("x", music(0.2), RATE)])
