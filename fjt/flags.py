"""What commands that take a config share: its flags, checked before the parser's own bare errors, and their help."""

import os
import pathlib
import re
import sys

from absl import flags

from fjt.core.errors import UserError, suggest
from fjt.core.options import flatten

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse(argv, values, holder, files=("base.py",)):
    """The ConfigDict of a command line, None without --config.

    values, holder: as `config_flags.DEFINE_config_file` was given and gave; files: those below configs/ that document
    the keys.  Raises UserError.
    """
    _check_names(argv, values, [key for key, _, _ in documented_keys(*files)])
    _check_config_file(argv)
    sys.argv = argv  # where config_flags looks for overrides, whatever it is given
    try:
        rest = values(argv)
        config = holder.value
        if config is not None:
            config["task"]  # a file that could not be read says so at the first access
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(_readable(error, argv)) from None
    except OSError as error:
        raise UserError(f"--config cannot be read: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not understood; options are given as --config.key=value.")
    if config is not None:
        for one, other in (("train.steps", "train.epochs"), ("eval.every_steps", "eval.every_epochs")):
            _replace_duration(config, argv, one, other)
            _replace_duration(config, argv, other, one)
    return config


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
    key = re.search(r"does not accept dots in field names .*, but the key (\S+) contains one", text)
    if key:
        return (
            f"the config file has a dict with the key {key.group(1)!r} where none can stand: config.study.products and "
            "config.study.without are tuples of dicts, ({config key: values},)."
        )
    value = re.search(
        r"(?:literal for int\(\) with base 10: |to boolean flag', |could not convert string to float: )'(.*?)'", text
    )
    if value:
        kind = "a whole number" if "int()" in text else "a number" if "float" in text else "True or False"
        for argument in argv[1:]:
            if argument.endswith(f"={value.group(1)}"):
                return f"{argument} should be {kind}."
    return text


def _check_names(argv, values, valid):
    """Unknown flags and config keys, with the nearest valid ones, before the flag parser's own bare error."""
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
        if match and argument.startswith("-") and match.group(1) not in values and match.group(1) != "":
            raise UserError(f"{argument.split('=')[0]} is no option.{suggest(match.group(1), list(values))}")


def documented_keys(*files):
    """[(key, default as written, what it is)] of every line of these files below configs/."""
    groups, found = {"config": ""}, []
    for line in "\n".join((ROOT / "configs" / file).read_text() for file in files).splitlines():
        match = re.match(r"    (\w+)\.(\w+)(?: = (\w+))? = (.*?)(?:  # (.*))?$", line)
        if not match:
            continue
        owner, name, alias, value, note = match.groups()
        if alias and value == "ConfigDict()":
            groups[alias] = f"{groups[owner]}{name}."
        else:
            found.append((f"{groups[owner]}{name}", re.sub(r"placeholder\((\w+)\)", r"None (\1)", value), note or ""))
    return found


def keys_help(*files):
    """Every config key of these files below configs/, with its default and meaning."""
    lines = [
        "Config keys, each settable as --config.KEY=VALUE (None: a recipe fills it, and the run says with what):",
        "",
    ]
    for key, value, note in documented_keys(*files):
        lines.append(f"  {key} = {value}")
        if note:
            lines.append(f"      {note}")
    return "\n".join(lines)
