"""Browser: window, zoom and position of the viewer, against pydicom and values computed by hand."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.app.browser.viewer_page import SIDE, Images, Viewed, flat, gradient, linear, opened, point

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
MIDDLE = (SIDE / 2, SIDE / 2)


def test_greys_of_a_gradient_equal_values_computed_by_hand(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("gradient", gradient(), linear(32768, 32768)))
    greys = viewer.greys()
    assert (greys == greys[0]).all()
    # 16,384 is the window's foot, 49,152 its top; 24,576 a quarter up: 63.75; the middle: 127.5
    assert [int(greys[0, value // 128]) for value in (0, 16384, 24576, 32768, 49152, 65408)] == [
        0,
        0,
        64,
        128,
        255,
        255,
    ]


@pytest.mark.parametrize(("kind", "function"), [("linear", "LINEAR_EXACT"), ("sigmoid", "SIGMOID")])
def test_windows_follow_dicom(viewer: Viewed, images: Images, kind: str, function: str) -> None:
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_windowing

    header = Dataset()
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 21000, 17000, function
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 16, 0
    expected = apply_windowing(gradient()[0], header) * (255 / 65535)
    viewer.show(
        images.add(f"{kind} gradient", gradient(), {"label": "", "kind": kind, "center": 21000, "width": 17000})
    )
    assert np.abs(viewer.greys()[0] - expected).max() <= 0.51


def test_a_lookup_table_is_applied_and_moves_with_the_window(viewer: Viewed, images: Images) -> None:
    table = np.zeros(65536, np.uint8)
    table[20000:], table[40000:] = 90, 200
    curve = {
        "label": "curve",
        "kind": "table",
        "center": 32704,
        "width": 65408,
        "table": base64.b64encode(table.tobytes()).decode(),
    }
    viewer.show(images.add("curve", gradient(), curve))
    first = viewer.greys()[0]
    assert [int(first[value // 128]) for value in (0, 19968, 20096, 39936, 40064, 65408)] == [0, 0, 90, 90, 200, 200]
    viewer.drag(MIDDLE, (0, SIDE / 4))  # half the width up: what was at 20,000 is now at 52,704
    moved = viewer.greys()[0]
    assert [int(moved[value // 128]) for value in (40064, 52608, 52864, 65408)] == [0, 0, 90, 90]


def test_key_and_button_invert_every_grey(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("invert", gradient(), linear(30000, 40000)))
    first = viewer.greys()
    viewer.press("i")
    assert viewer.state()["inverted"] and (viewer.greys() == 255 - first).all()
    assert "inverted" in viewer.text("lr-hud")
    viewer.page.locator("#one").get_by_role("button", name="Invert").click()
    assert not viewer.state()["inverted"] and (viewer.greys() == first).all()


def test_dragging_right_widens_the_window_and_dragging_down_raises_its_level(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("drag", gradient(), linear(30000, 20000)))
    viewer.drag(MIDDLE, (SIDE / 8, 0))  # a quarter of the half canvas that stands for the whole width
    assert viewer.state()["width"] == pytest.approx(25000) and viewer.state()["center"] == pytest.approx(30000)
    viewer.drag(MIDDLE, (0, -SIDE / 4))
    state = viewer.state()
    assert state["width"] == pytest.approx(25000) and state["center"] == pytest.approx(20000)
    assert "W 25000  L 20000" in viewer.text("lr-hud")
    assert int(viewer.greys()[0, 20096 // 128]) == round(255 * (0.5 + 96 / 25000))


def test_window_keys_and_presets(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("keys", gradient(), linear(30000, 20000, "lung"), linear(50000, 10000, "bone")))
    viewer.press("]", "]", "[", "}", "}", "{")  # steps of 5 % of the preset's width
    assert (viewer.state()["width"], viewer.state()["center"]) == (21000, 31000)
    viewer.press("2")
    assert (viewer.state()["width"], viewer.state()["center"]) == (10000, 50000)
    viewer.press("9")  # there is none
    assert viewer.state()["center"] == 50000
    choice = viewer.page.locator("#one select")
    assert choice.locator("option").all_text_contents() == ["1 lung", "2 bone"] and choice.input_value() == "1"
    choice.select_option("0")
    assert viewer.state()["center"] == 30000
    viewer.press("2", "i", "+", "r")
    state = viewer.state()
    assert (state["center"], state["inverted"], state["zoom"]) == (30000, False, 1)


def test_the_wheel_zooms_at_the_cursor(viewer: Viewed, images: Images) -> None:
    pixels = flat(0, 256)
    pixels[60:64, 190:194] = 65535
    viewer.show(images.add("zoom", pixels))
    x, y = 192 * 2, 62 * 2  # the middle of the bright square; fitted, an image pixel is two wide
    before = viewer.state()
    viewer.page.mouse.move(*viewer.place(x, y))
    viewer.page.mouse.wheel(0, -1000)
    after = viewer.state()
    assert after["zoom"] == pytest.approx(1.15**10, rel=1e-3)
    assert point(after, x, y) == pytest.approx(point(before, x, y), abs=0.01)
    assert viewer.greys()[y, x] == 255 and (viewer.greys() > 128).sum() == pytest.approx((8 * 1.15**10) ** 2, rel=0.1)
    viewer.page.mouse.wheel(0, 1000)
    assert viewer.state()["zoom"] == pytest.approx(1, abs=1e-3)


def test_zoom_is_limited(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("ends", gradient()))
    viewer.press(*["+"] * 60)
    assert viewer.state()["scale"] == 40
    viewer.press(*["-"] * 90)
    assert viewer.state()["scale"] == 0.25


@pytest.mark.parametrize("how", ["right", "shift", "space", "arrows"])
def test_panning_moves_the_image_and_nothing_else(viewer: Viewed, images: Images, how: str) -> None:
    viewer.show(images.add(f"pan {how}", gradient()))
    before = viewer.state()
    if how == "arrows":  # a twentieth of the canvas; the right arrow looks further to the right
        viewer.press("ArrowRight", "ArrowUp")
        by = (-SIDE / 20, SIDE / 20)
    else:
        by = (50, -30)
        viewer.page.locator("#one canvas").focus()
        if how != "right":
            viewer.page.keyboard.down({"shift": "Shift", "space": " "}[how])
        viewer.drag(MIDDLE, by, "right" if how == "right" else "left")
        if how != "right":
            viewer.page.keyboard.up({"shift": "Shift", "space": " "}[how])
    after = viewer.state()
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx(by, abs=0.01)
    assert {key: after[key] for key in ("scale", "center", "width")} == {
        key: before[key] for key in ("scale", "center", "width")
    }


def test_one_to_one_shows_unscaled_pixels(viewer: Viewed, images: Images) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (1200, 900)).astype(np.uint16)
    viewer.show(images.add("noise", pixels))
    assert viewer.state()["scale"] == pytest.approx(SIDE / 1200, abs=1e-3)
    viewer.press("o")
    state = viewer.state()
    assert state["scale"] == 1
    x, y = (round(-state[key]) for key in ("x", "y"))
    assert (x, y) == ((900 - SIDE) // 2, (1200 - SIDE) // 2)
    assert np.abs(viewer.greys() - pixels[y : y + SIDE, x : x + SIDE] / 257).max() <= 0.51
    viewer.page.mouse.dblclick(*viewer.place(*MIDDLE))
    assert viewer.state()["zoom"] == 1


def test_one_to_one_uses_device_pixels(browser: Browser, images: Images) -> None:
    with browser.new_context(device_scale_factor=2) as context:
        viewer = opened(context.new_page(), images)
        pixels = np.random.default_rng(1).integers(0, 65536, (2 * SIDE, 2 * SIDE)).astype(np.uint16)
        viewer.show(images.add("fine noise", pixels))
        viewer.press("o")
        assert viewer.state()["scale"] == 1
        assert np.abs(viewer.greys() - pixels / 257).max() <= 0.51


def test_an_image_is_fitted_and_follows_the_size_of_its_box(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tall", np.full((400, 200), 65535, np.uint16)))
    greys = viewer.greys()
    assert (greys[:, 128:384] == 255).all() and (greys[:, :127] == 0).all() and (greys[:, 385:] == 0).all()
    viewer.page.eval_on_selector("#one .lr-stage", "stage => { stage.style.height = '200px'; }")
    viewer.page.wait_for_function("document.querySelector('#one canvas').height === 200")
    greys = viewer.greys()
    assert greys.shape == (200, SIDE) and (greys[:, 207:305] == 255).all() and (greys[:, :205] == 0).all()


def test_a_reduced_image_averages_its_pixels(viewer: Viewed, images: Images) -> None:
    pixels = np.zeros((2000, 2000), np.uint16)
    pixels[:, ::2] = 65534
    viewer.show(images.add("stripes", pixels))
    inside = viewer.greys()[4:-4, 4:-4]
    assert inside.min() >= 126 and inside.max() <= 129


def test_levels_of_detail_equal_means_computed_by_hand(viewer: Viewed) -> None:
    code = """async () => {
      const { pyramid, levelFor, fit } = await import("/ui/pixels.js");
      const values = new Uint16Array(1025 * 3);
      values.set([1, 2, 65535, 65535]);
      values.set([3, 4, 65535, 65534], 1025);
      const levels = pyramid(values, 1025, 3);
      return {
        sizes: levels.map(one => [one.width, one.height]), first: [...levels[1].values.slice(0, 2)],
        chosen: [3, 1, 0.51, 0.499, 0.26, 0.1].map(scale => levelFor(levels, scale)), fit: fit(1000, 500, 300, 300),
      };
    }"""
    levels = viewer.page.evaluate(code)
    assert levels["sizes"] == [[1025, 3], [512, 1]]
    assert levels["first"] == [3, 65535]  # 2.5 and 65,534.75, rounded
    assert levels["chosen"] == [0, 0, 0, 1, 1, 1]
    assert levels["fit"] == {"scale": 0.3, "x": 0, "y": 75}
