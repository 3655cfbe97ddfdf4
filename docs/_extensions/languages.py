"""Pages in other languages: the ``lang`` of the page, and the words around its text, such as "On this page"."""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pydata_sphinx_theme
import sphinx.locale
from sphinx.application import Sphinx

LANGUAGES = {"zh": "zh-CN"}
"""The folders of docs/ that are translations, with the language of each."""
CATALOGS = {
    "zh-CN": (("zh_CN", Path(sphinx.locale.__file__).parent), ("zh", Path(pydata_sphinx_theme.__path__[0], "locale")))
}
"""Where Sphinx and the theme keep their own words in this language."""
WORDS = {
    "zh-CN": {
        "Download this chapter as a notebook": "下载本章的 Jupyter 笔记本",
        "Skip to main content": "跳到正文",
        "Breadcrumb": "当前位置",
        "Home": "首页",
        "Color mode": "配色",
        "Light": "浅色",
        "Dark": "深色",
        "System Settings": "跟随系统",
        "Site navigation": "网站导航",
        "Section Navigation": "章节导航",
        "Collapse Sidebar": "收起侧栏",
        "Expand Sidebar": "展开侧栏",
        "On this page": "本页目录",
        "The interactive figure of this section is only on the site.": "本节的交互图只在网站上。",
    }
}
"""The words of our own templates and notebooks, and words that the catalogs lack."""
FORMULA = re.compile(r"<math .*?</math>", re.DOTALL)
"""A formula. Chromium takes its digits from a Chinese font, unlike its letters, if it stands in Chinese text."""


@cache
def translator(language: str) -> Callable[[str], str]:
    """Returns the function that translates the words of the templates."""
    words = gettext.NullTranslations()
    for name, folder in reversed(CATALOGS[language]):
        catalog = gettext.translation("sphinx", folder, [name])
        catalog.add_fallback(words)
        words = catalog

    def translate(text: str) -> str:
        return WORDS[language].get(text) or words.gettext(text)

    return translate


def language_of(name: str) -> str | None:
    """The language of a page; None for English."""
    return LANGUAGES.get(name.partition("/")[0])


def translated(text: str, language: str | None) -> str:
    return text if language is None else translator(language)(text)


def set_language(app: Sphinx, name: str, template: str, context: dict, doctree: object) -> None:
    language = language_of(name)
    if language is not None:
        context["language"] = language
        context["_"] = context["gettext"] = translator(language)
        context["body"] = FORMULA.sub(r'<span lang="en">\g<0></span>', context.get("body", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", set_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
