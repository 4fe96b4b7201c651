"""How commands start: their flags, those of configs with clearer errors than the parser's own, and their help."""

import argparse
import ast
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from absl import flags
from absl.flags import FlagValues
from ml_collections import ConfigDict

from fjt import configs
from fjt.configs import ARGUMENTS, ROOT
from fjt.core import console, files
from fjt.core.errors import UserError, exit_code, suggest
from fjt.core.options import ALIASES, OPTIONS, OTHER_UNIT, unknown
from fjt.core.schema import Option

CONFIG = ("--config", "-config")
HELP = ("--help", "-h", "--helpfull")


def run(
    argv: Sequence[str],
    doc: str | None,
    options: Mapping[str, Option],
    command: Callable[[], int],
    place: Callable[[], str],
    interrupted: str = "",
    kept: str = "",
) -> int:
    """The exit code of a command that takes a config; 0 after its help, where that is asked for.

    Args:
        argv: the command line, with the program's name first.
        doc: the command's own part of the help.
        options: {dotted key: Option} of its configs.
        command: see `exit_code`, also for the arguments that follow.
        place: names the output.
        interrupted: follows "stopped by SIGINT".
        kept: a sentence about files written before an error.
    """
    if any(argument in HELP for argument in argv[1:]):
        console.say(doc or "")
        console.say(keys_help(options))
        return 0
    return exit_code(command, place, interrupted, kept)


def parse_and_run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    command: Callable[[argparse.Namespace], int],
    place: Callable[[argparse.Namespace], str],
) -> int:
    """The exit code of a command that takes no config; 2 for wrong flags, 0 after its help.

    Args:
        parser: of the flags.
        argv: the command line, with the program's name first.
        command: does the work with the parsed flags, and returns the exit code.
        place: names the output, see `exit_code`.
    """
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    return exit_code(lambda: command(options), lambda: place(options))


def parse(
    argv: list[str],
    values: flags.FlagValues,
    holder: flags.FlagHolder,
    options: Mapping[str, Option] = OPTIONS,
) -> ConfigDict | None:
    """The ConfigDict of a command line; None without --config.

    Args:
        argv: the command line, with the program's name first.
        values: the flags of the command.
        holder: its flag `config`, of `config_flags.DEFINE_config_file`.
        options: {dotted key: Option} of such configs.

    Raises:
        UserError: for a flag, key, value or file that does not exist or cannot be read.
    """
    _check_names(argv, values, options)
    argv = _expand_home(argv)
    file = _check_config_file(argv)
    # config_flags reads overrides from sys.argv, not from its argument.
    before, sys.argv = sys.argv, _quote_tuples(argv, options)
    try:
        with configs.importable(file):
            rest = values(sys.argv)
            config = holder.value
            if config is not None:
                config["task"]  # raises here if the file could not be read
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(_readable(error, argv)) from None
    except OSError as error:
        raise UserError(f"--config cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if not file or os.path.basename(file) not in text:
            raise
        raise UserError(_of_config_file(text)) from None
    finally:
        sys.argv = before
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not understood; options are given as --config.key=value.")
    if config is not None:
        for one, other in OTHER_UNIT.items():
            _replace_duration(config, argv, one, other)
    return config


def _expand_home(argv: Sequence[str]) -> list[str]:
    """The command line with ~ expanded in --config, where no shell does it.  Raises UserError for a remote file."""
    return _changed(argv, CONFIG, lambda value: value and files.local_path(value, "--config"))


def _changed(argv: Sequence[str], names: Collection[str], change: Callable[[str], str]) -> list[str]:
    """The command line with change(value) for the value of each flag in `names`, after "=" or as the next argument."""
    changed = list(argv)
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in names and equals:
            changed[i] = f"{name}={change(value)}"
        elif i and argv[i - 1] in names:
            changed[i] = change(argument)
    return changed


def given(config: ConfigDict, argv: list[str]) -> dict[str, str]:
    """{key: origin} of the options that differ from their defaults: "command line", or the config file.

    Args:
        config: as `parse` returned it.
        argv: the command line.
    """
    path = next((argument for argument in argv if "configs/" in argument), "the config file")
    named = {argument[len("--config.") :].partition("=")[0] for argument in argv if argument.startswith("--config.")}
    named |= {argument[len("--noconfig.") :] for argument in argv if argument.startswith("--noconfig.")}
    return configs.origins(config, dict.fromkeys(named, "command line"), path.removeprefix("--config="))


def _quote_tuples(argv: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """The command line with no,yes as ("no", "yes") for tuples: the parser would make one text of it."""
    return _changed(argv, [f"--config.{key}" for key, one in options.items() if one.kind is tuple], _quote)


def _quote(text: str) -> str:
    """The value as Python's literal: a literal stays, other text is split at its commas."""
    if re.match(r"""[\[({'"]""", text):  # a wrong literal, if it is none: the parser says so
        return text
    try:
        ast.literal_eval(text)
        return text
    except (ValueError, SyntaxError):
        # A comma within braces belongs to a regular expression, such as layer_1{1,2}.
        return repr(tuple(word.strip() for word in re.split(r",(?![^{]*\})", text)))


def _replace_duration(config: ConfigDict, argv: Sequence[str], given: str, other: str) -> None:
    """Unsets the config file's duration `other` where the command line sets it in the other unit, `given`."""

    def named(key: str) -> bool:
        return any(argument.startswith(f"--config.{key}") for argument in argv)

    if named(given) and not named(other):
        section, name = other.split(".")
        options: Any = config[section]
        options[name] = None


def _check_config_file(argv: Sequence[str]) -> str:
    """The config file, "" without one.  Raises UserError if it does not exist, with the nearest names of files."""
    for i, argument in enumerate(argv[1:], 1):
        name, _, value = argument.partition("=")
        if name in CONFIG:
            path = (value or " ".join(argv[i + 1 : i + 2])).partition(":")[0]
            if path and not os.path.isfile(path):
                known = sorted(f"configs/{file.name}" for file in (ROOT / "configs").glob("*.py"))
                raise UserError(f"--config={path}: there is no such file.{suggest(path, known)}")
            return path
    for argument in argv[1:]:
        if argument.startswith(("--config.", "-config.")):
            raise UserError(f"{argument}: --config FILE is missing, such as --config configs/glue.py.")
    return ""


def _readable(error: Exception, argv: Sequence[str]) -> str:
    """The message for a flag that could not be parsed, with its key where its value has the wrong type."""
    text = " ".join(str(error).split())
    key = re.search(r"does not accept dots in field names .*, but the key (\S+) contains one", text)
    if key:
        return (
            f"the config file has a dict with the key {key.group(1)!r} where a dict is not allowed: "
            "config.study.products, config.study.without and config.search.space are tuples of dicts, "
            "({config key: values},)."
        )
    if "Traceback" in text:
        return _of_config_file(str(error))
    value = re.search(
        r"(?:literal for int\(\) with base 10: |to boolean flag', |could not convert string to float: )'(.*?)'", text
    )
    if value:
        kind = "a whole number" if "int()" in text else "a number" if "float" in text else "True or False"
        for argument in argv[1:]:
            if argument.endswith(f"={value.group(1)}"):
                return f"{argument} should be {kind}."
    return text


def _of_config_file(text: str) -> str:
    """The message about an exception in a config file.  text: its traceback."""
    places = re.findall(r'File "(.+?)", line (\d+)', text)
    own = [place for place in places if not re.search(r"site-packages|[/\\]lib[/\\]python|<frozen", place[0])]
    where = ":".join(own[-1]) if own else "--config"
    reason = text.rstrip().splitlines()[-1].removeprefix("fjt.core.errors.UserError: ")
    return f"{where}: {reason.rstrip('.')}. Correct the config file."


def _check_names(argv: Sequence[str], values: FlagValues, valid: Mapping[str, Option]) -> None:
    """Raises UserError for unknown flags and config keys, with the nearest valid names."""
    sections = {key.rsplit(".", i)[0] for key in valid for i in range(1, key.count(".") + 1)}
    for argument in argv[1:]:
        match = re.match(r"--(?:no)?config\.([^=]*)", argument)
        if match and match.group(1) not in valid:
            key = match.group(1)
            if key in sections:
                inside = [name for name in valid if name.startswith(key + ".")]
                raise UserError(f"--config.{key} is a group of options: {', '.join(inside)}.")
            hint = f" Did you mean --{ARGUMENTS[key]}?" if key in ARGUMENTS else unknown(key, valid)
            raise UserError(f"--config.{key} is not an option.{hint} --help shows all options.")
        match = re.match(r"--?(?!-|(?:no)?config\.)(?:no)?([^=]+)", argument)
        if match and match.group(1) not in values:
            raise UserError(f"{argument.split('=')[0]} is not an option.{_flag_hint(match.group(1), values, valid)}")


def _flag_hint(name: str, values: FlagValues, valid: Mapping[str, Option]) -> str:
    """' Did you mean ...?' for an unknown flag, which may be an option without its prefix."""
    name = name.replace("-", "_")
    if name in ARGUMENTS:
        return f" Did you mean --{ARGUMENTS[name]}?"
    last = name.rsplit(".", 1)[-1]
    if last in ALIASES or last in {key.rsplit(".", 1)[-1] for key in valid}:
        return unknown(name, valid, "--config.")
    return suggest(name, list(values))


def keys_help(options: Mapping[str, Option] = OPTIONS) -> str:
    """The lines of `--help` on config keys: default, meaning and allowed values of each.

    Args:
        options: {dotted key: Option} of the command's configs.
    """
    lines = [
        "Config keys, each set by --config.KEY=VALUE.  None is resolved later, and the run prints the value; for",
        "options of methods (tune.KEY), None and () mean the method's own default, which --list shows.",
        "",
    ]
    for key, one in options.items():
        default = f"None ({one.kind.__name__})" if one.default is None else repr(one.default)
        lines += [f"  {key} = {default}", f"      {one.doc}{one.allowed and f'; {one.allowed}'}"]
    return "\n".join(lines)
