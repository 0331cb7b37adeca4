"""Cut the Chinese font down to common characters and what the book prints besides:
`python publish/print/fonts/subset.py` where Noto's fonts are installed (on Debian: apt install
fonts-noto-cjk).
"""

import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection

HERE = Path(__file__).parent
NOTO = Path("/usr/share/fonts/opentype/noto")
CHINESE = re.compile("[\u3000-\u9fff\uff00-\uffef]")
# Marks, some of which Latin fonts have as well, but narrower.
MARKS = "，。：；？！、（）“”‘’《》—…"
# The first level of GB 2312 has the 3755 most common ones: few words need any other.
COMMON = bytes(
    byte for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) for byte in (row, cell)
).decode("gb2312", errors="ignore")


def characters() -> set[str]:
    """The common Chinese characters, and those in the sources of the book."""
    root = HERE.parents[2]
    sources = [*(root / "book").iterdir(), *(root / "locale").rglob("*.po")]
    return set(COMMON + MARKS).union(
        *(
            CHINESE.findall(path.read_text(encoding="utf-8"))
            for path in sources
            if path.suffix in {".ipynb", ".md", ".bib", ".po"}
        )
    )


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
