"""Gradio page of the review application: tabs whose content ``app/static`` draws from the HTTP routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

TITLE = "LLaVA-Rad review"
STYLES = ("shell.css", "report.css", "viewer.css", "worklist.css")
"""Style sheets of ``app/static``."""


def build() -> gr.Blocks:
    """Build the page, without data."""
    import gradio as gr

    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        _part("top")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Review", elem_id="tab-review"), gr.Row(elem_id="reading"):
                with gr.Column(scale=3, min_width=420):
                    _part("viewing")
                with gr.Column(scale=2, min_width=380):
                    _part("report")
            with gr.Tab("Worklist", elem_id="tab-worklist"):
                _part("worklist")
            with gr.Tab("Statistics", elem_id="tab-statistics"):
                _part("statistics")
    return page


def theme() -> gr.Theme:
    """Return Gradio's base theme with system fonts, so that no font is downloaded."""
    import gradio as gr

    plain: gr.Theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return plain


def _part(name: str) -> None:
    """Add an element that the JavaScript module of that name fills."""
    import gradio as gr

    gr.HTML(
        value="", html_template=f'<div id="{name}" class="lr"></div>', apply_default_css=False, padding=False,
        js_on_load=f"import('/ui/{name}.js').then((part) => part.mount(element.querySelector('#{name}')));",
    )  # fmt: skip
