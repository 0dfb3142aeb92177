"""Gradio page of the review application: one element, which ``app/static/shell.js`` fills from the HTTP routes."""

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
        gr.HTML(
            value="", html_template='<div id="app" class="lr"></div>', apply_default_css=False, padding=False,
            js_on_load="import('/ui/shell.js').then((shell) => shell.mount(element.querySelector('#app')));",
        )  # fmt: skip
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
