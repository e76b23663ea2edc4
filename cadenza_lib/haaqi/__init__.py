"""The Hearing-Aid Audio Quality Index (HAAQI) of Kates and Arehart.

J. M. Kates and K. H. Arehart, "The Hearing-Aid Audio Quality Index (HAAQI)", IEEE/ACM Trans. Audio, Speech, Language
Process. 24(2), 354-365, 2016. doi:10.1109/TASLP.2015.2507858.
"""

from cadenza_lib.haaqi.score import Components, HaaqiReference, compute_haaqi, haaqi_components

__all__ = ["Components", "HaaqiReference", "compute_haaqi", "haaqi_components"]
