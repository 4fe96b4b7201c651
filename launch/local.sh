#!/usr/bin/env bash
# Runs fjt on this machine; makes the environment on first use (launch/environment.sh names its variables).
#   bash launch/local.sh --config configs/quickstart.py --workdir runs/quickstart
# It may be called from any folder: relative paths among the arguments are relative to that folder.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment base
if [ "$device" != cpu ] && ! "$python" -c 'import jax; raise SystemExit(jax.default_backend() == "cpu")' 2>/dev/null; then
  say "warning: this machine has a $device device, but JAX does not see it." \
    "Another process may hold it, or its driver is too old (cuda: CUDA 13 needs driver 580 or newer)."
fi
# On a CPU, XLA takes each step's temporary memory from malloc and gives it back, so that each step maps its pages anew.
# With large pages a step of MiniLM takes 500 page faults, without them 106,000. Only glibc 2.35 or newer reads this.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m fjt.main "$@"
