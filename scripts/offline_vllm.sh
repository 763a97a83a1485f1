#!/usr/bin/env bash
# On a machine without a network, at the top of a copied tree with .venv: vLLM's environment from the parts of `make bundle`.
#
#   bash .bundle/vllm/unpack.sh [.venv-vllm] [.venv]
#
# The parts may come one transfer at a time: each call keeps what is there, and exits 1 until all of them came. Then the
# environment is made, behind its packages the machine's own as .venv finds them, and its engine is imported: what it lacks
# is told here, not by the rule that needs it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:-.venv-vllm}
ours=${2:-.venv}
staged=${DJINN_VLLM_PARTS:-${TMPDIR:-/tmp}/djinn-vllm}
. "$here/parts.sh"
. "$here/bytecode.sh"
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
"$ours/bin/python" -m venv --clear --without-pip "$venv"
site=$("$venv/bin/python" -c "$purelib")
tar x -J -C "$site" -f "$staged/$whole"
cp "$("$ours/bin/python" -c "$purelib")/host.pth" "$site"
"$venv/bin/python" -c 'import vllm; from vllm import LLM; print("vllm", vllm.__version__)'
