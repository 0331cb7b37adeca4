"""Cut the Chinese font down to what the book prints: `python publish/print/fonts/subset.py`
where Noto's fonts are installed (on Debian: apt install fonts-noto-cjk).
"""

import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection

HERE = Path(__file__).parent
NOTO = Path("/usr/share/fonts/opentype/noto")
CHINESE = re.compile("[\u3000-\u9fff\uff00-\uffef]")  # with its punctuation


def characters() -> set[str]:
    """The Chinese characters in the sources of the book."""
    book = HERE.parents[2] / "book"
    sources = [path for path in book.iterdir() if path.suffix in {".ipynb", ".md", ".bib"}]
    return {
        character
        for path in sources
        for character in CHINESE.findall(path.read_text(encoding="utf-8"))
    }


def cut(weight: str) -> None:
    """Write the font's simplified Chinese of this ``weight`` beside this file."""
    name = f"NotoSerifCJKsc-{weight}"
    (font,) = [
        font
        for font in TTCollection(NOTO / f"NotoSerifCJK-{weight}.ttc")
        if font["name"].getDebugName(6) == name
    ]
    font.recalcTimestamp = False  # the same characters give the same file
    # All names are kept, the copyright and the licence among them.
    options = Options(layout_features=[], hinting=False, name_IDs=["*"])
    subsetter = Subsetter(options)
    subsetter.populate(text="".join(characters()))
    subsetter.subset(font)
    font.save(HERE / f"{name}.otf")


if __name__ == "__main__":
    cut("Regular")
    cut("Bold")
