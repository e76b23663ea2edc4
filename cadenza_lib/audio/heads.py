"""Model heads: what microphones at the ears of a person receive from two loudspeakers.

A rigid sphere scatters the sound exactly; the microphone sits above and a little behind the ear canal, as in
behind-the-ear devices. The torso adds a late reflection and the pinna below the microphone an early one, as in the
structural models of Brown and Duda (1998) and of Algazi et al. (2002). The sizes of all of them differ between people.

References
----------
- R. O. Duda and W. L. Martens, "Range dependence of the response of a spherical head model", J. Acoust. Soc. Am.
  104(5), 3048-3058, 1998.
- C. P. Brown and R. O. Duda, "A structural model for binaural sound synthesis", IEEE Trans. Speech Audio Process. 6(5),
  476-488, 1998.
- V. R. Algazi, R. O. Duda, R. Duraiswami, N. A. Gumerov and Z. Tang, "Approximating the head-related transfer function
  using simple geometric models of the head and torso", J. Acoust. Soc. Am. 112(5), 2053-2064, 2002.
- V. R. Algazi, C. Avendano and R. O. Duda, "Estimation of a spherical-head model from anthropometry", J. Audio Eng.
  Soc. 49(6), 472-479, 2001: radii of 25 people, mean 0.087 m.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import eval_legendre, spherical_jn, spherical_yn
from torch import Tensor

from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError

__all__ = ["Head", "head_hrtf", "model_heads", "sample_heads"]

_SPEED_OF_SOUND_M_PER_S = 343.0  # dry air at 20 degrees Celsius
_TAPS = 256
_N_HEADS = 16
_LEAD_S = 0.001  # room before the first arrival for the response's own onset
# Waves much longer than a reflector bend around it; at these corners a quarter of the wavelength is 34 and 4 cm.
_TORSO_CORNER_HZ, _PINNA_CORNER_HZ = 250.0, 2000.0


@dataclass(frozen=True)
class Head:
    """Sizes of a head with two microphones; the right ear mirrors the left one but for its pinna."""

    radius_m: float = 0.0875  # D. S. Brungart and W. M. Rabinowitz, J. Acoust. Soc. Am. 106(3), 1465-1479, 1999
    mic_azimuth_deg: float = 100.0  # from straight ahead
    mic_elevation_deg: float = 25.0  # above the horizontal plane through the head's centre
    torso_delay_s: float = 0.45e-3  # after the direct sound
    torso_gain: float = 0.2
    pinna_delays_s: tuple[float, float] = (60e-6, 60e-6)  # left, right
    pinna_gain: float = 0.5


def sample_heads(count: int, seed: int = 0) -> list[Head]:
    """Draw people whose sizes scatter about those of `Head` by 4 to 30 %, cut off at two standard deviations."""
    generator = np.random.default_rng(seed)

    def about(mean: float, deviation: float) -> float:
        return float(round(mean + deviation * np.clip(generator.normal(), -2, 2), 7))

    return [
        Head(
            radius_m=about(0.0875, 0.004),
            mic_azimuth_deg=about(100, 4),
            mic_elevation_deg=about(25, 4),
            torso_delay_s=about(0.45e-3, 0.05e-3),
            torso_gain=about(0.2, 0.06),
            pinna_delays_s=(about(60e-6, 8e-6), about(60e-6, 8e-6)),
            pinna_gain=about(0.5, 0.12),
        )
        for _ in range(count)
    ]


@functools.cache
def model_heads() -> dict[str, Head]:
    """Return the subjects of the twin by name; the challenge has 16 too."""
    return {f"head_{number:02d}": head for number, head in enumerate(sample_heads(_N_HEADS), 1)}


def head_hrtf(left_angle: float, right_angle: float, head: Head | None = None) -> Tensor:
    """Return the HRTFs of two loudspeakers in the horizontal plane, angles in degrees, left negative.

    Shape:
        - result: `(loudspeaker, ear, tap)`, float64, 44.1 kHz

    Raises
    ------
    ParameterError
        If an angle lies outside -90 to 90 degrees.

    >>> head_hrtf(-30.0, 30.0).shape
    torch.Size([2, 2, 256])
    """
    for angle in (left_angle, right_angle):
        if not -90 <= angle <= 90:
            raise ParameterError(f"Loudspeaker angle {angle} lies outside -90 to 90 degrees.")
    head = head or Head()
    omega = 2 * np.pi * np.fft.rfftfreq(_TAPS, 1 / SAMPLE_RATE).astype(np.float64)
    mics_deg = np.array([-head.mic_azimuth_deg, head.mic_azimuth_deg])
    azimuth = np.deg2rad(np.array([[left_angle], [right_angle]]) - mics_deg)  # (loudspeaker, ear)
    cosine = np.cos(azimuth)[..., None] * np.cos(np.deg2rad(head.mic_elevation_deg))
    torso = head.torso_gain * _reflection(omega, np.array(head.torso_delay_s), _TORSO_CORNER_HZ)
    pinna = head.pinna_gain * _reflection(omega, np.array(head.pinna_delays_s)[:, None], _PINNA_CORNER_HZ)
    pinna = pinna * (1 + cosine) / 2  # the far pinna lies in the shadow of the head
    spectrum = sphere_response(omega * head.radius_m / _SPEED_OF_SOUND_M_PER_S, cosine[..., 0])
    spectrum = spectrum * (1 + torso + pinna) * np.exp(-1j * omega * _LEAD_S)
    spectrum[..., -1] = spectrum[..., -1].real  # a real response has a real value at half the sample rate
    return torch.from_numpy(np.fft.irfft(spectrum, _TAPS))


def _reflection(omega: NDArray[np.float64], delay_s: NDArray[np.float64], corner_hz: float) -> NDArray[np.complex128]:
    """Return the spectrum of a reflection by a reflector that is transparent at long wavelengths."""
    return 1j * omega / (1j * omega + 2 * np.pi * corner_hz) * np.exp(-1j * omega * delay_s)


def sphere_response(wave_number: NDArray[np.float64], cosine: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return the pressure of a plane wave on a rigid sphere, relative to that at its centre without the sphere.

    Duda and Martens (1998) for a distant source; time runs as exp(+i omega t).

    Parameters
    ----------
    wave_number
        Of each frequency, times the radius, the first 0; `(frequency,)`.
    cosine
        Of the angle between the directions of the source and of a point on the sphere; `(...)`.

    Returns
    -------
    ndarray
        `(..., frequency)`
    """
    x = wave_number[1:, None]
    order = np.arange(int(1.2 * x.max()) + 20)  # terms of orders above the wave number vanish quickly
    order_, x_ = np.broadcast_arrays(order, x)
    derivative = spherical_yn(order_, x_, derivative=True)
    finite = np.isfinite(derivative)  # it overflows where its term is too small to matter
    hankel = spherical_jn(order_, x_, derivative=True) - 1j * np.where(finite, derivative, 1)
    weights = np.where(finite, 1j ** (order - 1) * (2 * order + 1) / hankel, 0) / x**2
    legendre = eval_legendre(order, np.asarray(cosine)[..., None])
    response = np.ones((*np.shape(cosine), len(wave_number)), complex)
    response[..., 1:] = legendre @ weights.T
    return response
