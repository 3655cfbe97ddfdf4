"""Pages in other languages: their ``lang``, links to the English version, and the words around the text.

Such words are "On this page", and the introduction of a figure.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable
from functools import cache
from html import escape
from pathlib import Path

import pydata_sphinx_theme
import sphinx.locale
from sphinx.application import Sphinx

LANGUAGES = {"zh": "zh-CN"}
"""The folders of docs/ that are translations, with the language of each."""
ORIGINALS = {"zh": "tutorial"}
"""The English folder of each translation. Both versions of a page have the same name."""
VERSIONS = {None: "English version of this chapter", "zh-CN": "本章中文版"}
"""The words of a link to the version of a chapter in this language."""
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
        "This notebook needs functional_nn. In the folder of its repository: `pip install '.[plots]' jupyterlab`.": (
            "本笔记本需要 functional_nn。请在它的代码仓库目录中运行：`pip install '.[plots]' jupyterlab`。"
        ),
    }
}
"""The words of our own templates and notebooks, and words that the catalogs lack."""
FIGURE_TEXTS = {
    "zh-CN": {
        "neuron": (
            "一个神经元",
            "神经元把每个输入乘以权重，加上偏置，再把总和代入激活函数。请拖动滑块，或者拖动平面上的点。",
        ),
        "backpropagation": (
            "反向传播：逐个数地计算",
            "这个网络有两个输入、两个隐藏单元和一个输出。输入框里的数都可以改变。"
            "点一下任何一个值，就会显示代入数字后的公式。前向传播的值是蓝色的，反向传播的梯度是紫色的。",
        ),
        "learning": (
            "一个网络在网页里学习",
            "它学习哪些点是蓝色的圆，哪些点是橙色的方块。每一步都是对全部 64 个点做一步梯度下降。"
            "点后面的颜色是网络的答案。每个权重下面是它的梯度：点一下就会显示公式。",
        ),
        "optimizers": (
            "优化器赛跑",
            "五种优化器从同一点出发，沿着梯度 g 的反方向往低处走，学习率都相同。"
            "请选择一个曲面，移动起点，看看谁能到达，谁来回摆动，谁被困住。",
        ),
    }
}
"""The title and the introduction of the figures to touch, by the name of the figure."""
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


def other_version(name: str) -> str | None:
    """The page that has the same content in another language, if it exists."""
    folder, _, page = name.partition("/")
    if folder in ORIGINALS:
        return f"{ORIGINALS[folder]}/{page}"
    return next((f"{translation}/{page}" for translation, original in ORIGINALS.items() if original == folder), None)


def link_versions(app: Sphinx, name: str, context: dict) -> None:
    """Links a page to its other version: in its head for search engines, and for readers under the title of a chapter.

    The beginning of the tutorial has such a link in its text.
    """
    other = other_version(name)
    if other not in app.env.found_docs:
        return
    language, address = language_of(other), escape(context["pathto"](other))
    code = language or "en"
    context["metatags"] += f'\n<link rel="alternate" hreflang="{code}" href="{address}">'
    if not name.endswith("/index"):
        link = f'<a href="{address}" hreflang="{code}">{VERSIONS[language]}</a>'
        below_title = f'</h1>\n<p class="other-version" lang="{code}">{link}</p>'
        context["body"] = context["body"].replace("</h1>", below_title, 1)


def stay_in_language(app: Sphinx, name: str, context: dict) -> None:
    """Removes "previous" and "next" where they lead to a page in another language."""
    _, previous, following = app.builder.relations.get(name, (None, None, None))
    for direction, page in (("prev", previous), ("next", following)):
        if page is not None and language_of(page) != language_of(name):
            context[direction] = None


def set_language(app: Sphinx, name: str, template: str, context: dict, doctree: object) -> None:
    link_versions(app, name, context)
    stay_in_language(app, name, context)
    language = language_of(name)
    if language is not None:
        context["language"] = language
        context["_"] = context["gettext"] = translator(language)
        context["body"] = FORMULA.sub(r'<span lang="en">\g<0></span>', context.get("body", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", set_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
