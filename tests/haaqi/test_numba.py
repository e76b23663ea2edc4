"""Whether the installed numba and llvmlite still have the undocumented parts that the kernels are written with."""

import importlib
import inspect
from functools import reduce
from pathlib import Path

import llvmlite
import numba
import numpy as np
import pytest

from cadenza_lib.haaqi import kernels, simd

VERSIONS = f"numba {numba.__version__} or llvmlite {llvmlite.__version__}"


@pytest.mark.parametrize("name", simd.INTERNALS)
def test_undocumented_part_is_as_it_was(name: str) -> None:
    module, path = name.split(":")
    try:
        part = reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        pytest.fail(f"{VERSIONS} has no {name} any more; haaqi/simd.py or core/compiled.py calls it: adapt them.")
    lost = set(simd.INTERNALS[name]) - set(inspect.signature(part).parameters)
    assert not lost, (
        f"{VERSIONS} has changed {name}: it has no {', '.join(lost)}; adapt haaqi/simd.py, core/compiled.py."
    )


def test_kept_code_is_where_the_package_looks_for_it() -> None:
    kernels.shift_rows(np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
    stamp = kernels.shift_rows._cache._cache_file._source_stamp
    reason = f"{VERSIONS} keeps compiled functions in another way; adapt core/compiled.py and haaqi/score.py"
    assert isinstance(stamp, tuple), reason
    assert list(Path(kernels.shift_rows.stats.cache_path).glob("kernels.shift_rows-*.nbi")), reason
