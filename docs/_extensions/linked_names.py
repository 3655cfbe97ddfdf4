"""Links every public name in the text, such as ``fnn.dense``, to its description in the reference.

In the tables of the reference, names are written without ``fnn.`` in front.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

NAME = re.compile(r"(?P<package>fnn\.|functional_nn\.)?(?P<name>[A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)
WITHOUT_PACKAGE = ("reference/index", "reference/models")
"""Pages whose names are public names of the package even without ``fnn.`` in front."""


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    if page.startswith("reference/api/"):
        return
    for literal in list(doctree.findall(nodes.literal)):
        match = NAME.fullmatch(literal.astext())
        if match is None or is_in_link(literal):
            continue
        if match["package"] or page in WITHOUT_PACKAGE:
            target = f"functional_nn.{match['name']}"
            link = pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=False, refdoc=page
            )
            literal.replace_self(link)
            link += literal


def is_in_link(node: nodes.Node) -> bool:
    """Whether a node is a part of the text of a link, at any depth."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | pending_xref):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
