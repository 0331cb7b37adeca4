"""What depends on where the book is: `html.baseurl` and `repository.url` of _config.yml.

While `html.baseurl` is empty, no page names a site: there is no sitemap, no canonical link
and no preview picture. While `repository.url` is empty, there are no launch buttons.
"""

from urllib.parse import urlsplit


def place(app, config):
    """Tell the theme and the extensions where the book is."""
    if not config.html_theme_options["repository_url"]:
        config.html_theme_options["launch_buttons"] = {}
    if config.html_baseurl:
        config.html_baseurl = config.html_baseurl.rstrip("/") + "/"
        config.html_context["base_path"] = urlsplit(config.html_baseurl).path
        config.ogp_site_url = config.html_baseurl
        config.ogp_image = "_static/card.png"
        config.ogp_image_alt = "The title of the book, and a bell curve between two arrows inwards"
        config.sitemap_url_scheme = "{link}"
        config.sitemap_excludes = ["404.html", "search.html"]


def describe(app, page, template, context, doctree):
    """Leave out the preview tag that needs a site."""
    if not app.config.html_baseurl and "metatags" in context:
        lines = context["metatags"].splitlines(keepends=True)
        context["metatags"] = "".join(line for line in lines if 'property="og:url"' not in line)


def name_part(app, page, template, context, doctree):
    """Give the breadcrumbs the part of the book that a page belongs to."""
    for part in app.env.external_site_map.root.subtrees:
        if page in part.files():
            context["parents"] = [{"title": part.caption}]


def setup(app):
    if app.config.html_baseurl:
        app.setup_extension("sphinx_sitemap")
    app.connect("config-inited", place)
    app.connect("html-page-context", describe, priority=900)
    app.connect("html-page-context", name_part)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
