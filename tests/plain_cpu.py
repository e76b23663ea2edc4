"""Run a command as on a processor that has no vectors wider than SSE: python tests/plain_cpu.py COMMAND ..."""

import os
import sys

import numpy as np

PLAIN_CPU = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
    "OPENBLAS_CORETYPE": "Prescott",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}

if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], os.environ | PLAIN_CPU)
