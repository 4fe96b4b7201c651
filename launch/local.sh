#!/usr/bin/env bash
# Runs fjt on this machine; makes the environment on first use (launch/environment.sh names its variables).
#   bash launch/local.sh --config configs/quickstart.py --workdir runs/quickstart
#   bash launch/local.sh --processes 2 --config ...     one run in two processes: one accelerator each, or parts of a CPU
# It may be called from any folder: relative paths among the arguments are relative to that folder.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

processes=1
if [ "${1:-}" = --processes ]; then
  processes=${2:?a number follows --processes}
  shift 2
fi
prepare_environment base
if [ "$device" != cpu ] && ! "$python" -c 'import jax; raise SystemExit(jax.default_backend() == "cpu")' 2>/dev/null; then
  say "warning: this machine has a $device device, but JAX does not see it." \
    "Another process may hold it, or its driver is too old (cuda: CUDA 13 needs driver 580 or newer)."
fi
# On a CPU, XLA takes each step's temporary memory from malloc and gives it back, so that each step maps its pages anew.
# With large pages a step of MiniLM takes 500 page faults, without them 106,000. Only glibc 2.35 or newer reads this.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ "$processes" = 1 ]; then exec "$python" -m fjt.main "$@"; fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=()
for ((i = 0; i < processes; i++)); do
  if [ "$device" = cuda ]; then export JAX_LOCAL_DEVICE_IDS=$i; fi
  "$python" -m fjt.main --processes="$processes" --process="$i" --coordinator="127.0.0.1:$port" "$@" &
  pids[i]=$!
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM HUP
# In a script, what runs in the background ignores Ctrl-C until it sets a handler of its own: hence both.
trap 'kill -INT "${pids[@]}" 2>/dev/null || true; kill -TERM "${pids[@]}" 2>/dev/null || true' INT
code=0
for i in "${!pids[@]}"; do
  ended=0
  while wait "${pids[i]}" || ended=$?; kill -0 "${pids[i]}" 2>/dev/null; do ended=0; done # a signal ends `wait` early
  if [ "$ended" -gt 128 ]; then say "process $i ended by signal $((ended - 128)) or with that code"; fi
  if [ "$ended" != 0 ] && [ "$code" = 0 ]; then code=$ended; fi
done
exit "$code"
