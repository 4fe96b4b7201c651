"""Fine-tune an encoder:  python -m fjt.main --config configs/glue.py:rte --workdir runs/rte [--config.key=value ...]

  --list   tasks, methods and configs
  --plan   what the run would be: resolved options, what trains, steps, shapes, cost; then stop
  --help   this text and every config key with its default

Run it again on an unfinished work directory and it goes on from the last checkpoint, to the same bits.
Exit codes: 0 done, 2 a mistake in what was given, 3 loss not finite, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import logging
import os
import pathlib
import re
import sys

from absl import flags
from ml_collections import config_flags

from fjt import console, memory
from fjt.settings import TOGETHER, UserError, flatten, from_config, suggest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file, with its argument after a colon.", flag_values=FLAGS
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where everything of this run is written.", flag_values=FLAGS)
PLAN = flags.DEFINE_bool("plan", False, "Show what the run would be, and stop.", flag_values=FLAGS)
LIST = flags.DEFINE_bool("list", False, "Name tasks, methods and configs.", flag_values=FLAGS)


def main(argv):
    """The exit code of a command line."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv[1:]):
        console.say(__doc__)
        console.say(keys_help())
        return 0
    try:
        settings = parse(argv)
        if LIST.value:
            show_list()
            return 0
        if settings is None:
            raise UserError(
                "--config is missing, for example --config configs/glue.py:rte. --list names what there is."
            )
        if WORKDIR.value is None and not PLAN.value:
            raise UserError(
                "--workdir is missing: the directory that this run writes to, for example --workdir runs/first."
            )
        return execute(settings, WORKDIR.value, PLAN.value, given(CONFIG.value, argv))
    except KeyboardInterrupt:  # before training: from there on the run saves first
        print("fjt: stopped by SIGINT; nothing was under way that could be saved", file=sys.stderr)
        return 130
    except OSError as error:
        print(
            f"fjt: {error.strerror or error}: {error.filename or WORKDIR.value}. What was saved before is kept.",
            file=sys.stderr,
        )
        return 2
    except UserError as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2


def parse(argv):
    """Settings of a command line, or None without --config.  Raises UserError."""
    _check_names(argv)
    _check_config_file(argv)
    sys.argv = argv  # where config_flags looks for overrides, whatever it is given
    try:
        rest = FLAGS(argv)
        config = CONFIG.value
        if config is not None:
            config["task"]  # a file that could not be read says so at the first access
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(_readable(error, argv)) from None
    except OSError as error:
        raise UserError(f"--config cannot be read: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not understood; options are given as --config.key=value.")
    if config is None:
        return None
    for one, other in (("train.steps", "train.epochs"), ("eval.every_steps", "eval.every_epochs")):
        _replace_duration(config, argv, one, other)
        _replace_duration(config, argv, other, one)
    return from_config(config)


def given(config, argv):
    """{key: origin} of the options that differ from configs/base.py: the command line, or the config file."""
    from configs import base

    default, path = flatten(base.get_config()), next((a for a in argv if "configs/" in a), "the config file")
    named = {argument[len("--config.") :].partition("=")[0] for argument in argv if argument.startswith("--config.")}
    named |= {argument[len("--noconfig.") :] for argument in argv if argument.startswith("--noconfig.")}
    found = {}
    for key, value in flatten(config).items():
        if key in named:
            found[key] = "command line"
        elif key in default and value != default[key] and value is not None:
            found[key] = path.removeprefix("--config=")
    return found


def _replace_duration(config, argv, given, other):
    """A duration of the command line takes the place of the config file's in the other unit."""

    def named(key):
        return any(argument.startswith(f"--config.{key}") for argument in argv)

    if named(given) and not named(other):
        section, name = other.split(".")
        config[section][name] = None


def _check_config_file(argv):
    """Raises UserError for a config file that is not there, with the nearest that is."""
    for i, argument in enumerate(argv[1:], 1):
        name, _, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = (value or " ".join(argv[i + 1 : i + 2])).partition(":")[0]
            if path and not os.path.isfile(path):
                known = sorted(f"configs/{file.name}" for file in (ROOT / "configs").glob("*.py"))
                raise UserError(f"--config={path}: there is no such file.{suggest(path, known)}")


def _readable(error, argv):
    """The message of a flag that could not be parsed; of a value of the wrong type, with the key that it was for."""
    text = " ".join(str(error).split())
    value = re.search(
        r"(?:literal for int\(\) with base 10: |to boolean flag', |could not convert string to float: )'(.*?)'", text
    )
    if value:
        kind = "a whole number" if "int()" in text else "a number" if "float" in text else "True or False"
        for argument in argv[1:]:
            if argument.endswith(f"={value.group(1)}"):
                return f"{argument} should be {kind}."
    return text


def _check_names(argv):
    """Unknown flags and config keys, with the nearest valid ones, before the flag parser's own bare error."""
    valid = [key for key, _, _ in documented_keys()]
    sections = {key.rsplit(".", i)[0] for key in valid for i in range(1, key.count(".") + 1)}
    for argument in argv[1:]:
        match = re.match(r"--(?:no)?config\.([^=]*)", argument)
        if match and match.group(1) not in valid:
            key = match.group(1)
            if key in sections:
                inside = [name for name in valid if name.startswith(key + ".")]
                raise UserError(f"--config.{key} is a group of options: {', '.join(inside)}.")
            raise UserError(f"--config.{key} is no option.{suggest(key, valid)} --help shows them all.")
        match = re.match(r"--?(?:no)?([^=.]+)(?:=|$)", argument)
        if match and argument.startswith("-") and match.group(1) not in FLAGS and match.group(1) != "":
            raise UserError(f"{argument.split('=')[0]} is no option.{suggest(match.group(1), list(FLAGS))}")


def documented_keys():
    """[(key, default as written, what it is)] of every line of configs/base.py."""
    groups, found = {"config": ""}, []
    for line in (ROOT / "configs" / "base.py").read_text().splitlines():
        match = re.match(r"    (\w+)\.(\w+)(?: = (\w+))? = (.*?)(?:  # (.*))?$", line)
        if not match:
            continue
        owner, name, alias, value, note = match.groups()
        if alias and value == "ConfigDict()":
            groups[alias] = f"{groups[owner]}{name}."
        else:
            found.append((f"{groups[owner]}{name}", re.sub(r"placeholder\((\w+)\)", r"None (\1)", value), note or ""))
    return found


def keys_help():
    """Every config key with its default and meaning."""
    lines = [
        "Config keys, each settable as --config.KEY=VALUE (None: a recipe fills it, and the run says with what):",
        "",
    ]
    for key, value, note in documented_keys():
        lines.append(f"  {key} = {value}")
        if note:
            lines.append(f"      {note}")
    return "\n".join(lines)


def show_list():
    """Prints tasks, methods and configs."""
    from fjt.data import sources
    from fjt.tuning.partition import METHODS

    console.table("Tasks (config.task, or configs/glue.py:TASK)", ("name", "what it is"), sources.names().items())
    rows = [
        (name, f"{m.learning_rate:g}", ", ".join(f"{k}={v}" for k, v in m.options.items()) or "-", m.about)
        for name, m in METHODS.items()
    ]
    rows += [(name, "", "", f"{' and '.join(several)} together") for name, several in TOGETHER.items()]
    console.table("Methods (config.tune.method)", ("name", ">rate", "options (config.tune.)", "what trains"), rows)
    rows = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        first = re.match(r'\s*"""(.*?)(?:\n|""")', path.read_text())
        rows.append((f"configs/{path.name}", first.group(1) if first else ""))
    console.table("Configs (--config)", ("file", "what it is"), rows)


def execute(settings, workdir, plan_only, origins):
    """The exit code of a run.  origins: {key: where its value came from} of the options that were given."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from fjt import summary
    from fjt.checkpoint import NotFinite
    from fjt.experiment import prepare
    from fjt.programs import configure_jax
    from fjt.run import run
    from fjt.train import Stopped
    from fjt.workdir import check, finished, lock

    configure_jax(settings)
    if plan_only:
        experiment = prepare(settings, given=origins)
        summary.show_plan(experiment)
        return 0
    with lock(workdir):
        try:
            experiment = prepare(settings, given=origins)
            if finished(workdir):
                check(experiment, workdir)
                console.say(f"{workdir} is finished already; its result:")
                summary.show_result(workdir)
                return 0
            summary.show_start(experiment, workdir)
            run(experiment, workdir)
        except Stopped as stop:
            console.warn(str(stop))
            return 128 + stop.number
        except NotFinite as error:
            console.warn(
                f"{error}. Stopped; what was saved before is kept, and the same command would end here again. "
                "A lower --config.optim.learning_rate or a longer --config.optim.warmup_fraction, in another "
                "--workdir, may help."
            )
            return 3
        summary.show_result(workdir)
    return 0


if __name__ == "__main__":
    memory.use_large_pages()
    sys.exit(main(sys.argv))
