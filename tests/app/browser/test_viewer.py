"""The viewer alone, in a real browser: its pixels against pydicom and numbers by hand, its tools, its late answers."""

from __future__ import annotations

import base64
import statistics
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.app.browser.viewer_page import SIDE, Images, Viewed, linear, serving

if TYPE_CHECKING:
    import numpy.typing as npt
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
MIDDLE = (SIDE / 2, SIDE / 2)


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    with serving() as running:
        yield running


@pytest.fixture
def viewer(browser_page: Page, images: Images) -> Viewed:
    return _open(browser_page, images)


def _open(page: Page, images: Images) -> Viewed:
    page.set_default_timeout(10_000)
    page.goto(images.url)
    page.wait_for_function("window.ready")
    return Viewed(page)


def gradient(side: int = SIDE) -> npt.NDArray[np.uint16]:
    """128 more with each column: 0 to 65,408 in 512 of them."""
    return np.tile(np.arange(side, dtype=np.uint16) * np.uint16(128), (side, 1))


def flat(value: int, side: int = SIDE) -> npt.NDArray[np.uint16]:
    return np.full((side, side), value, np.uint16)


def point(state: dict[str, Any], x: float, y: float) -> tuple[float, float]:
    """The image's point at a place of the canvas."""
    return (x - state["x"]) / state["scale"], (y - state["y"]) / state["scale"]


def test_a_known_window_on_a_known_gradient_gives_greys_worked_out_by_hand(viewer: Viewed, images: Images) -> None:
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


def test_a_files_own_curve_is_followed_and_moves_with_the_window(viewer: Viewed, images: Images) -> None:
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


def test_invert_turns_every_grey_round_by_key_and_by_button(viewer: Viewed, images: Images) -> None:
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


def test_zoom_has_ends(viewer: Viewed, images: Images) -> None:
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


def test_one_to_one_shows_every_pixel_as_it_is(viewer: Viewed, images: Images) -> None:
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


def test_one_to_one_means_pixels_of_the_screen(browser: Browser, images: Images) -> None:
    with browser.new_context(device_scale_factor=2) as context:
        viewer = _open(context.new_page(), images)
        pixels = np.random.default_rng(1).integers(0, 65536, (2 * SIDE, 2 * SIDE)).astype(np.uint16)
        viewer.show(images.add("fine noise", pixels))
        viewer.press("o")
        assert viewer.state()["scale"] == 1
        assert np.abs(viewer.greys() - pixels / 257).max() <= 0.51


def test_an_image_fits_whole_between_black_bars_and_follows_the_size_of_its_box(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tall", np.full((400, 200), 65535, np.uint16)))
    greys = viewer.greys()
    assert (greys[:, 128:384] == 255).all() and (greys[:, :127] == 0).all() and (greys[:, 385:] == 0).all()
    viewer.page.eval_on_selector("#one .lr-stage", "stage => { stage.style.height = '200px'; }")
    viewer.page.wait_for_function("document.querySelector('#one canvas').height === 200")
    greys = viewer.greys()
    assert greys.shape == (200, SIDE) and (greys[:, 207:305] == 255).all() and (greys[:, :205] == 0).all()


def test_a_reduced_image_is_a_mean_of_its_pixels_not_a_choice_of_them(viewer: Viewed, images: Images) -> None:
    pixels = np.zeros((2000, 2000), np.uint16)
    pixels[:, ::2] = 65534
    viewer.show(images.add("stripes", pixels))
    inside = viewer.greys()[4:-4, 4:-4]
    assert inside.min() >= 126 and inside.max() <= 129


def test_levels_of_detail_by_hand(viewer: Viewed) -> None:
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


def test_a_linked_prior_that_comes_later_leaves_the_readers_view_alone(viewer: Viewed, images: Images) -> None:
    other = Viewed(viewer.page, "two")
    viewer.show(images.add("being read", gradient(), linear(30000, 20000)))
    viewer.press("+", "]")
    before = viewer.state()
    viewer.page.evaluate("one.link(two)")
    other.show(images.add("late prior", gradient(), linear(8000, 10000)))
    after = viewer.state()
    assert [after[key] for key in ("scale", "width", "center")] == [before[key] for key in ("scale", "width", "center")]
    assert other.state()["zoom"] == before["zoom"] and other.state()["width"] == 10500


def test_a_map_lies_where_its_box_says(viewer: Viewed, images: Images) -> None:
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


def test_a_map_does_not_hang_over_the_image(viewer: Viewed, images: Images) -> None:
    viewer.show(images.add("tall under a map", np.zeros((400, 200), np.uint16)))
    viewer.overlay(2, [1.0] * 4, [-0.5, 0, 2, 1])  # the square of a recipe that pads the sides
    lit = viewer.colours().sum(axis=2) > 30
    assert not lit[:, :127].any() and not lit[:, 385:].any() and lit[10:-10, 130:380].all()


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
def test_an_image_that_comes_too_late_is_not_painted(viewer: Viewed, images: Images, aborted: bool) -> None:
    images.held["slow"] = threading.Event()
    slow, quick = images.add("slow", flat(65535)), images.add("quick", flat(25700))
    if not aborted:  # the answer is on its way through the browser when the viewer gives it up
        viewer.page.evaluate("() => { const real = fetch; window.fetch = url => real(url); }")
    viewer.start(slow)
    assert viewer.text("lr-said").startswith("Loading")
    viewer.show(quick)
    images.held["slow"].set()
    viewer.page.wait_for_timeout(300)
    assert viewer.state()["painted"] == "quick" and (viewer.greys() == 100).all()
    assert viewer.text("lr-said") == ""


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
def test_a_failure_is_said_on_black(viewer: Viewed, images: Images, fault: str) -> None:
    viewer.show(images.add("good", flat(65535)))
    bad = images.add(fault, flat(65535))
    if fault == "gone":
        del images.pixels["gone"]
    else:
        images.pixels["short"] = images.pixels["short"][:-1]
    viewer.start(bad)
    viewer.page.wait_for_function("document.querySelector('#one .lr-said').textContent.includes('could not be loaded')")
    state = viewer.state()
    assert state["error"] and state["painted"] is None and (viewer.greys() == 0).all()
    viewer.show(images.add("good again", flat(65535)))
    assert not viewer.state()["error"] and viewer.text("lr-said") == ""


def test_the_value_under_the_cursor_is_the_files(viewer: Viewed, images: Images) -> None:
    pixels = flat(7, 256)
    pixels[40, 100] = 54321
    viewer.show(images.add("values", pixels))
    viewer.page.mouse.move(*viewer.place(201, 81))
    assert "(100, 40): 54321" in viewer.text("lr-hud")
    viewer.page.mouse.move(*viewer.place(203, 81))
    assert "(101, 40): 7" in viewer.text("lr-hud")
    viewer.page.mouse.move(0, 0)
    assert ":" not in viewer.text("lr-hud")


def test_one_finger_windows_and_two_pinch(browser: Browser, images: Images) -> None:
    with browser.new_context(has_touch=True) as context:
        viewer = _open(context.new_page(), images)
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


def test_the_canvas_says_what_it_shows_and_every_tool_has_a_name(viewer: Viewed, images: Images) -> None:
    page = viewer.page
    assert page.get_by_role("img", name="Viewer one: no image").count() == 1
    viewer.show({**images.add("named", gradient()), "description": "Radiograph 3, PA view"})
    assert page.get_by_role("img", name="Viewer one: Radiograph 3, PA view").get_attribute("tabindex") == "0"
    tools = page.locator("#one").get_by_role("toolbar").locator("button:visible, select:visible")
    assert tools.count() == 7
    for tool in tools.all():
        name = tool.get_attribute("aria-label") or ""
        assert name.startswith("Viewer one: ")
        if tool.evaluate("one => one.tagName") == "BUTTON":
            shown = (tool.text_content() or "").lower()
            assert shown in name.lower() or shown in "−+", "who speaks to the page says what is on the button"
    before = viewer.state()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("i")
    viewer.press("Control+i", "Alt+o")
    assert viewer.state() == {**before, "frameMs": viewer.state()["frameMs"]}


def test_frames_of_a_large_image_come_quickly(
    viewer: Viewed, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(2).integers(0, 65536, (2000, 2000)).astype(np.uint16)
    viewer.page.add_style_tag(
        content="#two { display: none } .lr #one.lr-viewer .lr-stage { width: 900px; height: 900px }"
    )
    viewer.page.wait_for_function("document.querySelector('#one canvas').width === 900")
    viewer.show(images.add("large", pixels))
    found: dict[str, float] = {}
    for what, key in (("fitted", "f"), ("least reduced", "+"), ("1:1", "o")):
        viewer.press(key)
        times = []
        for _ in range(8):
            viewer.press("]")
            times.append(viewer.state()["frameMs"])
        found[what] = statistics.median(times)
    with capsys.disabled():
        print(f"\nmedian ms a frame, 2000 x 2000 on 900 x 900: {found}")
    assert max(found.values()) < 100
