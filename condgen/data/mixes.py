"""Mixes of labels in ``data.labels``, such as ``4+9``, ``4:0.3,9:0.7``, ``7-1`` and ``none``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condgen.errors import UsageError

NO_LABEL = "none"
NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


@dataclass(frozen=True)
class Mix:
    """Several labels with a weight each.

    Args:
        weights: The weight of every class, see :meth:`condgen.generators.ConditionalGenerator.generate`.
        name: The labels with their weights, e.g. ``4+9`` or ``4:0.3+9:0.7``.
    """

    weights: tuple[float, ...]
    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def file_name(self) -> str:
        """The name without the colons, which Windows doesn't allow in file names, or ``mix`` if it is very long."""
        return self.name.replace(":", "_") if len(self.name) <= 100 else "mix"


def label_tensor(labels: Sequence[int | Mix]) -> Tensor:
    """Returns the labels as int64 (N,), or as class weights (N, num_classes) if any of them is a mix."""
    mixes = [label for label in labels if isinstance(label, Mix)]
    if not mixes:
        return torch.tensor(labels)
    classes = torch.eye(len(mixes[0].weights))
    return torch.stack([torch.tensor(label.weights) if isinstance(label, Mix) else classes[label] for label in labels])


def is_mixed(text: str) -> bool:
    """Checks whether the text uses the syntax for mixes. Class names may contain the same characters."""
    return re.search(rf"[+:-]|\b{NO_LABEL}\b", text, flags=re.IGNORECASE) is not None


def unknown_label(name: str, names: Sequence[str], text: str, dataset: str) -> UsageError:
    """Returns the error for a part of ``data.labels`` that is not one of ``names``."""
    if not name:
        return UsageError(f"data.labels is {text!r:.60}: a label is missing before or after a comma, + or -.")
    return UsageError(f"data.labels is {text!r:.60}: {dataset} has no {name!r:.20}, but {', '.join(names)}.")


def parse_mixes(text: str, classes: Sequence[str], dataset: str) -> list[int | Mix]:
    """Converts mixes of class names to labels and class weights.

    Commas separate the mixes. The exception are consecutive parts like ``4:0.3,9:0.7`` that consist of a single class
    and its weight. They are one mix. The weights are normalized to a sum of 1, separately for positive and negative
    labels, so a label can't have a weight if it is the only one with its sign.

    Args:
        text: The mixes, e.g. ``4:0.3+9:0.7, 3+8``.
        classes: The class names.
        dataset: The name of the dataset, for error messages.

    Raises:
        UsageError: If the text is not a list of mixes.
    """
    mixes: list[list[tuple[int, float]]] = []
    joins = False
    for part in text.split(","):
        terms = _parse_terms(part.strip(), [*classes, NO_LABEL], text, dataset)
        is_single = len(terms) == 1 and ":" in part
        if joins and is_single:
            mixes[-1] += terms
        else:
            mixes.append(terms)
        joins = is_single
    return [_mix(terms, len(classes), text) for terms in mixes]


def _parse_terms(part: str, names: list[str], text: str, dataset: str) -> list[tuple[int, float]]:
    """Parses a part between two commas. Returns the labels with their weights. ``none`` is label ``num_classes``."""
    longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    term = re.compile(rf"\s*([+-]?)\s*({longest_first})\s*(?::\s*([+-]?[^+-]*))?(?=[+-]|$)")
    terms, position = list[tuple[int, float]](), 0
    while position < len(part) or not terms:
        found = term.match(part, position)
        if not found:
            unknown = re.split(r"[+:-]", part[position:].strip().removeprefix("+").removeprefix("-"))[0].strip()
            raise unknown_label(unknown, names, text, dataset)
        sign, name, number = found.groups()
        if not terms and sign:
            raise UsageError(f"data.labels is {text!r:.60}. Begin a mix with a positive label or {NO_LABEL}.")
        if number is not None and not NUMBER.fullmatch(number.strip()):
            raise UsageError(
                f"data.labels is {text!r:.60}: {f'{name}:{number.strip()}'!r:.30} has no valid weight. Use a positive "
                f"number, such as {name}:0.5."
            )
        weight = float(number) if number is not None else 1.0
        terms.append((names.index(name), -weight if sign == "-" else weight))
        position = found.end()
    return terms


def _mix(terms: list[tuple[int, float]], num_classes: int, text: str) -> int | Mix:
    """Normalizes the weights. Returns a plain label if it is the only one."""
    sides = []
    for sign in (1, -1):
        side: dict[int, float] = {}
        same_sign = [(label, sign * weight) for label, weight in terms if sign * weight > 0]
        for label, weight in same_sign:
            side[label] = side.get(label, 0.0) + weight
        total = sum(side.values())
        if total == float("inf") or (sign == 1 and not total):
            raise UsageError(f"data.labels is {text!r:.60}. Use weights with a positive, finite sum.")
        if len(same_sign) == 1 and total != 1:
            raise UsageError(
                f"data.labels is {text!r:.60}: the weight {total:g} has no effect, since weights only compare the "
                f"positive labels of a mix, or the negative ones. Leave it out, or give the rest to {NO_LABEL}."
            )
        sides.append({label: side[label] / total for label in sorted(side)})
    positive, negative = sides
    if list(negative) == [num_classes]:
        raise UsageError(
            f"data.labels is {text!r:.60}: leave out -{NO_LABEL}, because guidance moves away from no label anyway."
        )
    negative.pop(num_classes, None)
    if shared := set(positive) & set(negative):
        raise UsageError(f"data.labels is {text!r:.60}: label {min(shared)} is both positive and negative. Use one.")
    if list(positive) in [[label] for label in range(num_classes)] and not negative:
        return next(iter(positive))
    weights = tuple(positive.get(label, 0.0) - negative.get(label, 0.0) for label in range(num_classes))
    return Mix(weights, _name(positive, "+", num_classes).removeprefix("+") + _name(negative, "-", num_classes))


def _name(weights: dict[int, float], sign: str, num_classes: int) -> str:
    """Returns the name of normalized weights. Equal weights are left out if they add up to 1."""
    is_equal = len(set(weights.values())) <= 1 and abs(sum(weights.values()) - 1) < 1e-6
    names = {label: NO_LABEL if label == num_classes else str(label) for label in weights}
    return "".join(f"{sign}{names[label]}" + ("" if is_equal else f":{weights[label]:.4g}") for label in weights)
