"""A research companion to *The USTC System for Cadenza 2024 Challenge*.

Read the modules in the order of the signal: `listeners`, `acoustics`, `scenes`, `corpus`, `separation`, `fusion`,
`remix`, `fitting`, `haaqi`, `evaluation`, `analysis`, `figures`. Notebooks call these; `runs` executes the notebooks.
"""

__version__ = "0.1.0"
