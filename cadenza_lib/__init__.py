"""A research companion to *The USTC System for Cadenza 2024 Challenge*.

The sub-packages are rooms in the order of the signal: `core`, `audio`, `data`, `separation`, `chain`, `haaqi`,
`scoring`, `training`, `analysis`, `figures`, `listening`, `runs`. Each imports only from those before it. What people
use most is offered here, and is loaded when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
