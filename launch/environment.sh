# Sourced by the launch scripts. `prepare_environment base [test]` makes the virtual environment, installs these
# locked parts and that of this machine's device, and leaves the interpreter in $python and the device in $device.
#
#   PYTHON         the Python to build the environment from (default: the first supported one on PATH)
#   FJT_VENV       where the environment lies (default: .venv beside pyproject.toml)
#   JAX_PLATFORMS  cpu, cuda or tpu: taken at its word, nothing is detected
#
# Plain bash 3.2, so that it runs on a Mac as well.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${FJT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac # the scripts may change the folder

say() { echo "[fjt] $*" >&2; }

stop() {
  say "$*"
  exit 2
}

# Prints 3.x if the given command is a Python that a lock exists for. It is run, not looked up: a version
# manager's shim lies on PATH for versions that it then refuses to start.
python_version() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  [ -d "$root/launch/lock/$version" ] && echo "$version"
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    python_version "$PYTHON" >/dev/null || stop "PYTHON=$PYTHON does not run or is not Python $(locked_versions)"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.12 python3.13 python3.11; do
    if python_version "$candidate" >/dev/null; then
      echo "$candidate"
      return
    fi
  done
  stop "no Python $(locked_versions) on PATH; install one, or name it: PYTHON=/path/to/python3.12"
}

locked_versions() {
  local versions
  versions=$(cd "$root/launch/lock" && echo 3.*)
  echo "${versions// / or }"
}

# Vendor and device of each PCI device, one a line.
pci_devices() {
  local folder
  for folder in /sys/bus/pci/devices/*/; do
    if [ -r "$folder/vendor" ]; then echo "$(<"$folder/vendor") $(<"$folder/device")"; fi
  done
}

# The TPU identifiers are those of jax/_src/hardware_utils.py: Google's network cards share the vendor.
detect_device() {
  case ${JAX_PLATFORMS:-} in
    cpu | cuda | tpu)
      echo "$JAX_PLATFORMS"
      return
      ;;
  esac
  if [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; then
    echo cuda
  elif pci_devices | grep -qE '^0x1ae0 0x00(27|56|5e|62|63|6f|76|83|7c)$'; then
    echo tpu
  else
    echo cpu
  fi
}

# Runs a command that ends when this script does: without this, a script that is stopped leaves pip running, and the
# next one installs beside it.
run() {
  "$@" &
  local child=$! number
  for number in 1 2 15; do
    # shellcheck disable=SC2064
    trap "kill $child 2>/dev/null; wait $child || true; exit $((128 + number))" "$number"
  done
  local code=0
  wait "$child" || code=$?
  trap - 1 2 15
  return "$code"
}

# Installs what differs from the copies of the lock files that the last installation left in the environment.
install_locked() {
  local version=$1 part lock
  shift
  if [ "$device" != cpu ]; then set -- "$@" "$device"; fi
  for part in "$@"; do
    lock=$root/launch/lock/$version/$part.txt
    cmp -s "$lock" "$venv/fjt-lock-$part.txt" && continue
    if [ "$part" = base ]; then
      say "installing locked dependencies for $device into $venv (Python $version, a few minutes) ..."
    else
      say "installing locked dependencies: $part ..."
    fi
    # A lock is complete, so there is nothing to resolve. Compiling afterwards uses all cores; pip would use one.
    run "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$lock" ||
      stop "pip could not install $lock (its message is above). Check the network and the free disk space and run" \
        "the same command again; if that does not help, remove $venv first."
    "$python" -m compileall -q -j 0 "$venv/lib" >/dev/null 2>&1 || true
    cp "$lock" "$venv/fjt-lock-$part.txt"
  done
}

prepare_environment() {
  local base version path
  python=$venv/bin/python
  # Without a finished installation `venv` runs again: it repairs what an interrupted one left.
  if [ ! -e "$venv/fjt-lock-base.txt" ]; then
    base=$(find_python)
    say "making the environment $venv ..."
    run "$base" -m venv "$venv" ||
      stop "$base -m venv failed (its message is above); on Debian and Ubuntu: apt install python3-venv"
  fi
  version=$(python_version "$python") || stop "$venv is not an environment of Python $(locked_versions); remove it"
  if [ -n "${PYTHON:-}" ] && [ "$(python_version "$PYTHON")" != "$version" ]; then
    stop "$venv holds Python $version and PYTHON=$PYTHON is another; remove $venv or set FJT_VENV=.venv-other"
  fi
  device=$(detect_device)
  install_locked "$version" "$@"
  # fjt is imported from the checkout, by every Python of the environment. An environment that has the file may be
  # read-only, and a Python that starts meanwhile finds it whole.
  path=$venv/lib/python$version/site-packages/fjt-checkout.pth
  if [ "$(cat "$path" 2>/dev/null)" != "$root" ]; then
    mkdir -p "$(dirname "$path")"
    echo "$root" >"$path.$$"
    mv -f "$path.$$" "$path"
  fi
}
