"""How far apart two computations of the same number may be, where more than one test file needs to know.

None of these is what one machine gave. Each comes from an analysis of rounding, or from the largest difference between
settings of CPU features (numpy, OpenBLAS, numba and torch with AVX-512, with AVX2 and with SSE alone; one thread and
two) times a factor that is stated. `make test-plain-cpu` runs the tests marked `exact` with SSE alone.
"""

HAAQI_STORAGE = 1e-8
"""A HAAQI score of `compute_haaqi` against another whose filters are as well conditioned, in float64 throughout.

With envelopes in float64 `compute_haaqi` equals pyclarity with well-conditioned filters to 4e-12, in 47 signals from
16 ms to 1 s. It stores them in float32, which moves a score by up to 1.6e-9 there, and by 2.9e-9 in a signal of 16 ms
against `haaqi.torch`; times three. The settings of CPU features change this by 3e-13.
"""

HAAQI_PYCLARITY = 2e-8
"""A HAAQI score of ours against pyclarity's own.

pyclarity's gammatone filters are recursions of fourth order, with the denominator (1 - a/z)^4 multiplied out. For a
pole a near 1 its coefficients nearly cancel, so that their rounding changes the gain by 2^-53 / (1 - a)^4 or so: 8e-8
at 80 Hz. `a` comes from numpy's exp, whose last bit depends on the CPU. HAAQI compares levels in dB, which shows most
where a signal falls silent and the filters ring out below their rounding: the last bit of the poles of the seven
lowest bands moves the score of "late by 80 ms" by up to 1.2e-8 if all effects add up. (Between AVX-512 and AVX2 it is
4.1e-9; in other signals at most 1.4e-9.) To this comes what float32 storage does, 2.9e-9.
"""

CHAIN = 1e-9
"""Samples of full scale against the recipe's, in float64: what the README promises of gains, downmix, loudness, NAL-R.

The rounding of convolution by FFT is below 2^-53 log2(n) |x| |h|, with n = 2^17 samples, |x| < 300 and |h| < 10: 6e-12.
"""

LOUDNESS_LU = 1e-6
"""Loudness against pyloudnorm's, in float64: what the README promises.

Sums of n = 10^5 squares differ by less than n 2^-53 = 1e-11 of their value, 5e-11 LU; no gate changes its mind, since
no block of the signals in use is that close to one.
"""
