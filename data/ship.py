"""Copy the networks of notebooks/studies/twin_training.yaml to data/twin_*, in half precision, with cards.

.venv/bin/python data/ship.py runs/twin_training
"""

import sys
from pathlib import Path

from cadenza_lib.core.documents import read_json
from cadenza_lib.core.paths import DATA
from cadenza_lib.separation.checkpoints import save_checkpoint
from cadenza_lib.separation.separators import SHIPPED_MODELS, load_network
from cadenza_lib.training.files import read_metrics

for folder in sorted(Path(sys.argv[1], "finetune").iterdir()):
    if f"twin_{folder.name}" in SHIPPED_MODELS and (folder / "manifest.json").exists():
        network, _ = load_network(str(folder / "last.safetensors"))
        metrics = read_metrics(folder)
        losses = metrics.dropna(subset="valid_loss").set_index("step")["valid_loss"].round(5)
        card = read_json(folder / "last.json")
        card["study"] = f"notebooks/studies/twin_training.yaml, point {folder.name}"
        card["validation_loss"] = losses.to_dict()
        save_checkpoint(network, DATA / f"twin_{folder.name}.safetensors", card)
