"How Sphinx makes the site; tools/docs.py prepares the pages and calls it."
from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "hrm_nb"
copyright = "2026 onwards, The hrm_nb authors"
extensions = ["myst_nb"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"   # the notebooks are committed with their outputs; the tests execute them
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_title = "hrm_nb"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "native"


def inline_math(self, node):
    "Formulas as MathML, which browsers draw without a script."
    self.body.append(convert(node.astext()))
    raise SkipNode


def block_math(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
