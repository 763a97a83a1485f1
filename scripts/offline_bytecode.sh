# Sourced by the scripts beside it. Where an image forbids bytecode beside the sources the workflow keeps its own (lifeline.py in
# workflow/evaluation). What they import is compiled for it: else the rule that imports a library first does that, half a minute of
# a card's campaign in all.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
  unset PYTHONDONTWRITEBYTECODE
  export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$PWD/.snakemake/bytecode}
fi
