"""Draw the golden images of figures: python tests/golden/make_figures.py. Look at each before committing it."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

if __name__ == "__main__":
    import figure_cases

    for name, case in figure_cases.cases().items():
        print(figure_cases.render(figure_cases.draw(case), FOLDER / f"{name}.png"))
