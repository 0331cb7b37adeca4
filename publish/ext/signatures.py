"""Signatures in the reference: what a class takes, and one parameter a line where there are many.

Sphinx shows of a class of Keras's the ``*args, **kwargs`` of a `__new__`, and of a default that a
dataclass makes that there is one, ``<factory>``. And where it decides what is long, it counts the
modules before the names of types, which are not shown.
"""

import dataclasses
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import ExtensionMetadata

LONGEST = 68  # characters that fit on a line beside the table of contents


def named(function: Any) -> list[inspect.Parameter]:
    """The parameters of a method, less ``self`` and what takes any others."""
    _, *parameters = inspect.signature(function).parameters.values()
    return [it for it in parameters if it.kind is not inspect.Parameter.VAR_KEYWORD]


def arguments_of(
    app: Sphinx,
    kind: str,
    name: str,
    thing: Any,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, None] | None:
    """The signature of a class: the arguments of every layer too, and what a default is."""
    import keras  # takes seconds, which a book without a reference need not wait for

    if kind != "class" or signature is None:
        return None
    if issubclass(thing, keras.layers.Layer):
        parameters = named(thing.__init__) + named(keras.layers.Layer.__init__)
        return stringify_signature(inspect.Signature(parameters)), None
    for field in dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ():
        if field.default_factory is not dataclasses.MISSING:
            signature = signature.replace("<factory>", repr(field.default_factory()), 1)
    return signature, None


def break_long_ones(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give each parameter of a long signature a line, and all those of a short one the same."""
    for signature in doctree.findall(addnodes.desc_signature):
        for parameters in signature.findall(addnodes.desc_parameterlist):
            parameters["multi_line_parameter_list"] = len(signature.astext()) > LONGEST


def begin_parameters(translator: Any, node: addnodes.desc_parameterlist) -> None:
    """Begin the parameters, and note where."""
    translator.parameters_from = len(translator.body)
    type(translator).visit_desc_parameterlist(translator, node)


def end_parameters(translator: Any, node: addnodes.desc_parameterlist) -> None:
    """End the parameters. Sphinx's list of them lacks terms, and is no HTML: make it spans."""
    type(translator).depart_desc_parameterlist(translator, node)
    written = "".join(translator.body[translator.parameters_from :])
    written = re.sub("</d[ld]>", "</span>", written.replace("<dd>", '<span class="sig-line">'))
    translator.body[translator.parameters_from :] = [written.replace("<dl>", "<span>")]


def setup(app: Sphinx) -> ExtensionMetadata:
    writers = (begin_parameters, end_parameters)
    app.add_node(addnodes.desc_parameterlist, override=True, html=writers)
    app.connect("autodoc-process-signature", arguments_of)
    app.connect("doctree-resolved", break_long_ones)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
