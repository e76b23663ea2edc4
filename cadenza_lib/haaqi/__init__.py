"""The Hearing-Aid Audio Quality Index (HAAQI) of Kates and Arehart: pyclarity's number, many times faster.

J. M. Kates and K. H. Arehart, "The Hearing-Aid Audio Quality Index (HAAQI)", IEEE/ACM Trans. Audio, Speech, Language
Process. 24(2), 354-365, 2016. doi:10.1109/TASLP.2015.2507858.

Read `score` (what is called), `comparison` (the order of events), `ear` (the model of the ear), `features` (what is
compared). `alignment`, with the FFTs in `correlation`, and `noise` are stages of the ear that have become long;
`kernels` and `covariance` hold the inner loops, and `simd` the vectors they are written with.

With the same seed, the score is that of ``clarity.evaluator.haaqi.compute_haaqi`` 0.9.0 to 6e-9 (2e-8 is tested). What
is left is rounding: pyclarity's direct-form filters lose up to 8e-8 of a band's gain, and which way depends on the CPU;
envelopes stored here as float32 move a score by up to 3e-9, on every CPU the same way (to 3e-13).

Where pyclarity is odd:

=====================================  ==============================  ==============================================
case                                   pyclarity 0.9.0                 here
=====================================  ==============================  ==============================================
NaN or infinity in processed signal    a number near 0.04              `AudioError`
NaN or infinity in reference           IndexError                      `AudioError`
silent reference                       IndexError                      `AudioError`
silent processed signal, 24 kHz        the number of noise, 0.04       the same number
silent processed signal, other rates   NaN, with a warning             `AudioError`
empty processed signal                 ValueError                      `AudioError`
empty reference                        0, or 1 if both are empty       the same
fewer than 384 samples at 24 kHz       ValueError                      `AudioError`
after pruning the reference's silence
integers at other rates than 24 kHz    squares wrap around             computed as float64
equalisation 0 or 3 ...                0: normal ear for the           `ParameterError`
                                       reference; others act like 2
sample rate rounded to kHz, so that    0.4 to 0.85 for the same sound  the same number; resample to 24 kHz before
44.1 kHz is taken for 44               at 44.1 and at 48 kHz
longer signal cut to the shorter       truncation costs nothing        the same
equalisation 1: the reference comes    kept, alignment repairs it      the same
out of NAL-R 70 samples early
second envelope average begins at      kept                            the same
4 ms, so the average at 0-8 ms lacks
lag on the edge of the search          used as found                   the same
identical inaudible signals            0.162                           the same
identical signals                      at most 0.999                   the same
audiogram without all six              interpolated, with a warning    interpolated, silently
frequencies
draws from numpy's global generator    64 normals a sample, and 64 an  the same, and the same state afterwards;
                                       envelope segment times zero     nothing is drawn if an error is raised
=====================================  ==============================  ==============================================
"""

from cadenza_lib.haaqi.score import Components, HaaqiReference, compute_haaqi, haaqi_components

__all__ = ["Components", "HaaqiReference", "compute_haaqi", "haaqi_components"]
