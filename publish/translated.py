"""Build the pages of the Chinese edition: `python -m publish.translated SOURCE TARGET`.

`publish.ext.languages` does so beside each build of the English pages.
"""

import argparse
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from bn_tutorial.book.notebook import quiet_tensorflow
from publish.configuration import configuration, in_chinese


def build(source: Path, target: Path, *, strict: bool, fresh: bool) -> int:
    """Build the pages into ``target``/html, all of them if ``fresh``; return the exit status."""
    config = in_chinese(configuration(source), source, target)
    quiet_tensorflow()  # the reference imports it
    with docutils_namespace(), patch_docutils():
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=target / "html",
            doctreedir=target / ".doctrees",
            buildername="html",
            confoverrides=config | {"nitpicky": strict},
            status=None,
            warningiserror=strict,
            keep_going=True,
            freshenv=fresh,
        )
        app.build(force_all=fresh)
    return app.statuscode


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail if there are warnings")
    parser.add_argument("--fresh", action="store_true", help="build all pages, changed or not")
    arguments = parser.parse_args()
    sys.exit(build(**vars(arguments)))


if __name__ == "__main__":
    main()
