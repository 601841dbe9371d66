"""An extension of Griffe, which reads docstrings for mkdocstrings: turns reStructuredText markup into Markdown.

A role such as ``:func:`slerp``` and an arXiv number become links.
Griffe knows a section with doctests only as ``Examples:``.
"""

import contextlib
import re
from typing import Any

from griffe import Extension, NameResolutionError, Object

ROLE = re.compile(r":(?:attr|class|func|meth|mod):`~?([\w.]+)`")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
EXAMPLE = re.compile(r"^( *)Example:$", flags=re.M)


class Markdown(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: reference(role[1], obj), obj.docstring.value)
            text = ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", text)


def reference(name: str, obj: Object) -> str:
    """A name as code, with a link if the site documents it."""
    target = name
    if not name.startswith("condgen."):
        with contextlib.suppress(NameResolutionError):
            target = obj.resolve(name)
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
