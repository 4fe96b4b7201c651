"""The launch scripts and the lock files, without a network: a fake `python3` records how it is called."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
LOCKS = sorted((ROOT / "launch" / "lock").glob("*/*.txt"))
VERSIONS = sorted({path.parent.name for path in LOCKS})

# Stands for python3 and, copied by its own `-m venv`, for the environment's interpreter.
FAKE_PYTHON = """#!/bin/bash
printf '<%s>' "$@" >>"$FAKE_LOG"; echo >>"$FAKE_LOG"
case "$1 $2" in
  "-c import sys"*) echo "${FAKE_VERSION:-3.12}" ;;
  "-c import jax"*) exit "${FAKE_UNSEEN:-0}" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") [ -z "${FAKE_PIP_PID:-}" ] || { echo $$ >"$FAKE_PIP_PID"; exec sleep 60; }; exit "${FAKE_PIP_EXIT:-0}" ;;
  "-m fjt.main") echo "$GLIBC_TUNABLES" >"$FAKE_LOG.pages"; pwd >>"$FAKE_LOG"; exit "${FAKE_EXIT:-0}" ;;
esac
"""


def read_lock(path):
    """{name: (version, number of hashes)} of a lock file; every line must be a pin or a sha256."""
    pins = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if pin := re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+) \\", line):
            name = canonicalize_name(pin[1])
            assert name not in pins, f"{path}:{number}: {name} twice"
            pins[name] = (pin[2], 0)
        else:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), f"{path}:{number}: {line}"
            pins[name] = (pins[name][0], pins[name][1] + 1)
    return pins


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")  # locked; the environment may not be on PATH
    subprocess.run([shellcheck, "-x", "-s", "bash", script], check=True, cwd=ROOT)


def test_every_supported_python_has_its_locks():
    assert {"3.11", "3.12"} <= set(VERSIONS)
    for version in VERSIONS:
        parts = {path.stem for path in LOCKS if path.parent.name == version}
        assert parts == {"base", "test", "ray", "cuda", "tpu"}, version


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_locks_hold_pins_and_hashes_and_nothing_else(path):
    assert not re.search(r"://|--index-url|--find-links|@", path.read_text())
    pins = read_lock(path)
    assert pins and all(hashes for _, hashes in pins.values())
    if path.stem != "base":
        assert not pins.keys() & read_lock(path.with_name("base.txt")).keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_locks_cover_pyproject(version):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, test, ray, cuda, tpu = (
        read_lock(ROOT / "launch" / "lock" / version / f"{part}.txt") for part in ("base", "test", "ray", "cuda", "tpu")
    )
    wanted = [(base, line) for line in project["dependencies"]]
    wanted += [(base | test, line) for line in project["optional-dependencies"]["test"]]
    wanted += [(base | ray, line) for line in project["optional-dependencies"]["ray"]]
    wanted += [(base, line) for extra in ("cuda", "tpu") for line in project["optional-dependencies"][extra]]
    for pins, line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{line} is not locked for Python {version}: bash launch/lock.sh"
        assert requirement.specifier.contains(pins[name][0], prereleases=True), (line, pins[name][0])
    assert cuda["jax-cuda13-plugin"][0] == base["jax"][0]
    assert "libtpu" in tpu


@pytest.fixture
def launch(tmp_path):
    """Returns call(*arguments, script, cwd, **environment) -> (finished process, calls of the fake python)."""
    checkout, binaries, log = tmp_path / "check out", tmp_path / "bin", tmp_path / "log"
    shutil.copytree(ROOT / "launch", checkout / "launch")
    binaries.mkdir()
    for name, text in [("python3", FAKE_PYTHON), ("nvidia-smi", '#!/bin/bash\nexit "${FAKE_SMI:-1}"\n')]:
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)

    def call(*arguments, script="local.sh", cwd=tmp_path, **environment):
        log.write_text("")
        environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "FAKE_LOG": str(log)} | environment
        done = subprocess.run(
            ["bash", checkout / "launch" / script, *arguments],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, log.read_text().splitlines()

    call.checkout = checkout
    return call


def installed(calls):
    """The lock files that pip was given, as `3.12/base.txt`."""
    return ["/".join(Path(line[:-1].split("><")[-1]).parts[-2:]) for line in calls if line.startswith("<-m><pip>")]


def test_local_passes_arguments_folder_and_exit_code(launch, tmp_path):
    done, calls = launch("--config", "a b.py", "--x=", "$HOME *", FAKE_EXIT="130", JAX_PLATFORMS="cpu")
    assert done.returncode == 130, done.stderr
    assert calls[-2:] == ["<-m><fjt.main><--config><a b.py><--x=><$HOME *>", str(tmp_path)]
    assert done.stdout == ""  # what the launcher says goes to stderr: stdout belongs to fjt


@pytest.mark.parametrize(
    ("given", "passed"),
    [({}, "glibc.malloc.hugetlb=1"), ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0")],
)
def test_local_asks_malloc_for_large_pages_unless_the_user_sets_it_otherwise(launch, tmp_path, given, passed):
    assert launch(JAX_PLATFORMS="cpu", **given)[0].returncode == 0
    assert (tmp_path / "log.pages").read_text() == f"{passed}\n"


def test_local_installs_once_and_again_when_a_lock_changes(launch):
    assert installed(launch(JAX_PLATFORMS="cpu")[1]) == ["3.12/base.txt"]
    done, calls = launch(JAX_PLATFORMS="cpu")
    assert installed(calls) == [] and done.stderr == ""
    assert installed(launch(script="test.sh")[1]) == ["3.12/test.txt", "3.12/ray.txt"]
    with (launch.checkout / "launch" / "lock" / "3.12" / "base.txt").open("a") as file:
        file.write("# changed\n")
    assert installed(launch(JAX_PLATFORMS="cpu")[1]) == ["3.12/base.txt"]


def test_a_failed_installation_says_so_and_is_tried_again(launch):
    done, calls = launch(JAX_PLATFORMS="cpu", FAKE_PIP_EXIT="1")
    assert done.returncode == 2 and "pip could not install" in done.stderr and "network" in done.stderr
    assert not any("fjt.main" in line for line in calls)
    assert installed(launch(JAX_PLATFORMS="cpu")[1]) == ["3.12/base.txt"]


# Becomes another program, which Ctrl-C and a hang-up reach though the tests may run in the background or under nohup.
HEARS_ALL = (
    "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (1, 2)]; os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_installation_that_is_stopped_leaves_no_pip_behind(launch, tmp_path, number):
    file = tmp_path / "pip"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "FAKE_LOG": str(tmp_path / "log")}
    environment |= {"FAKE_PIP_PID": str(file), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_ALL, "bash", launch.checkout / "launch" / "local.sh"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_cuda_is_found_by_nvidia_smi(launch):
    done, calls = launch(FAKE_SMI="0")
    assert installed(calls) == ["3.12/base.txt", "3.12/cuda.txt"]
    assert "warning" not in done.stderr
    done, calls = launch(FAKE_SMI="0", FAKE_UNSEEN="1")
    assert "cuda device, but JAX does not see it" in done.stderr
    assert done.returncode == 0 and any("fjt.main" in line for line in calls)


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has a CUDA device")
def test_devices_are_told_apart():
    def detect(devices):
        text = 'source launch/environment.sh; pci_devices() { printf "%s\\n" "$DEVICES"; }; detect_device'
        environment = {"PATH": "/usr/bin:/bin", "DEVICES": devices}
        return subprocess.check_output(
            ["bash", "-euc", f"nvidia-smi() {{ return 9; }}; {text}"], env=environment, cwd=ROOT, text=True
        ).strip()

    assert detect("0x8086 0x1237\n0x1ae0 0x0063") == "tpu"
    assert detect("0x8086 0x0063\n0x1ae0 0x0042") == "cpu"  # another vendor's number; Google's network card
    assert detect("") == "cpu"


def test_an_unsupported_python_is_refused(launch):
    done, calls = launch(FAKE_VERSION="3.8", PYTHON="python3")
    assert done.returncode == 2 and "PYTHON=python3" in done.stderr and "3.11 or 3.12" in done.stderr
    assert not any("venv" in line for line in calls)


def test_an_environment_of_another_python_is_not_used_silently(launch, tmp_path):
    launch(JAX_PLATFORMS="cpu")
    other = tmp_path / "other"
    other.write_text(FAKE_PYTHON.replace("${FAKE_VERSION:-3.12}", "3.11"))
    other.chmod(0o755)
    done, _ = launch(JAX_PLATFORMS="cpu", PYTHON=str(other))
    assert done.returncode == 2 and "holds Python 3.12" in done.stderr
    done, calls = launch(JAX_PLATFORMS="cpu", PYTHON=str(other), FJT_VENV="elsewhere")
    assert done.returncode == 0, done.stderr
    assert installed(calls) == ["3.11/base.txt"] and (tmp_path / "elsewhere" / "bin" / "python").exists()


def test_test_script_lints_and_passes_arguments(launch):
    done, calls = launch("-k", "a or b", script="test.sh")
    assert done.returncode == 0, done.stderr
    assert installed(calls) == ["3.12/base.txt", "3.12/test.txt", "3.12/ray.txt"]
    workers = min(8, os.cpu_count() + 1)
    assert calls[-3:] == [
        "<-m><ruff><check><.>",
        "<-m><ruff><format><--check><.>",
        f"<-m><pytest><-n><{workers}><--dist><loadfile><--no-loadscope-reorder><-k><a or b>",
    ]


def test_the_environment_knows_the_checkout(launch, tmp_path):
    """After `source .venv/bin/activate` any folder's Python imports fjt."""
    done, _ = launch()
    (path,) = tmp_path.glob("check out/.venv/lib/python3.*/site-packages/fjt-checkout.pth")
    assert done.returncode == 0, done.stderr
    assert path.read_text() == f"{tmp_path / 'check out'}\n"
    before = path.stat()
    launch()
    assert path.stat().st_mtime_ns == before.st_mtime_ns  # it may be in a folder that is read-only
    path.write_text("/elsewhere\n")
    launch()
    assert path.read_text() == f"{tmp_path / 'check out'}\n" and path.stat().st_ino != before.st_ino
    assert os.listdir(path.parent) == [path.name]


def test_local_starts_processes_of_one_run(launch):
    done, calls = launch("--processes", "2", "--config", "a.py", JAX_PLATFORMS="cpu", FAKE_EXIT="3")
    assert done.returncode == 3, done.stderr
    started = sorted(call for call in calls if call.startswith("<-m><fjt.main>"))
    assert [re.sub(r":\d*>", ":PORT>", call) for call in started] == [
        f"<-m><fjt.main><--processes=2><--process={i}><--coordinator=127.0.0.1:PORT><--config><a.py>" for i in (0, 1)
    ]
