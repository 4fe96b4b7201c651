#!/usr/bin/env bash
# Runs fjt on a TPU VM: makes the VM, copies this checkout, runs on all its hosts, and starts over where it was preempted.
#   SHARE=10.0.0.2:/runs bash launch/tpu_vm.sh NAME ZONE v5litepod-8 --config configs/glue.py:rte --workdir /mnt/fjt/rte
#   bash launch/tpu_vm.sh --delete NAME ZONE
# The arguments after the type are those of `python -m fjt.main`. Nothing is to be done after a preemption.
#
#   SHARE    an NFS export, such as of Filestore, that all hosts mount at /mnt/fjt; only what is there outlives the VM
#   SPOT     0: a VM that is not preempted (default 1)
#   VERSION  of the VM's software (default v2-alpha-tpuv5-lite, for v5litepod-*)
#   RETRIES  how often to start over (default 100)
#   WAIT     seconds before that (default 60)
set -euo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu() { gcloud compute tpus tpu-vm "$1" "$name" --zone="$zone" "${@:2}"; }
say() { echo "[fjt] $*" >&2; }

if [ "${1:-}" = --delete ]; then
  name=${2:?NAME} zone=${3:?ZONE}
  tpu delete --quiet && exit
fi
[ "$#" -ge 4 ] || { say "usage: bash launch/tpu_vm.sh NAME ZONE TYPE --config ... --workdir /mnt/fjt/..." && exit 2; }
name=$1 zone=$2 type=$3
shift 3
spot=() mount=""
if [ "${SPOT:-1}" = 1 ]; then spot=(--spot); fi
if [ -n "${SHARE:-}" ]; then
  mount="sudo mkdir -p /mnt/fjt && { mountpoint -q /mnt/fjt || sudo mount -t nfs $(printf %q "$SHARE") /mnt/fjt; } && "
else
  say "warning: without SHARE a preemption loses the run"
fi
archive=$(mktemp -d)/fjt.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
git -C "$root" ls-files -z --cached --others --exclude-standard | tar -C "$root" --null -T - -czf "$archive"

for ((attempt = 0; attempt <= ${RETRIES:-100}; attempt++)); do
  if [ "$attempt" -gt 0 ]; then say "starting over ($attempt)" && sleep "${WAIT:-60}"; fi
  state=$(tpu describe --format='value(state)' 2>/dev/null) || state=NONE
  case $state in
    PREEMPTED | TERMINATED) tpu delete --quiet || continue ;;
    NONE | READY) ;;
    *) say "$name is $state" && continue ;; # such as CREATING
  esac
  if [ "$state" != READY ]; then
    tpu create --accelerator-type="$type" --version="${VERSION:-v2-alpha-tpuv5-lite}" ${spot[@]+"${spot[@]}"} || continue
  fi
  gcloud compute tpus tpu-vm scp "$archive" "$name:fjt.tar.gz" --zone="$zone" --worker=all || continue
  code=0
  tpu ssh --worker=all --command="${mount}mkdir -p fjt && tar -xzf fjt.tar.gz -C fjt && cd fjt && \
bash launch/local.sh --processes=auto $(printf '%q ' "$@")" || code=$?
  # 2, 3: a mistake, or numbers that are not finite: the same again would end in the same way.
  case $code in 0 | 2 | 3) say "ended with $code; $name is still there (--delete)" && exit "$code" ;; esac
  say "ended with $code"
done
exit 1
