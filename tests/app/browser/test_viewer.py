"""Browser: viewer without the application: linked pairs, maps, late and failed loads, touch, names, speed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.app.browser.viewer_page import SIDE, Images, Viewed, flat, gradient, linear, opened, point

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
MIDDLE = (SIDE / 2, SIDE / 2)


def test_linked_viewers_move_together(viewer: Viewed, images: Images) -> None:
    other = Viewed(viewer.page, "two")
    viewer.show(images.add("current", gradient(512), linear(30000, 20000)))
    other.show(images.add("prior", gradient(256), linear(8000, 10000)))
    viewer.page.evaluate("one.link(two)")
    viewer.page.mouse.move(*viewer.place(100, 400))
    viewer.page.mouse.wheel(0, -500)
    viewer.drag(MIDDLE, (SIDE / 8, SIDE / 4))
    mine, its = viewer.state(), other.state()
    assert its["zoom"] == pytest.approx(mine["zoom"], abs=2e-3)
    assert point(its, *MIDDLE) == pytest.approx([place / 2 for place in point(mine, *MIDDLE)], abs=0.05)
    # a quarter wider and half its first width up, each by its own
    assert (mine["width"], mine["center"]) == pytest.approx((25000, 40000))
    assert (its["width"], its["center"]) == pytest.approx((12500, 13000))
    other.press("f")
    assert viewer.state()["zoom"] == 1
    viewer.page.evaluate("one.link(null)")
    other.press("+", "]")
    assert viewer.state()["zoom"] == 1 and viewer.state()["width"] == pytest.approx(25000)
    viewer.page.evaluate("one.link(two)")  # linked again, the other one comes back to this one
    assert other.state()["zoom"] == 1 and other.state()["width"] == pytest.approx(12500)


def test_a_prior_that_loads_later_takes_over_the_current_view(viewer: Viewed, images: Images) -> None:
    other = Viewed(viewer.page, "two")
    viewer.show(images.add("being read", gradient(), linear(30000, 20000)))
    viewer.press("+", "]")
    before = viewer.state()
    viewer.page.evaluate("one.link(two)")
    other.show(images.add("late prior", gradient(), linear(8000, 10000)))
    after = viewer.state()
    assert [after[key] for key in ("scale", "width", "center")] == [before[key] for key in ("scale", "width", "center")]
    assert other.state()["zoom"] == before["zoom"] and other.state()["width"] == 10500


def test_a_map_covers_its_box(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("under a map", flat(0)))
    viewer.overlay(4, [1.0] * 16, [0.25, 0.5, 0.5, 0.25])
    lit = viewer.colours().sum(axis=2) > 30
    rows, columns = np.nonzero(lit)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == pytest.approx((128, 383, 256, 383), abs=1)
    assert lit[258:382, 130:382].all()
    viewer.press("o", "+", "ArrowLeft")  # it goes along
    state = viewer.state()
    rows, columns = np.nonzero(viewer.colours().sum(axis=2) > 30)
    assert columns.min() == pytest.approx(state["x"] + 128 * state["scale"], abs=2)
    assert rows.max() == pytest.approx(state["y"] + 384 * state["scale"], abs=2)


def test_a_map_is_clipped_to_the_image(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tall under a map", np.zeros((400, 200), np.uint16)))
    viewer.overlay(2, [1.0] * 4, [-0.5, 0, 2, 1])  # the square of a recipe that pads the sides
    lit = viewer.colours().sum(axis=2) > 30
    assert not lit[:, :127].any() and not lit[:, 385:].any() and lit[10:-10, 130:380].all()


def test_boxes_are_drawn_at_their_coordinates_and_move_with_the_image(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("under boxes", flat(0)))
    viewer.boxes((0.25, 0.5, 0.75, 0.625), (0.125, 0.125, 0.25, 0.25))
    for keys in ((), ("o", "+", "+", "ArrowLeft", "ArrowUp"), ("-", "-", "-", "-")):
        viewer.press(*keys)
        colours, state = viewer.colours(), viewer.state()
        amber = (colours[..., 0] > 200) & (colours[..., 2] < 80)
        grey = (colours.min(axis=2) > 60) & ~amber
        for lit, box in ((amber, (0.25, 0.5, 0.75, 0.625)), (grey, (0.125, 0.125, 0.25, 0.25))):
            rows, columns = np.nonzero(lit)
            edges = [
                at + SIDE * share * state["scale"] for at, share in zip([state["x"], state["y"]] * 2, box, strict=True)
            ]
            assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx(edges, abs=2.5)
            assert not lit[int(edges[1]) + 4 : int(edges[3]) - 4, int(edges[0]) + 4 : int(edges[2]) - 4].any()


def test_boxes_are_visible_on_white_can_be_hidden_and_go_with_their_image(viewer: Viewed, images: Images) -> None:
    tool = viewer.page.locator("#one").get_by_role("button", name="boxes", exact=False)
    viewer.show(images.add("bright", flat(65535)))
    assert tool.is_hidden() and viewer.greys().min() == 255
    viewer.boxes((0.25, 0.25, 0.5, 0.5))
    assert viewer.colours().min() < 70 and viewer.state()["boxes"] == 1
    tool.click()
    assert tool.get_attribute("aria-pressed") == "false" and viewer.greys().min() == 255
    viewer.press("b")
    assert tool.get_attribute("aria-pressed") == "true" and viewer.state()["boxes"] == 1
    viewer.show(images.add("the next", flat(65535)))
    assert viewer.greys().min() == 255 and tool.is_hidden()


def test_a_map_can_be_weakened_and_hidden(viewer: Viewed, images: Images) -> None:
    map_tool = viewer.page.locator("#one").get_by_role("button", name="Map", exact=False)
    viewer.show(images.add("hidden map", flat(20000)))
    plain = viewer.greys()
    assert map_tool.count() == 0
    viewer.overlay(2, [0.9, 0.1, 0.0, 0.5], [0, 0, 1, 1])
    strong = np.abs(viewer.colours() - plain[..., None]).sum()
    viewer.page.get_by_role("slider").fill("20")
    assert 0 < np.abs(viewer.colours() - plain[..., None]).sum() < strong
    viewer.press("h")
    assert not viewer.state()["overlay"] and (viewer.greys() == plain).all()
    map_tool.click()
    assert viewer.state()["overlay"] and map_tool.get_attribute("aria-pressed") == "true"
    viewer.show(images.add("another", flat(20000)))
    assert not viewer.state()["overlay"] and (viewer.greys() == plain).all()


@pytest.mark.parametrize("aborted", [True, False])
def test_an_image_that_loads_too_late_is_not_painted(viewer: Viewed, images: Images, aborted: bool) -> None:
    images.held["slow"] = threading.Event()
    slow, quick = images.add("slow", flat(65535)), images.add("quick", flat(25700))
    if not aborted:  # the answer is on its way through the browser when the viewer gives it up
        viewer.page.evaluate("() => { const real = fetch; window.fetch = url => real(url); }")
    viewer.start(slow)
    assert viewer.text("lr-message").startswith("Loading")
    viewer.show(quick)
    images.held["slow"].set()
    viewer.page.wait_for_timeout(300)
    assert viewer.state()["painted"] == "quick" and (viewer.greys() == 100).all()
    assert viewer.text("lr-message") == ""


@pytest.mark.acceptance(row=13)
def test_nothing_is_left_of_the_last_image_while_the_next_one_loads(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("last", flat(65535)))
    images.held["next"] = threading.Event()
    viewer.start(images.add("next", flat(65535)))
    state = viewer.state()
    assert (state["id"], state["painted"], state["error"]) == ("next", None, False)
    assert (viewer.greys() == 0).all() and viewer.text("lr-hud") == ""
    viewer.press("+", "i", "2", "r")
    viewer.page.evaluate("one.clear()")
    images.held["next"].set()
    viewer.page.wait_for_timeout(200)
    assert viewer.state()["id"] is None and (viewer.greys() == 0).all()


@pytest.mark.parametrize("fault", ["gone", "short"])
def test_a_failed_load_shows_a_message_on_black(viewer: Viewed, images: Images, fault: str) -> None:
    viewer.show(images.add("good", flat(65535)))
    bad = images.add(fault, flat(65535))
    if fault == "gone":
        del images.pixels["gone"]
    else:
        images.pixels["short"] = images.pixels["short"][:-1]
    viewer.start(bad)
    viewer.page.wait_for_function(
        "document.querySelector('#one .lr-message').textContent.includes('could not be loaded')"
    )
    state = viewer.state()
    assert state["error"] and state["painted"] is None and (viewer.greys() == 0).all()
    viewer.show(images.add("good again", flat(65535)))
    assert not viewer.state()["error"] and viewer.text("lr-message") == ""


def test_the_value_under_the_cursor_is_shown(viewer: Viewed, images: Images) -> None:
    pixels = flat(7, 256)
    pixels[40, 100] = 54321
    viewer.show(images.add("values", pixels))
    viewer.page.mouse.move(*viewer.place(201, 81))
    assert "(100, 40): 54321" in viewer.text("lr-hud")
    viewer.page.mouse.move(*viewer.place(203, 81))
    assert "(101, 40): 7" in viewer.text("lr-hud")
    viewer.page.mouse.move(0, 0)
    assert ":" not in viewer.text("lr-hud")


def test_one_finger_changes_the_window_and_two_zoom(browser: Browser, images: Images) -> None:
    with browser.new_context(has_touch=True) as context:
        viewer = opened(context.new_page(), images)
        viewer.show(images.add("touch", gradient(), linear(30000, 20000)))
        session = context.new_cdp_session(viewer.page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            places = [dict(zip("xy", viewer.place(*one), strict=True), id=at) for at, one in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        touch("touchStart", MIDDLE)
        touch("touchMove", (MIDDLE[0] + SIDE / 8, MIDDLE[1]))
        touch("touchEnd")
        assert viewer.state()["width"] == pytest.approx(25000)
        touch("touchStart", (200, 256))
        touch("touchStart", (200, 256), (300, 256))
        touch("touchMove", (150, 256), (350, 256))
        touch("touchEnd")
        state = viewer.state()
        assert state["zoom"] == pytest.approx(2, rel=0.01) and state["width"] == pytest.approx(25000)
        assert point(state, 250, 256) == pytest.approx((250, 256), abs=2)


def test_canvas_and_tools_have_accessible_names(viewer: Viewed, images: Images) -> None:
    page = viewer.page
    assert page.get_by_role("application", name="Viewer one: no image").count() == 1
    viewer.show({**images.add("named", gradient()), "description": "Radiograph 3, PA view"})
    canvas = page.get_by_role("application", name="Viewer one: Radiograph 3, PA view")
    assert canvas.get_attribute("tabindex") == "0"
    help = page.text_content(f"#{canvas.get_attribute('aria-describedby')}") or ""
    assert "zoom" in help and "M measures a length" in help
    tools = page.locator("#one").get_by_role("toolbar").locator("button:visible, select:visible")
    assert tools.count() == 12
    for tool in tools.all():
        assert (tool.get_attribute("aria-label") or "").startswith("Viewer one: ") and tool.get_attribute("title")
        box = tool.bounding_box()
        assert box is not None and min(box["width"], box["height"]) >= 24
    before = viewer.state()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("i")
    viewer.press("Control+i", "Alt+o")
    assert viewer.state() == {**before, "frameMs": viewer.state()["frameMs"]}


def test_arrow_keys_move_through_the_tools(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tools", gradient()))
    page = viewer.page
    page.locator("#one [data-tool=zoom-out]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert viewer.state()["zoom"] == 1.15
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.tool") == "reset"
    assert page.locator("#one [data-tool][tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert viewer.state()["zoom"] == 1


def test_frames_of_a_large_image_come_quickly(
    viewer: Viewed, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quickest of up to 40 frames counts: other work on the machine only ever adds time."""
    pixels = np.random.default_rng(2).integers(0, 65536, (2000, 2000)).astype(np.uint16)
    viewer.page.add_style_tag(
        content="#two { display: none } .lr #one.lr-viewer .lr-stage { width: 900px; height: 900px }"
    )
    viewer.page.wait_for_function("document.querySelector('#one canvas').width === 900")
    viewer.show(images.add("large", pixels))
    found: dict[str, float] = {}
    for what, key in (("fitted", "f"), ("least reduced", "+"), ("1:1", "o")):
        viewer.press(key)
        found[what] = float("inf")
        for number in range(40):
            viewer.press("]")
            found[what] = min(found[what], viewer.state()["frameMs"])
            if number >= 7 and found[what] < 100:
                break
    with capsys.disabled():
        print(f"\nms of the quickest frame, 2000 x 2000 on 900 x 900: {found}")
    assert max(found.values()) < 100
