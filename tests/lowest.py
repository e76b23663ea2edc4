"""Print pip constraints that pin every dependency of pyproject.toml to the lowest version that it promises.

    python tests/lowest.py > constraints.txt

Dependencies of dependencies are left to pip, but for pytorch-lightning, which pyclarity needs: it contains the module
lightning_fabric too, so that two versions of it would overwrite each other.
"""

import itertools
import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in itertools.chain(project["dependencies"], *project["optional-dependencies"].values()):
    if bound := re.fullmatch(r"([\w.-]+)(\[.*\])?(>=|==)([\w.]+)", requirement):
        print(f"{bound[1]}=={bound[4]}")
        if bound[1] == "lightning-fabric":
            print(f"pytorch-lightning=={bound[4]}")
