#!/usr/bin/env bash
# On a machine without a network, at the top of a copied tree: an environment from the wheels of `make bundle`.
#
#   PYTHON=python3 bash .bundle/wheels/install.sh [.venv]
#
# What the machine's own Python has (torch, transformers, ...) stays where it is and is found behind the wheels, also
# where that Python is itself a virtual environment, whose packages `--system-site-packages` would not show.
set -euo pipefail
python=${PYTHON:-python3}
venv=${1:-.venv}
wheels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$wheels/bytecode.sh"

"$python" -m venv --clear --without-pip "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" - > "$site/host.pth" <<'CODE'
import sys
import sysconfig

places = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
places |= dict.fromkeys(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
for path in places:
    print(f"import site; site.addsitedir({path!r})")
CODE
"$venv/bin/python" -m pip install --quiet --no-index --no-deps --no-compile --ignore-installed "$wheels"/*.whl
if [ -f pyproject.toml ]; then
  "$venv/bin/python" -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
  "$venv/bin/python" -c 'import djinn.server.build, torch._inductor.compile_fx, mlflow, matplotlib.pyplot, pandas, snakemake.cli'
fi
if compgen -G "$wheels/../weights/*.part-*" > /dev/null; then
  echo "weights: .bundle/weights/unpack.sh makes them ready" >&2
fi
"$venv/bin/python" -c 'import torch, transformers, msgspec, zmq; print("torch", torch.__version__, "transformers", transformers.__version__)'
