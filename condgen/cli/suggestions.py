"""Explains why jsonargparse rejects a command line, and suggests correct names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import callbacks, loggers, profilers

from condgen.checkpoints.classes import imported_families, short_name
from condgen.cli.options import Option, plain_name
from condgen.errors import UsageError

TRAINER_CLASSES = [*callbacks.__all__, *loggers.__all__, *profilers.__all__]


def did_you_mean(name: str, names: Iterable[str], dashes: str = "") -> str:
    """Suggests similar names for an unknown name.

    Args:
        name: Unknown name.
        names: Names that exist.
        dashes: Prefix of each suggested name, ``--`` for options.

    Returns:
        ``: did you mean …?`` with at most three names, or "" if no name is similar.
    """
    group, _, last = name.rpartition(".")
    ends = {known: known.rpartition(".")[2] for known in sorted(names)}
    ends = {known: end for known, end in ends.items() if known.startswith(f"{group}.")} or ends
    near = [known for known, end in ends.items() if end.lower() == last.lower()]
    near = near or get_close_matches(name, ends, cutoff=0.8)
    near = near or [known for known, end in ends.items() if last in end.split("_")]
    near = near or [known for known, end in ends.items() if end in get_close_matches(last, ends.values(), cutoff=0.7)]
    return f": did you mean {' or '.join(dashes + known for known in near[:3])}?" if near else ""


def explain(
    error: Exception,
    options: Sequence[Option],
    parser: ArgumentParser,
    bases: Mapping[str, type],
    elsewhere: Mapping[str, str] | None = None,
    paths: Sequence[str] = (),
) -> UsageError:
    """Converts jsonargparse's error to a UsageError that names the wrong option and suggests correct names.

    Args:
        error: Error that jsonargparse raised.
        options: Given settings, in the order in which they were parsed.
        parser: Parser that rejected the settings. Its defaults name the classes that are used.
        bases: Base class for each setting that selects a class, such as ``model`` and ``data``.
        elsewhere: Command for each group of settings that only another command has.
        paths: Words of the command line before the options.
    """
    for option in options:  # checked first, because the other names depend on the class
        if (group := plain_name(option.name)) in bases and re.fullmatch(r"\w+", str(option.value)):
            families: dict[str, type] = imported_families(bases[group])
            if option.value not in families:
                meant = did_you_mean(str(option.value), families) or "."
                return UsageError(f"{option.source}{group} is {option.value}: use one of {', '.join(families)}{meant}")
    defaults = parser.get_defaults()
    known = {plain_name(name) for name, _ in defaults.items()}
    for option in options:
        name, dashes = plain_name(option.name), "" if option.source else "--"
        group = name.partition(".")[0]
        if any(name.startswith(f"{parent}.") for parent in known if parent not in bases):
            continue  # a setting of a class, such as trainer.callbacks.patience, is parsed with the class
        if name in known or any(setting.startswith(f"{name}.") for setting in known):
            inner = [str(o) for o in options if group not in bases and o.name.startswith(f"{option.name}.")]
            problem = _wrong_value(option, [*paths, str(option), *inner], parser)
        elif elsewhere and group in elsewhere:
            problem = f"{dashes}{name} is a setting of condgen {elsewhere[group]}."
        else:
            owner = f" for {short_name(defaults[group].class_path)}" if group in bases else ""
            there_are = ", ".join(sorted(setting for setting in known if setting.startswith(f"{group}.")))
            way_out = did_you_mean(name, known, dashes) or f": see {there_are or f'{parser.prog} --help'}."
            problem = f"There is no {dashes}{name}{owner}{way_out}"
        if problem:
            return UsageError(f"{option.source}{problem}")
    return UsageError(" ".join(str(error).split()))


def _wrong_value(option: Option, words: Sequence[str], parser: ArgumentParser) -> str:
    """Returns the reason why the parser rejects an option's value, or "" if it accepts ``words``."""
    try:
        parser.parse_args(words)
    except ArgumentError as error:
        lines = str(error).splitlines()
        deepest = max(len(line) - len(line.lstrip()) for line in lines)
        reasons = [line.strip(" -") for line in lines if line.startswith(" " * deepest) and "NoneType" not in line]
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", "; ".join(reasons))
        return f"{plain_name(option.name)} is {option.value}: {text}{did_you_mean(str(option.value), TRAINER_CLASSES)}"
    return ""
