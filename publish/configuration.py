"""The configuration of the book as Jupyter Book reads it, and as the Chinese edition changes it."""

from pathlib import Path
from typing import Any

from jupyter_book.config import get_final_config

from publish.catalogs import CHINESE, FRAME, LOCALE, translations

# The folder of the Chinese pages, inside that of the English ones.
FOLDER = "zh"


def configuration(source: Path, build: Path, *, chinese: bool) -> dict[str, Any]:
    """The configuration of an edition, with Jupyter Book's own defaults.

    That of the Chinese one keeps what Sphinx compiles in the folder ``build``.
    """
    config, _ = get_final_config(
        user_yaml=source / "_config.yml",
        sourcedir=source,
        cli_config={"latex_individualpages": False},
    )
    settings: dict[str, Any] = in_chinese(config, source, build) if chinese else config
    return settings


def mirror(source: Path, target: Path) -> None:
    """Make ``target`` hold the catalogues of ``source``, and write those alone that differ."""
    wanted = {path.relative_to(source): path.read_bytes() for path in source.rglob("*.po")}
    for copy in [*target.rglob("*.po"), *target.rglob("*.mo")]:
        if copy.relative_to(target).with_suffix(".po") not in wanted:
            copy.unlink()
    for name, content in wanted.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)


def in_chinese(config: dict[str, Any], source: Path, build: Path) -> dict[str, Any]:
    """A configuration turned into that of the Chinese edition.

    Sphinx compiles the catalogues where they lie: in a copy, in the folder ``build``.
    """
    catalogs = build / LOCALE
    mirror(source / LOCALE, catalogs)
    chinese = translations(FRAME, source)
    title, author = (chinese.get(config[key], config[key]) for key in ("html_title", "author"))
    config = config | {
        "language": CHINESE,
        "locale_dirs": [str(catalogs)],
        "gettext_additional_targets": ["index"],
        "gettext_compact": False,
        "translated_frame": chinese,
        "html_title": title,
        "project": title,
        "author": author,
    }
    options = config["html_theme_options"]
    config["html_theme_options"] = options | {
        "logo": options["logo"] | {"text": title},
        "search_bar_text": "在本书中搜索",
    }
    if config["html_baseurl"]:
        config["html_baseurl"] = config["html_baseurl"].rstrip("/") + f"/{FOLDER}/"
    return config
