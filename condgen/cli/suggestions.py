"""What is said of a wrong command line: the setting, its value, and what would be right.

Names are looked at before anything is parsed, as written on the command line and in config files; values are looked at
by jsonargparse, whose answer is put into the same words.
"""

from __future__ import annotations

import inspect
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from lightning.pytorch import callbacks, loggers, profilers

from condgen.checkpoints.classes import short_name
from condgen.cli.options import Option
from condgen.errors import UsageError
from condgen.generators.base import FROM_DATA


class Names:
    """The names that a verb's settings have.

    Args:
        verb: the verb that was given.
        known: the options of every verb, in the order of its help.
        families: of the settings whose value is a class, ``model`` and ``data``, the classes that can be given.
        chosen: of the same, the class that is.
    """

    def __init__(
        self,
        verb: str,
        known: Mapping[str, Collection[str]],
        families: Mapping[str, Mapping[str, type]],
        chosen: Mapping[str, str],
    ) -> None:
        self.verb, self.known, self.families, self.chosen = verb, known, families, chosen

    def check_options(self, options: Iterable[Option]) -> None:
        """Raises UsageError for an option that there is not."""
        for option in options:
            if option.name in self.families:
                self._check_class(option.name, option.value)
            self._check(option.name.rstrip("+"), option.value, "--", self.chosen)

    def check_config(self, path: str, settings: Mapping[str, Any]) -> None:
        """Raises UsageError for a setting in a config file that there is not."""
        own = dict(self.chosen)
        for group in self.families:
            if isinstance(settings.get(group), dict) and isinstance(settings[group].get("class_path"), str):
                own[group] = short_name(settings[group]["class_path"])
        try:
            for name, value in _dotted(settings):
                if name.removesuffix(".class_path") in self.families:
                    self._check_class(name.removesuffix(".class_path"), value)
                self._check(name, value, "", own)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None

    def _check_class(self, name: str, value: Any) -> None:
        families = self.families[name]
        if re.fullmatch(r"[\w-]+", str(value)) and value not in families:
            raise UsageError(
                f"{name} is {value}: give one of {', '.join(families)}{did_you_mean(str(value), families) or '.'}"
            )

    def _check(self, name: str, value: Any, dashes: str, chosen: Mapping[str, str]) -> None:
        known = self.known[self.verb]
        group, _, setting = name.partition(".")
        groups = {option.partition(".")[0] for option in known if "." in option}
        if name in groups and not isinstance(value, str | dict | None):
            raise UsageError(f"{name} is {reprlib.repr(value)}: give its settings one by one, as in configs/base.yaml.")
        if name in known:
            return
        if any(name.startswith(f"{option}.") for option in known if "." in option):
            return  # a setting of a class in the Trainer, as trainer.callbacks.patience
        named = f"{dashes}{name}"
        if group in self.families:
            self._check_setting(group, chosen[group], setting, value, dashes)
            return
        other = next((verb for verb in self.known if name in self.known[verb]), None)
        if other is not None:
            raise UsageError(f"{named} is a setting of condgen {other}, not of condgen {self.verb}.")
        possible = [option for option in known if option not in groups]
        if setting and group in groups:
            possible = [option for option in possible if option.startswith(f"{group}.")]
        else:
            possible += [f"{g}.{s}" for g in self.families for f in self.families[g].values() for s in settings_of(f)]
        meant = did_you_mean(name, possible, dashes) or did_you_mean(group, [*groups, *self.families], dashes)
        meant = meant or f": condgen {self.verb} --help lists what there is."
        raise UsageError(f"There is no {named}{meant}")

    def _check_setting(self, group: str, chosen: str, setting: str, value: Any, dashes: str) -> None:
        """Refuses a setting that the chosen class of ``group`` has not."""
        if (
            chosen not in self.families[group]
            or setting == "init_args"
            or setting.startswith(("class_", "dict_kwargs"))
        ):
            return  # a class from elsewhere, which jsonargparse imports, or no setting of a class
        settings, name = settings_of(self.families[group][chosen]), setting.removeprefix("init_args.")
        if name not in settings:
            meant = did_you_mean(name, settings, f"{dashes}{group}.") or f": it has {', '.join(settings)}."
            raise UsageError(f"There is no {dashes}{group}.{setting} for {chosen}{meant}")
        if group == "model" and name in FROM_DATA:
            raise UsageError(f"{dashes}{group}.{setting} follows the data set: leave it out.")
        if value in (None, "null") and settings[name] is not None:
            raise UsageError(f"{dashes}{group}.{setting} is null: give a value, or leave it out.")


def _dotted(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The names and values of a config's settings, with those of its groups as ``trainer.max_epochs``."""
    for group, value in settings.items():
        if not isinstance(value, dict):
            yield str(group), value
            continue
        for name, setting in value.items():
            yield f"{group}.{name}", setting
            if name == "init_args" and isinstance(setting, dict):
                yield from ((f"{group}.{name}.{argument}", given) for argument, given in setting.items())


def settings_of(family: type) -> dict[str, Any]:
    """The names and defaults of a class's arguments, also of those that it passes on to its bases."""
    found: dict[str, Any] = {}
    for base in reversed(family.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name: p.default for p in parameters if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD}
    return found


def did_you_mean(name: str, names: Iterable[str], before: str = "") -> str:
    """``: did you mean …?`` with the nearest names, or nothing where none is near."""
    last = name.rpartition(".")[2].lower()

    def likeness(candidate: str) -> float:
        tail = candidate.rpartition(".")[2].lower()
        if tail == last:
            return 1.0
        if tail.startswith(f"{last}_") or tail.endswith(f"_{last}"):
            return (0.95 if tail.startswith(last) else 0.9) - 0.01 * (len(tail) - len(last))
        likenesses = [SequenceMatcher(None, last, tail).ratio()]
        if name.partition(".")[0] != candidate.partition(".")[0]:
            likenesses.append(SequenceMatcher(None, name.lower(), candidate.lower()).ratio())
        return max(likenesses)

    likely = sorted(dict.fromkeys(names), key=lambda candidate: -likeness(candidate))
    near = [c for c in likely[:3] if likeness(c) >= max(0.65, likeness(likely[0]) - 0.02)]
    return f": did you mean {' or '.join(before + c for c in near)}?" if near else ""


def explain(error: Exception) -> str:
    """jsonargparse's answer to a value of a wrong type, as ``model.latent_dim is many: give int.``"""
    text = " ".join(str(error).split())
    key = ".".join(re.findall(r'Parser key "([^"]+)":', text))
    if other := re.search(r"class_path '([^']+)': Option '([^']+)' is not accepted", text):
        return f"There is no {key}.{other[2]} for {other[1]}: condgen fit --{key}.help {other[1]} lists what there is."
    if missing := re.search(r"class_path '([^']+)': the following arguments are required: (\w+)", text):
        return f"{key} is {missing[1]}, which needs {missing[2]}: give --{key}.{missing[2]}."
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [*callbacks.__all__, *loggers.__all__, *profilers.__all__]
        return f"{key} is {name[1]}, which is no class{did_you_mean(name[1], known) or ': give its full name.'}"
    value = re.search(r"(?:Got value|Given value): (?!NestedArg)(.+?)(?= - | Given value|$)", text)
    problem = re.search(
        r"(Import path does not .+?|module '\S+' has no attribute '\w+'|No module named .+?|Unable to .+?)(?= - |$)",
        text,
    )
    kinds = list(dict.fromkeys(re.findall(r"Expected an? (?!path)(.+?)(?=\. Got value: | Given value| - |$)", text)))
    if not key or not value:
        return text
    if problem:
        return f"{key} is {value[1]}: {problem[1]}."
    literals = [literal for kind in kinds if "Literal" in kind for literal in re.findall(r"'([^']+)'", kind)]
    wanted = " or ".join(_type_name(kind) for kind in kinds if "NoneType" not in kind)
    return f"{key} is {value[1]}: give {wanted}{did_you_mean(value[1], literals) or '.'}"


def _type_name(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    return re.sub(r"(?:typing\.)?Literal\[(.*)\]", lambda match: f"one of {match[1]}", kind).replace("'", "")
