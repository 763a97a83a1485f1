# Needs: config/config.yaml and config/scales/<scale>.yaml, either overridden by --configfile and --config.
# Makes: SETTINGS (checked), RESULTS (the folder of this scale), and what every rule's shell command shares.
# Steps: clear the lock of a dead run, choose the scale, check the config, say what was chosen.
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

TOP = Path(workflow.basedir)
sys.path[:0] = [str(TOP), str(TOP / "workflow")]

from evaluation import (
    combine,
    lifeline,
    pages,
    peers,
    prompts,
    scale,
    settings,
    sources,
    zero_change,
)
from evaluation.figures import FIGURES

# Scripts run with this Python and this checkout's packages, and die with this process.
lifeline.adopt_scripts()
lifeline.keep_bytecode(Path.cwd() / ".snakemake" / "bytecode")
shell.prefix(f"export PYTHONPATH={shlex.quote(f'{TOP}:{TOP}/workflow')}; ")
ALIVE = lifeline.register_run(Path.cwd())


configfile: "config/config.yaml"


SCALE, WHY = scale.choose_scale(config["scale"])
if SCALE not in scale.SCALES:
    raise WorkflowError(
        f"config: scale = {SCALE!r}: expected auto or one of {', '.join(scale.SCALES)}"
    )
for FILE in scale.SCALES[SCALE]:

    configfile: f"config/scales/{FILE}.yaml"


try:
    SETTINGS = settings.parse({**config, "scale": SCALE})
except settings.ConfigError as wrong:
    raise WorkflowError(str(wrong)) from None
logger.info(f"Djinn: {SCALE} scale ({WHY}), {SETTINGS.model.name} on {SETTINGS.device}")

RESULTS = f"results/{SCALE}"
DATABASE = "results/mlflow.db"
MANUAL_MODES = ["activation", "full", "pageable"]
RAW = [f"{RESULTS}/raw/{rule}.json" for rule in combine.RULES]
TEXTS = sources.digest(
    *prompts.TEXTS.glob("*.txt")
)  # every measuring rule begins its sessions with them


wildcard_constraints:
    mode="|".join(MANUAL_MODES),
    system="|".join(peers.PEERS),


def part(*paths: str) -> str:
    """What a rule's numbers depend on, beside what all depend on; it reruns when one of these changes."""
    return settings.part(SETTINGS, "device", "threads", "model", *paths)


# Beside its own keys every script can see the whole config: for the campaign's record and for a server's address, which
# are no reason to run anything again and so are not in params.
settings.leave_for_scripts(SETTINGS)

# `exec`: the script's parent is Snakemake itself, whose end it watches for. (Not the script directive: it does not quote
# Python's path, which may hold a space, and leaves a shell in between.)
MEASURE = (
    "exec python workflow/scripts/measure.py {params.measurement} --settings {params.settings:q}"
    " --campaign {input.campaign:q} --weights {input.weights:q} --log {log:q} --out {output:q}"
)
