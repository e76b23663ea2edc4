"""How far apart two computations of the same number may be, where more than one test file needs to know.

None of these is what one machine gave. Each comes from an analysis of rounding, or from the largest difference between
settings of CPU features (numpy, OpenBLAS, numba and torch with AVX-512, with AVX2 and with SSE alone; one thread and
two) times a factor that is stated. `make test-plain-cpu` runs the tests marked `exact` with SSE alone.
"""

HAAQI_STORAGE = 5e-9
"""A HAAQI score of ours against pyclarity's where pyclarity's gammatone filters are well conditioned.

With envelopes in float64 the two agree to 4e-12 in 47 signals from 16 ms to 30 s. Ours are stored in float32, which
moves a score by up to 1.6e-9, on every CPU by the same amount (the settings differ by 3e-13); times three.
"""

HAAQI_PYCLARITY = 2e-8
"""A HAAQI score of ours against pyclarity's own.

pyclarity filters by a recursion of fourth order, whose denominator (1 - a/z)^4 has rounded coefficients: for a pole a
near 1 they nearly cancel, so that rounding one of them changes the gain by 2^-53 / (1 - a)^4, 8e-8 at 80 Hz. `a` comes
from numpy's exp, whose last bit depends on the CPU's vectors. In a signal that ends in silence ("late by 80 ms") the
filters ring out below their rounding, and HAAQI compares levels in dB: the last bit of the poles of the seven lowest
bands moves its score by up to 1.2e-8 together, and moved it by 4.1e-9 between AVX-512 and AVX2. Plus `HAAQI_STORAGE`.
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
