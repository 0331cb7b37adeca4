"""Build the pages of the Chinese edition: `python -m publish.translated SOURCE TARGET`.

`publish.ext.languages` does so beside each build of the English pages.
"""

import argparse
import sys
from pathlib import Path

from publish.building import build_with
from publish.configuration import configuration


def build(source: Path, target: Path, *, strict: bool, fresh: bool) -> int:
    """Build the pages into ``target``/html, all of them if ``fresh``; return the exit status."""
    config = configuration(source, target, chinese=True) | {"nitpicky": strict}
    folders = target / "html", target / ".doctrees"
    return build_with("html", config, source, *folders, strict=strict, fresh=fresh)


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
