#!/usr/bin/env bash
# Lint, format, types and the default test suite, on the CPU and without a network; arguments go to pytest.
#   bash launch/test.sh            bash launch/test.sh -n 0 tests/test_launch.py -k locks
#   bash launch/test.sh -m "not slow"   also the thorough cases, which the default suite leaves to CI
#   bash launch/test.sh -m ""           also the slow ones, which CI leaves out
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

export JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1
prepare_environment base test ray
"$python" -m ruff check .
"$python" -m ruff format --check .
# Types, when all tests run: they take most of a minute.
if [ "$#" -eq 0 ] || [ "$*" = "-m " ]; then "$python" -m basedpyright --pythonpath "$python" fjt; fi
# One worker more than there are cores, since tests wait for processes and files; eight at most (2 GB each). A file's
# tests stay together, since they share compiled programs. The slowest files come first.
workers=$(($(getconf _NPROCESSORS_ONLN) + 1))
if [ "$workers" -gt 8 ]; then workers=8; fi
exec "$python" -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
