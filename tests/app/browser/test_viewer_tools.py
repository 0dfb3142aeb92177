"""Browser: turns, side letters, magnifier, measurements and progressive pixels of the viewer."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.app.browser.viewer_page import SIDE, Images, Viewed, flat, gradient, linear, opened

if TYPE_CHECKING:
    import numpy.typing as npt
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
MIDDLE = (SIDE / 2, SIDE / 2)


def corners(seed: int = 0) -> npt.NDArray[np.uint16]:
    """Image of the viewer's size whose greys differ in every corner and along both axes."""
    pixels = np.add.outer(np.arange(SIDE) * 96, np.arange(SIDE) * 30).astype(np.uint16)
    pixels[:64, :64] = 65535
    return np.asarray(pixels + np.uint16(seed), np.uint16)


@pytest.mark.parametrize("keys", ["t", "tt", "ttt", "tttt", "l", "lt", "tl", "tlt", "ll", "ttl"])
def test_turns_and_mirror_images_equal_numpy(viewer: Viewed, images: Images, keys: str) -> None:
    viewer.show(images.add(f"turn {keys}", corners()))
    expected = viewer.greys()
    for key in keys:
        viewer.press(key)
        expected = np.rot90(expected, -1) if key == "t" else np.fliplr(expected)
    assert (viewer.greys() == expected).all()


def test_the_middle_stays_in_the_middle_while_an_enlarged_image_is_turned(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tall", np.full((600, 300), 9, np.uint16)))
    viewer.press("+", "+", "+", "ArrowRight", "ArrowDown")
    viewer.page.mouse.move(*viewer.place(*MIDDLE))
    before = viewer.text("lr-hud").rpartition("(")[2]
    viewer.press("t", "l", "t")
    assert viewer.text("lr-hud").rpartition("(")[2] == before
    state = viewer.state()
    assert (state["turns"], state["flipped"]) == (0, True), "turned, mirrored and turned: only mirrored"
    assert "left and right exchanged" in viewer.text("lr-hud")
    viewer.press("r")
    state = viewer.state()
    assert (state["turns"], state["flipped"], state["zoom"]) == (0, False, 1)


def edges(viewer: Viewed) -> dict[str, str]:
    sides = viewer.page.locator(f"#{viewer.name} .lr-side:visible")
    return {side.text_content() or "": side.get_attribute("data-edge") or "" for side in sides.all()}


def test_side_letters_follow_turns_and_mirroring(viewer: Viewed, images: Images) -> None:
    viewer.show({**images.add("sides", gradient()), "sides": "stated"})
    assert edges(viewer) == {"L": "right", "R": "left"}, "as a radiologist faces the patient"
    viewer.press("l")
    assert edges(viewer) == {"L": "left", "R": "right"}
    viewer.press("t")
    assert edges(viewer) == {"L": "top", "R": "bottom"}
    viewer.press("r", "t")
    assert edges(viewer) == {"L": "bottom", "R": "top"}
    viewer.show({**images.add("assumed sides", gradient()), "sides": "assumed"})
    assert edges(viewer) == {"L?": "right", "R?": "left"}
    viewer.show({**images.add("lateral", gradient()), "sides": None})
    assert edges(viewer) == {}


def test_maps_and_boxes_turn_with_the_image(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("turned overlays", flat(0)))
    viewer.overlay(2, [1.0] * 4, [0, 0, 0.25, 0.5])
    viewer.press("t")
    rows, columns = np.nonzero(viewer.colours().sum(axis=2) > 30)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == pytest.approx((256, 511, 0, 127), abs=1)
    viewer.page.evaluate("one.overlay(null)")
    viewer.boxes((0.125, 0.25, 0.375, 0.75))
    viewer.press("l")
    colours = viewer.colours()
    rows, columns = np.nonzero((colours[..., 0] > 200) & (colours[..., 2] < 80))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == pytest.approx((128, 384, 64, 192), abs=2.5)


def test_the_magnifier_enlarges_what_is_under_the_pointer(viewer: Viewed, images: Images) -> None:
    pixels = flat(0, 1024)
    pixels[496:512, 496:512] = 65535
    viewer.show(images.add("fine", pixels))
    viewer.press("g")
    assert viewer.state()["magnifier"]
    viewer.page.mouse.move(*viewer.place(251, 251))
    # half a screen pixel for each image pixel, 2.5 times enlarged: 16 image pixels are 20 screen pixels
    assert (viewer.greys() > 128)[200:300, 200:300].sum() == pytest.approx(400, rel=0.1)
    viewer.press("g")
    viewer.page.mouse.move(*viewer.place(100, 100))
    assert (viewer.greys() > 128)[200:300, 200:300].sum() == 64


def measured(viewer: Viewed) -> list[tuple[str, list[list[float]]]]:
    found: list[tuple[str, list[list[float]]]] = viewer.page.evaluate("measured.splice(0)")
    return found


@pytest.mark.parametrize("how", ["drag", "click", "keyboard"])
def test_a_length_is_measured_in_image_pixels(viewer: Viewed, images: Images, how: str) -> None:
    viewer.show(images.add(f"length {how}", flat(1000, 1024)))
    viewer.press("m")
    assert viewer.state()["tool"] == "length" and "Set the first end (1 of 2)" in viewer.text("lr-hint")
    if how == "drag":
        viewer.drag((100, 200), (60, 80))
    elif how == "click":
        viewer.page.mouse.click(*viewer.place(100, 200))
        assert "Set the other end (2 of 2)" in viewer.text("lr-hint")
        viewer.page.mouse.click(*viewer.place(160, 280))
    else:
        viewer.press(
            "ArrowLeft", "ArrowLeft", "Shift+ArrowUp", "Enter", "ArrowRight", "ArrowRight", "ArrowRight", "Enter"
        )
    [(kind, points)] = measured(viewer)
    assert kind == "length" and viewer.state()["tool"] is None and viewer.text("lr-hint") == ""
    # fitted, a screen pixel is two image pixels
    expected = [[472, 510], [532, 510]] if how == "keyboard" else [[200, 400], [320, 560]]
    assert points == [pytest.approx(point, abs=0.01) for point in expected]
    assert viewer.state()["center"] == 32767.5, "the window stays while a measurement is made"


def test_points_are_those_of_the_stored_image_however_it_is_turned(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("turned length", np.full((256, 512), 9, np.uint16)))
    viewer.press("t", "l", "+", "m")
    viewer.drag((200, 100), (90, 200))
    [(_, points)] = measured(viewer)
    assert math.dist(*points) * viewer.state()["scale"] == pytest.approx(math.hypot(90, 200), abs=0.1)
    viewer.page.evaluate(
        "points => one.measurements([{id: 'a', kind: 'length', image: 'turned length', points, value: 5, unit: 'mm'}])",
        points,
    )
    colours = viewer.colours()
    rows, columns = np.nonzero((colours[..., 2] > 200) & (colours[..., 0] < 160))
    assert columns.min() == pytest.approx(200, abs=9) and rows.min() == pytest.approx(100, abs=9)
    viewer.press("r")
    assert viewer.state()["measurements"] == 1


def test_the_cardiothoracic_ratio_takes_two_lines(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("heart", flat(1000)))
    viewer.page.locator("#one [data-tool=cardiothoracic]").click()
    assert "Heart" in viewer.text("lr-hint")
    viewer.drag((150, 300), (160, 0))
    assert "Chest" in viewer.text("lr-hint") and measured(viewer) == []
    viewer.press("Backspace")
    assert "Heart: set the left border (2 of 4)" in viewer.text("lr-hint")
    viewer.page.mouse.click(*viewer.place(310, 300))
    viewer.drag((90, 320), (330, 0))
    [(kind, points)] = measured(viewer)
    assert kind == "cardiothoracic"
    assert points == [[150, 300], [310, 300], [90, 320], [420, 320]]


def test_a_measurement_is_given_up_with_escape_and_needs_two_different_points(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("given up", flat(1000)))
    viewer.press("m", "Enter", "Enter", "Enter")
    assert measured(viewer) == [] and viewer.state()["tool"] == "length", "no length of zero"
    viewer.press("Escape")
    assert viewer.state()["tool"] is None
    viewer.drag(MIDDLE, (0, 40))
    assert viewer.state()["center"] != 32767.5, "dragging changes the window again"
    viewer.press("m", "m")
    assert viewer.state()["tool"] is None and measured(viewer) == []
    viewer.press("m")
    viewer.page.mouse.click(*viewer.place(600, 200), button="right")
    viewer.drag((500, 100), (100, 0))  # beyond the edge: the image's edge counts
    [(_, points)] = measured(viewer)
    assert points == [[500, 100], [512, 100]]


def test_the_end_of_a_kept_measurement_is_dragged(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("dragged", flat(1000, 1024)))  # fitted, a screen pixel is two image pixels
    kept = "[{id: 'a', kind: 'length', image: 'dragged', points: [[200, 400], [320, 560]], value: 5, unit: 'mm'}]"
    viewer.page.evaluate(f"one.measurements({kept}, null, true)")
    viewer.drag((165, 285), (40, 20))  # 5 pixels beside the end, which jumps to the pointer
    assert viewer.page.evaluate("measured.splice(0)") == [["length", [[200, 400], [410, 610]], "a"]]
    assert viewer.state()["center"] == 32767.5, "the window stays"
    viewer.page.mouse.move(*viewer.place(100, 200))
    viewer.page.mouse.down()
    viewer.page.mouse.move(*viewer.place(300, 300))
    viewer.press("Escape")
    viewer.page.mouse.up()
    viewer.page.evaluate(f"one.measurements({kept}, null, false)")  # of a signed report
    viewer.drag((160, 280), (40, 20))
    assert measured(viewer) == [] and viewer.state()["center"] != 32767.5


def painted(viewer: Viewed, full: bool) -> None:
    viewer.page.wait_for_function("full => one.state().painted && one.state().full === full", arg=full)


def test_a_preview_stands_until_the_full_depth_comes_and_the_readers_window_stays(
    viewer: Viewed, images: Images
) -> None:
    images.held["progressive"] = threading.Event()
    viewer.start(images.with_preview("progressive", gradient(), linear(32768, 32768)))
    painted(viewer, False)
    assert "preview" in viewer.text("lr-hud")
    first = viewer.greys()
    # 24,576 is a quarter up the window: 63.75
    assert int(first[100, 192]) == pytest.approx(64, abs=2) and first[0, 0] == 0 and first[0, -1] == 255
    viewer.press("+", "]", "i")
    before = viewer.state()
    images.held["progressive"].set()
    painted(viewer, True)
    after = viewer.state()
    same = ("scale", "x", "y", "width", "center", "inverted")
    assert [after[key] for key in same] == [before[key] for key in same]
    assert "preview" not in viewer.text("lr-hud")
    viewer.press("r")
    assert int(viewer.greys()[0, 192]) == 64


def test_an_image_that_was_shown_before_is_not_loaded_again(viewer: Viewed, images: Images) -> None:
    first = images.with_preview("kept", gradient())
    viewer.start(first)
    painted(viewer, True)
    greys = viewer.greys()
    viewer.show(images.add("between", flat(9)))
    count = len(images.asked)
    viewer.show(first)
    assert viewer.state()["full"] and (viewer.greys() == greys).all() and len(images.asked) == count


def test_an_image_loaded_ahead_is_there_at_once(viewer: Viewed, images: Images) -> None:
    ahead = images.with_preview("ahead", gradient())
    viewer.page.evaluate(
        "async image => { const { preload } = await import('/ui/loading.js'); await preload([image]); }", ahead
    )
    count = len(images.asked)
    viewer.show(ahead)
    assert viewer.state()["full"] and len(images.asked) == count


def test_a_cut_line_is_waited_for(browser: Browser, images: Images) -> None:
    images.broken["cut"] = 2
    with browser.new_context() as context:
        viewer = opened(context.new_page(), images)
        viewer.start(images.with_preview("cut", flat(25700)))
        viewer.page.wait_for_function("document.querySelector('#one .lr-message').textContent.includes('waiting')")
        assert viewer.state()["painted"] == "cut" and not viewer.state()["error"]
        painted(viewer, True)
        assert viewer.text("lr-message") == "" and (viewer.greys() == 100).all()


def test_a_preview_without_its_full_image_says_so(viewer: Viewed, images: Images) -> None:
    image: dict[str, Any] = images.with_preview("half there", flat(25700))
    image["url"] = "/nothing"
    viewer.start(image)
    viewer.page.wait_for_function("one.state().error")
    assert "Only a preview is shown" in viewer.text("lr-message") and viewer.state()["painted"] == "half there"
    image["url"] = images.with_preview("half there", flat(25700))["url"]
    viewer.page.evaluate("image => { one.show(image); }", image)
    painted(viewer, True)
    assert viewer.text("lr-message") == ""
