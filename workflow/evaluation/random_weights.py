"""Write the seeded random weights of a shape to a folder, for systems that load by themselves.

    python -m evaluation.random_weights MODEL DTYPE SEED DEVICE FOLDER

Its own process: on a card the numbers are drawn there, and their room must be free again before a system is started.
"""

from evaluation.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()

import sys

from djinn.model.load import load_model

if __name__ == "__main__":
    name, dtype, seed, device, folder = sys.argv[1:]
    load_model(name, source="random", dtype=dtype, seed=int(seed), device=device).model.save_pretrained(folder)
