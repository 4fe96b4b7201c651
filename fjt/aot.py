"""What a step takes on devices that need not be here:  python -m fjt.aot --config FILE --topology v5e:2x4 [...]

It compiles the run's own training step with the TPU's compiler (pip install -e .[tpu]) on any machine, and prints
memory per chip, estimated cycles and the bytes that chips send each other.

  --topology NAME      v5e:2x4, v5p:2x2x2, v6e:4x4, ...; v5e-8 is v5e:2x4; local: this machine's devices
  --batch 64,256       examples per batch of all chips; largest: what fits; default: config.train.batch_size
  --mesh 8x1,4x2       chips that share a batch x chips that share a layer; default: config.mesh
  --shard_params both  True, False or both: parameters divided among the chips of a batch; default: config.mesh
  --padded 128         batches of examples of so many tokens each; without it the data of the run is read
  --encoder base       base, large, LAYERSxWIDTHxHEADSxINNER or a directory with a config.json, in place of the run's
                       own, with a head of two classes: neither weights nor data nor a network is needed
  --output FILE        also write what was found, as JSON
  --help               print this text and every config key with its default

The step starts from tokens, without cached features.  Estimated cycles contain no communication: the time of a step is
at least theirs at the chip's clock.  Exit codes: 0 if a batch fits, 2 a mistake or none fits, 130 Ctrl-C.
"""

import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import console, files, records
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS, MeshConfig
from fjt.core.settings import from_config

if TYPE_CHECKING:
    from fjt.experiment.ahead import Measured
    from fjt.experiment.chips import Chips

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", flag_values=FLAGS)
TOPOLOGY = absl_flags.DEFINE_string("topology", None, "The chips.", flag_values=FLAGS)
BATCH = absl_flags.DEFINE_list("batch", None, "Examples per batch.", flag_values=FLAGS)
MESH = absl_flags.DEFINE_list("mesh", None, "Layouts.", flag_values=FLAGS)
SHARD_PARAMS = absl_flags.DEFINE_string("shard_params", "", "True, False or both.", flag_values=FLAGS)
PADDED = absl_flags.DEFINE_integer("padded", 0, "Tokens of each example.", lower_bound=0, flag_values=FLAGS)
ENCODER = absl_flags.DEFINE_string("encoder", "", "The encoder.", flag_values=FLAGS)
OUTPUT = absl_flags.DEFINE_string("output", None, "The file of the record.", flag_values=FLAGS)

LARGEST = "largest"
SMALL = 10_000  # bytes; the table lists no collective that sends less
# Read by JAX and libtpu when they are imported: no TPU is looked for here, the compiler may serve several processes,
# and it says nothing but why it ends.
ELSEWHERE = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
SPREAD = {"True": (True,), "False": (False,), "both": (False, True)}


def main(argv: list[str]) -> int:
    """The exit code of a command line."""
    return flags.run(argv, __doc__, OPTIONS, lambda: _start(argv), lambda: OUTPUT.value or "")


def _start(argv: list[str]) -> int:
    config = flags.parse(argv, FLAGS, CONFIG)
    if config is None or not TOPOLOGY.value:
        raise UserError(
            "--config and --topology are needed, for example --config configs/glue.py:rte --topology v5e:2x4."
        )
    settings, output = from_config(config), OUTPUT.value and files.local_path(OUTPUT.value, "--output")
    topology = TOPOLOGY.value
    meshes = _meshes(settings.execution.mesh)
    batches = _batches(settings.experiment.train.batch_size)
    if output:
        records.write_json(output, {})  # it can be written: nobody waits for a compilation in vain
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for the compiler
    if topology != "local":
        os.environ.update(ELSEWHERE)
    command = shlex.join(["python", "-m", "fjt.aot", *argv[1:]])
    from fjt.experiment import ahead, chips
    from fjt.experiment.features import gib

    there = chips.find(topology)
    runs = ahead.Ahead(settings, there.devices, ENCODER.value or "", PADDED.value or 0, there.capacity)
    console.say(f"{there.name}: {len(there.devices)} devices, {gib(there.capacity)} each for programs")
    found: list[Measured] = []

    def tell(one: "Measured") -> None:
        found.append(one)
        fits = gib(one.needed) if one.fits else f"does not fit into {gib(one.capacity)}"
        console.say(f"  {_name(one.case.mesh)}, {one.case.batch:,} examples: {fits} (compiled in {one.seconds:.0f} s)")
        if output:
            record = {"command": command, "topology": there.name, "versions": records.versions()}
            records.write_json(output, record | {"steps": [_record(one, there) for one in found]})

    for mesh in meshes:
        for batch in filter(None, batches):
            tell(runs.compile(ahead.Case(batch, mesh)))
        known = [one for one in found if one.case.mesh == mesh]
        if not all(batches) or not all(one.fits for one in known):
            runs.largest(ahead.Case(0, mesh), known, tell)
    _show(found, there)
    if output:
        console.say(f"written to {output}")
    if not any(one.fits and (one.case.batch in batches or not all(batches)) for one in found):
        raise UserError(f"no batch fits. {_remedy(found)}")
    return 0


def _remedy(found: "Sequence[Measured]") -> str:
    """What to do where no batch that was asked for fits."""
    fitting = [one.case.batch for one in found if one.fits]
    if not fitting:
        return "Take more or larger chips, or --shard_params=True."
    return f"The largest batch that does: {max(fitting)} examples."


def _meshes(own: MeshConfig) -> list[MeshConfig]:
    """The layouts that --mesh and --shard_params ask for."""
    given, word = MESH.value or [f"{own.data}x{own.model}"], SHARD_PARAMS.value or str(own.shard_params)
    if word not in SPREAD:
        raise UserError(f"--shard_params={word} should be {', '.join(SPREAD)}.")
    for mesh in given:
        if not re.fullmatch(r"\d+x[1-9]\d*", mesh):
            raise UserError(f"--mesh={mesh} should be DATAxMODEL, such as 8x1.")
    sizes = [tuple(map(int, mesh.split("x"))) for mesh in given]
    return [MeshConfig(data, model, spread) for data, model in sizes for spread in SPREAD[word]]


def _batches(own: int) -> list[int]:
    """The sizes that --batch asks for, 0 for the largest."""
    given = BATCH.value or [str(own)]
    for batch in given:
        if batch != LARGEST and not re.fullmatch(r"[1-9]\d*", batch):
            raise UserError(f"--batch={batch} should be numbers of examples, or {LARGEST}.")
    return [0 if batch == LARGEST else int(batch) for batch in given]


def _name(mesh: MeshConfig) -> str:
    return f"{mesh.data or 'all'}x{mesh.model}{' spread' if mesh.shard_params else ''}"


def _record(one: "Measured", there: "Chips") -> dict[str, Any]:
    """What was found of a step, as plain values."""
    seconds, share = _estimate(one, there)
    return {
        "batch": one.case.batch,
        "mesh": vars(one.case.mesh),
        "fits": one.fits,
        "argument_bytes": one.arguments,
        "temporary_bytes": one.temporaries,
        "needed_bytes": one.needed,
        "peak_bytes": one.peak,
        "capacity_bytes": one.capacity,
        "flops": one.flops,
        "estimated_cycles": one.cycles,
        "seconds_without_communication": seconds,
        "share_of_peak_without_communication": share,
        "sent_bytes": {" ".join(key): size for key, size in sorted(one.sent.items())},
        "largest_costs": dict(sorted(one.costs.items(), key=lambda item: -item[1])[:20]),
        "compile_seconds": one.seconds,
    }


def _estimate(one: "Measured", there: "Chips") -> tuple[float, float]:
    """(seconds of a step, share of the chip's peak), both without communication; nan where nobody estimates."""
    seconds = one.cycles / there.clock if one.cycles else float("nan")
    return seconds, one.flops / seconds / there.peak


def _show(found: "Sequence[Measured]", there: "Chips") -> None:
    """Prints the table."""
    from fjt.experiment.features import gib

    rows = []
    for one in found:
        seconds, share = _estimate(one, there)
        known = one.cycles > 0
        sent = [f"{' '.join(key)} {gib(size)}" for key, size in sorted(one.sent.items()) if size > SMALL]
        rows.append(
            (
                _name(one.case.mesh),
                f"{one.case.batch:,}",
                gib(one.arguments) if one.arguments else "-",
                gib(one.temporaries) if one.arguments else "-",
                gib(one.peak) if one.arguments else "-",
                gib(one.needed),
                "yes" if one.fits else "no",
                f"{one.flops / 1e9:,.0f}" if one.arguments else "-",
                f"{one.cycles / 1e6:,.1f}" if known else "-",
                f"{1e3 * seconds:,.1f}" if known else "-",
                f"{share:.0%}" if known else "-",
                ", ".join(sent) or "-",
                f"{one.seconds:.0f}",
            )
        )
    columns = (
        "mesh",
        ">batch",
        ">arguments",
        ">temporaries",
        ">peak",
        ">allocated",
        "fits",
        ">GFLOP",
        ">M cycles",
        ">ms",
        ">of peak",
        "sent",
        ">compile s",
    )
    title = f"A step on {there.name}, per device; cycles, ms and share of peak without communication"
    console.table(title, columns, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
