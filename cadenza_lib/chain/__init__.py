"""From estimated stems to what the hearing aids play: fusion, remix, fitting and output."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
