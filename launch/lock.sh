#!/usr/bin/env bash
# Writes launch/lock/<python>/{base,test,ray,cuda,tpu}.txt anew from pyproject.toml: the newest versions that fit together.
#   bash launch/lock.sh [3.11 3.12 ...]      needs a network and uv (pip install uv)
# Resolved for Linux; the hashes are those of every platform's files. `base` is complete, the others hold only
# what they add to it. A lock names no index, so that it serves behind a mirror too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
whole=$temporary/whole

resolve() {
  uv pip compile --quiet --python-version "$1" --python-platform x86_64-manylinux_2_31 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links "${@:2}" pyproject.toml
}

if [ $# = 0 ]; then set -- 3.11 3.12 3.13; fi
for version in "$@"; do
  new=$temporary/$version
  mkdir "$new"
  echo "locking for Python $version ..."
  resolve "$version" >"$new/base.txt"
  for extra in test ray cuda tpu; do
    resolve "$version" --extra "$extra" --constraint "$new/base.txt" >"$whole"
    # Entries (a pin and the hash lines below it) that base has not.
    awk 'NR == FNR { if (/==/) base[$1]; next } /==/ { keep = !($1 in base) } keep' \
      "$new/base.txt" "$whole" >"$new/$extra.txt"
  done
  mkdir -p "launch/lock/$version"
  mv "$new"/*.txt "launch/lock/$version/"
done
