"""All that the book is made of, in one file, for a page to link to by `{download}`.

So a reader gets notebooks, package and tests from the site itself, wherever it is published. pip
installs the package from the same file.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

FILE = Path("_build", "source", "bn_tutorial.zip")
TOP = "bn_tutorial-book"

MADE = {"_build", "__pycache__"}  # by programs
HIDDEN = {".ci", ".gitattributes", ".github", ".gitignore"}  # and yet of the project


def sources(folder: Path) -> Iterator[Path]:
    """Yield the files of the project, folder by folder: what was not made, nor hidden by a tool."""
    for path in sorted(folder.iterdir()):
        if path.name in MADE or (path.name.startswith(".") and path.name not in HIDDEN):
            continue
        if path.is_dir():
            yield from sources(path)
        else:
            yield path


def pack(root: Path) -> bytes:
    """Return the files in an archive: the same bytes as long as they are the same."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sources(root):
            entry = zipfile.ZipInfo(f"{TOP}/{path.relative_to(root).as_posix()}")
            entry.external_attr = path.stat().st_mode << 16  # which files are programs
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def write(app: Sphinx) -> None:
    """Write the archive where there is none or another: a page that links to it depends on it."""
    root = Path(app.srcdir)
    path, content = root / FILE, pack(root)
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # another build may read the file meanwhile
        part.write_bytes(content)
        part.replace(path)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("builder-inited", write, priority=400)  # before another build starts beside this
    return {"parallel_read_safe": True, "parallel_write_safe": True}
