"""Error messages for invalid options, with suggestions for the correct name."""

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
    """Suggests up to three names that are similar to an unknown name.

    Args:
        name: The unknown name.
        names: All of the existing names.
        dashes: A prefix to add to each suggestion, e.g. ``--`` for options.

    Returns:
        ``: did you mean …?`` with the suggestions, or "" if there are none.
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
    """Converts an error from jsonargparse to a more helpful UsageError.

    Args:
        error: The original error.
        options: The given options, in the order they were parsed.
        parser: The parser that raised the error. Its defaults should contain the selected classes.
        bases: The base class for every setting that selects a class, e.g. ``model`` and ``data``.
        elsewhere: Groups of settings that belong to a different command, along with the name of that command.
        paths: Any arguments before the first option.
    """
    for option in options:  # check these first, since the other names depend on the class
        if (group := plain_name(option.name)) in bases and re.fullmatch(r"\w+", str(option.value)):
            families: dict[str, type] = imported_families(bases[group])
            if option.value not in families:
                meant = did_you_mean(str(option.value), families) or "."
                return UsageError(f"{option.source}{group} is {option.value}: use one of {', '.join(families)}{meant}")
    defaults = parser.get_defaults()
    known = {plain_name(name) for name, _ in defaults.items()}
    for option in sorted(options, key=lambda option: bool(option.source)):  # flags first, since parsing takes time
        name, dashes = plain_name(option.name), "" if option.source else "--"
        group = name.partition(".")[0]
        if any(name.startswith(f"{parent}.") for parent in known if parent not in bases):
            continue  # e.g. trainer.callbacks.patience is parsed together with its class
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
    """Returns the reason why a value is rejected, or "" if the parser accepts ``words``."""
    try:
        parser.parse_args(words)
    except ArgumentError as error:
        lines = str(error).splitlines()
        deepest = max(len(line) - len(line.lstrip()) for line in lines)
        reasons = [line.strip(" -") for line in lines if line.startswith(" " * deepest) and "NoneType" not in line]
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", "; ".join(reasons))
        return f"{plain_name(option.name)} is {option.value}: {text}{did_you_mean(str(option.value), TRAINER_CLASSES)}"
    return ""
