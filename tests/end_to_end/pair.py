"""Two processes of one run, with two devices each."""

import contextlib
import functools
import os
import socket

from process import finish, start

MARK = 0o077  # umask of process 1: what it writes can be told from the files of process 0


def two_devices(umask=None):
    """In a process before JAX starts: it has two devices."""
    os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    if umask is not None:
        os.umask(umask)


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Pair:
    """Two processes of one run.  own: of each, arguments that follow the shared ones."""

    def __init__(self, arguments, folder, workdir, cache, own=((), ()), events=(None, None)):
        folder.mkdir()
        address = f"127.0.0.1:{free_port()}"
        self.outputs = [folder / f"output-{i}" for i in (0, 1)]
        self.processes = []
        for i in (0, 1):
            flags = ["--workdir", workdir, "--processes=2", f"--process={i}", f"--coordinator={address}", *own[i]]
            hook = functools.partial(two_devices, MARK if i else None)
            self.processes.append(
                start([*arguments, *flags], self.outputs[i], cache=cache, hook=hook, events=events[i])
            )

    def finish(self):
        """[Done, Done]."""
        return [finish(one, output) for one, output in zip(self.processes, self.outputs, strict=True)]
