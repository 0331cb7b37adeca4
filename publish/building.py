"""Build an edition of the book with Sphinx, in this process."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from bn_tutorial.book.notebook import quiet_tensorflow


def build_with(
    builder: str,
    config: dict[str, Any],
    source: Path,
    target: Path,
    doctrees: Path,
    *,
    strict: bool = True,
    fresh: bool = False,
) -> int:
    """Build into ``target``, everything if ``fresh``; return the exit status.

    If ``strict``, that is not 0 where there were warnings.
    """
    quiet_tensorflow()  # the reference imports it
    with docutils_namespace(), patch_docutils():
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=target,
            doctreedir=doctrees,
            buildername=builder,
            confoverrides=config,
            status=None,
            warningiserror=strict,
            keep_going=True,
            freshenv=fresh,
        )
        app.build(force_all=fresh)
    return app.statuscode
