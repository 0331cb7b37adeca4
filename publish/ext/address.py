"""What depends on where the book is: `html.baseurl` and `repository.url` of _config.yml.

While `html.baseurl` is empty, no page names a site: there is no sitemap, no canonical link and no
preview picture. While `repository.url` is empty, there are no launch buttons.
"""

from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.locale import _
from sphinx.util.typing import ExtensionMetadata
from sphinx_external_toc.api import SiteMap


def set_address(app: Sphinx, config: Config) -> None:
    """Tell the theme and the extensions where the book is."""
    if not config.html_theme_options["repository_url"]:
        config.html_theme_options["launch_buttons"] = {}
    if config.html_baseurl:
        site: str = config.html_baseurl.rstrip("/") + "/"
        config.html_baseurl = config.ogp_site_url = site
        config.html_context["base_path"] = urlsplit(site).path
        config.ogp_image = "_static/card.png"
        config.ogp_image_alt = str(
            _("The title of the book, and a bell curve between two arrows inwards")
        )
        config.sitemap_url_scheme = "{link}"
        config.sitemap_excludes = ["404.html", "search.html"]


def drop_site_address_tag(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Leave out the preview tag with the address of a page, where the book has no site."""
    if not app.config.html_baseurl and "metatags" in context:
        lines = context["metatags"].splitlines(keepends=True)
        context["metatags"] = "".join(line for line in lines if 'property="og:url"' not in line)


def name_the_part(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give the breadcrumbs the part of the book that a page belongs to."""
    site_map: SiteMap = app.env.external_site_map  # type: ignore[attr-defined]
    for part in site_map.root.subtrees:
        if page in part.files():
            context["parents"] = [{"title": part.caption}]


def setup(app: Sphinx) -> ExtensionMetadata:
    if app.config.html_baseurl:
        app.setup_extension("sphinx_sitemap")
    app.connect("config-inited", set_address)
    app.connect("html-page-context", drop_site_address_tag, priority=900)
    app.connect("html-page-context", name_the_part)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
