"""The internal noise of the inner hair cells, which gives the model its threshold.

Kates adds Gaussian noise 10 dB below threshold to the BM motion. pyclarity draws it from numpy's legacy generator, for
all bands of the reference and then for all bands of the processed signal. `LegacyStream` draws the same numbers and
leaves the generator in the same state, several times faster, because the Mersenne twister and the polar method run in
batches. `add_hashed` is a noise of our own that costs almost nothing: a number depends only on its seed and place.
"""

import math
import threading
from typing import Any

import numpy as np

from cadenza_lib.core.compiled import compiled
from cadenza_lib.haaqi.simd import load, log2, splat, sqrt, store

__all__ = ["LegacyRows", "LegacyStream", "add_hashed"]

WORDS = 624  # of the Mersenne twister's state
SHIFT = 397
BATCH = 256  # candidate pairs at a time; each takes four words

# A batch of the twister's output: enough for what is left over from the last batch and one batch of pairs.
BUFFER = 4 * BATCH + 2 * WORDS


class LegacyStream:
    """A position in the stream of `numpy.random.RandomState.standard_normal`.

    Copies are cheap and independent, so that one band can be drawn while another one is.
    """

    def __init__(self, state: Any) -> None:
        """Start at the state of a `RandomState`, as returned by ``get_state(legacy=False)``."""
        if state["bit_generator"] != "MT19937":
            raise ValueError(f"not a Mersenne twister: {state['bit_generator']}")
        self.key = np.array(state["state"]["key"], np.uint32)
        # Position in the key, whether a second normal of a pair waits, which.
        self.counters = np.array([state["state"]["pos"], state["has_gauss"]], np.int64)
        self.waiting = np.array([state["gauss"]], np.float64)

    def copy(self) -> "LegacyStream":
        """Return an independent stream at the same position."""
        other = object.__new__(LegacyStream)
        other.key, other.counters, other.waiting = self.key.copy(), self.counters.copy(), self.waiting.copy()
        return other

    def skip(self, count: int) -> None:
        """Go on by `count` normals without computing them."""
        _legacy(self.key, self.counters, self.waiting, count, _NOWHERE, 0.0)

    def add_to(self, row: np.ndarray, gain: float) -> None:
        """Add ``gain * standard_normal(len(row))`` to a float32 row in place."""
        _legacy(self.key, self.counters, self.waiting, len(row), row, gain)

    def state(self) -> dict[str, Any]:
        """Return the position in the form that `numpy.random.RandomState.set_state` takes."""
        return {
            "bit_generator": "MT19937",
            "state": {"key": self.key.copy(), "pos": int(self.counters[0])},
            "has_gauss": int(self.counters[1]),
            "gauss": float(self.waiting[0]),
        }


class LegacyRows:
    """The stream cut into rows of equal length, which may be drawn in any order and by several threads.

    pyclarity's order is all bands of the reference, then all bands of the processed signal. A row's place in the
    stream is not known before all earlier rows are drawn or skipped; places that are known are kept.
    """

    def __init__(self, state: Any, row_length: int) -> None:
        self.row_length = row_length
        self._starts = {0: LegacyStream(state)}
        self._lock = threading.Lock()

    def add_to(self, row: np.ndarray, gain: float, place: int) -> None:
        """Add row number `place` of the stream, times `gain`, to a float32 row."""
        stream = self.start(place)
        stream.add_to(row, gain)
        with self._lock:
            self._starts[place + 1] = stream

    def start(self, place: int) -> LegacyStream:
        """Return a stream at the start of row number `place`."""
        with self._lock:
            nearest = max(start for start in self._starts if start <= place)
            stream = self._starts[nearest].copy()
            if nearest < place:
                stream.skip((place - nearest) * self.row_length)
                self._starts[place] = stream.copy()
            return stream


_NOWHERE = np.zeros(0, np.float32)


@compiled
def _twist(key: np.ndarray) -> None:
    """Advance the Mersenne twister (Matsumoto and Nishimura 1998) by its whole state."""
    one, upper, lower = np.uint32(1), np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
    magic = np.uint32(0x9908B0DF)
    for i in range(WORDS - SHIFT):
        y = (key[i] & upper) | (key[i + 1] & lower)
        key[i] = key[i + SHIFT] ^ (y >> one) ^ ((np.uint32(0) - (y & one)) & magic)
    for i in range(WORDS - SHIFT, WORDS - 1):
        y = (key[i] & upper) | (key[i + 1] & lower)
        key[i] = key[i + SHIFT - WORDS] ^ (y >> one) ^ ((np.uint32(0) - (y & one)) & magic)
    y = (key[WORDS - 1] & upper) | (key[0] & lower)
    key[WORDS - 1] = key[SHIFT - 1] ^ (y >> one) ^ ((np.uint32(0) - (y & one)) & magic)


@compiled
def _temper(key: np.ndarray, out: np.ndarray) -> None:
    """Scramble the words of the state into random words."""
    for i in range(len(key)):
        y = key[i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        y ^= y >> np.uint32(18)
        out[i] = y


@compiled
def _legacy(
    key: np.ndarray, counters: np.ndarray, waiting: np.ndarray, count: int, row: np.ndarray, gain: float
) -> None:
    """Draw `count` normals by the polar method, four words a trial; add them to `row` unless that is empty."""
    adding = len(row) > 0
    at = 0
    if count > 0 and counters[1]:
        if adding:
            row[0] = np.float32(row[0] + gain * waiting[0])
        at = 1
        counters[1], waiting[0] = 0, 0.0
    words = np.empty(BUFFER, np.uint32)
    have = used = 0  # words in the buffer, and how many of them are spent
    if counters[0] < WORDS:
        _temper(key[counters[0] :], words)
        have = WORDS - counters[0]
    x1, x2, r2 = np.empty(BATCH), np.empty(BATCH), np.empty(BATCH)
    kept1, kept2, kept_r = np.empty(BATCH + 8), np.empty(BATCH + 8), np.ones(BATCH + 8)
    last, last_r = 0.0, 0.5
    while at < count:
        trials = min((count - at + 1) // 2, BATCH)  # never more than can be used, so that none is drawn in vain
        if have - used < 4 * trials:
            for i in range(have - used):
                words[i] = words[used + i]
            have, used = have - used, 0
            while have < 4 * trials:
                _twist(key)
                _temper(key, words[have:])
                have += WORDS
        batch = words[used : used + 4 * trials]
        for k in range(trials):
            w = 4 * k
            a, b = np.float64(np.int32(batch[w] >> np.uint32(5))), np.float64(np.int32(batch[w + 1] >> np.uint32(6)))
            c, d = (
                np.float64(np.int32(batch[w + 2] >> np.uint32(5))),
                np.float64(np.int32(batch[w + 3] >> np.uint32(6))),
            )
            u = 2.0 * ((a * 67108864.0 + b) / 9007199254740992.0) - 1.0
            v = 2.0 * ((c * 67108864.0 + d) / 9007199254740992.0) - 1.0
            x1[k], x2[k], r2[k] = u, v, u * u + v * v
        used += 4 * trials
        pairs = 0
        if adding:
            for k in range(trials):
                kept1[pairs], kept2[pairs], kept_r[pairs] = x1[k], x2[k], r2[k]
                pairs += (r2[k] < 1.0) & (r2[k] != 0.0)
        else:
            for k in range(trials):
                pairs += (r2[k] < 1.0) & (r2[k] != 0.0)
        if at + 2 * pairs >= count:  # the last batch: the second normal of its last pair may have to wait
            for k in range(trials):
                if r2[k] < 1.0 and r2[k] != 0.0:
                    last, last_r = x1[k], r2[k]
        if adding and pairs > 0:
            kept_r[pairs : pairs + 8] = 0.5
            for k in range(0, pairs, 8):
                r = load(kept_r, k, 8)
                # sqrt(-2 log(r) / r)
                store(kept_r, k, sqrt(splat(-2.0 * math.log(2.0), 8) * log2(r) / r))
            whole = pairs if at + 2 * pairs <= count else pairs - 1
            for k in range(whole):
                f = kept_r[k] * gain
                row[at + 2 * k] = np.float32(row[at + 2 * k] + f * kept2[k])
                row[at + 2 * k + 1] = np.float32(row[at + 2 * k + 1] + f * kept1[k])
            if whole < pairs:
                row[count - 1] = np.float32(row[count - 1] + gain * kept_r[whole] * kept2[whole])
        at += 2 * pairs
    if at > count:
        counters[1] = 1
        waiting[0] = math.sqrt(-2.0 * math.log(last_r) / last_r) * last
    left = have - used
    counters[0] = WORDS - left


@compiled
def add_hashed(row: np.ndarray, gain: float, seed: np.uint64, place: int) -> None:
    """Add noise of standard deviation `gain` to a float32 row in place; `place` distinguishes the rows of a score.

    A number is the sum of the four 16-bit parts of a hash (splitmix64, Steele et al. 2014) of its place and time: not
    quite Gaussian, but with the right power, white, and independent of order and threads.
    """
    golden, m1, m2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    s30, s27, s31 = np.uint64(30), np.uint64(27), np.uint64(31)
    start = np.uint64(seed) * m1 + np.uint64(place) * m2
    start = (start ^ (start >> s30)) * m1
    start = (start ^ (start >> s27)) * m2
    scale = gain / (65536.0 * math.sqrt(4.0 / 12.0))
    for n in range(len(row)):
        z = start + np.uint64(n) * golden
        z = (z ^ (z >> s30)) * m1
        z = (z ^ (z >> s27)) * m2
        z = z ^ (z >> s31)
        # Two fields at a time: the sum of two 16-bit numbers has room in 32 bits.
        pairs = (z & np.uint64(0x0000FFFF0000FFFF)) + ((z >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF))
        total = np.int32((pairs + (pairs >> np.uint64(32))) & np.uint64(0xFFFFFFFF))
        row[n] = np.float32(row[n] + scale * (np.float64(total) - 131070.0))
