"""The page in a real browser, played with real keys."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, served):
    """The page, opened by the address with the token; the test fails on any error of its script."""
    context = browser.new_context(viewport={"width": 1400, "height": 980}, color_scheme="dark")
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith((served.url, "blob:", "data:", "ws:"))
            else problems.append(f"fetched {request.url}"))  # fmt: skip
    page.goto(f"{served.url}/?token={served.token}")
    wait_for(
        lambda: page.evaluate("state && state.type && document.getElementById('dream-note').textContent")
    )
    yield page
    context.close()
    assert problems == []


def wait_for(condition, seconds: float = 10) -> None:
    """Asks again and again; Playwright's own waiting evaluates text, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def actions_of(served) -> list[str]:
    names = served.dream.action_names
    return [names[value] for kind, value in served.dream.calls if kind == "step" and value is not None]


def test_the_token_leaves_the_address(page, served):
    assert page.url == f"{served.url}/"
    assert page.title() == "Breakout dream"
    page.reload()
    wait_for(lambda: page.evaluate("state && state.type"))


def test_held_keys_play_until_they_are_released(page, served):
    page.keyboard.press("Space")
    wait_for(lambda: "FIRE" in actions_of(served))
    page.keyboard.down("ArrowLeft")
    wait_for(lambda: actions_of(served)[-3:] == ["LEFT"] * 3)
    assert page.inner_text("#action") == "LEFT"
    assert page.locator("kbd.down").all_inner_texts() == ["←"]
    page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowLeft")
    wait_for(lambda: actions_of(served)[-3:] == ["RIGHT"] * 3)
    page.keyboard.up("ArrowRight")
    wait_for(lambda: actions_of(served)[-3:] == ["NOOP"] * 3)
    page.keyboard.down("KeyA")
    wait_for(lambda: actions_of(served)[-1] == "LEFT")
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    wait_for(lambda: actions_of(served)[-1] == "NOOP")


def test_the_canvas_shows_the_dreamed_pixels(page, served):
    page.keyboard.press("KeyP")
    wait_for(lambda: served.game.is_paused)
    wait_for(lambda: page.evaluate("document.getElementById('status').textContent === 'paused'"))
    page.wait_for_timeout(200)
    shown = served.game.last_frame()
    read = "id => [...document.getElementById(id).getContext('2d').getImageData(0, 0, 64, 64).data]"
    for name, frame in (("dream", shown.frame), ("real", shown.real_frame)):
        pixels = np.array(page.evaluate(read, name), dtype=np.uint8).reshape(64, 64, 4)
        assert np.array_equal(pixels[..., :3], frame.permute(1, 2, 0).numpy())


def test_keys_pause_step_and_step_back(page, served):
    page.keyboard.press("KeyP")
    wait_for(lambda: served.game.is_paused)
    page.wait_for_timeout(200)
    before = served.game.last_frame().step
    page.keyboard.press("KeyN")
    wait_for(
        lambda: page.evaluate(f"document.getElementById('dream-note').textContent === 'step {before + 1}'")
    )
    page.keyboard.press("KeyB")
    page.keyboard.press("Backspace")
    wait_for(
        lambda: page.evaluate(f"document.getElementById('dream-note').textContent === 'step {before - 1}'")
    )
    page.keyboard.press("KeyP")
    wait_for(lambda: served.game.last_frame().step > before + 1)


def test_temperature_speed_start_and_player_are_set_from_the_page(page, served):
    for _ in range(3):
        page.keyboard.press("Equal")
    wait_for(lambda: served.dream.temperature == pytest.approx(0.3))
    wait_for(lambda: page.evaluate("parseFloat(document.getElementById('drift').textContent) > 1"))
    page.fill("#speed", "10")
    wait_for(lambda: served.game.frames_per_second == 10)
    page.keyboard.press("BracketRight")
    wait_for(lambda: served.game.start == 1)
    page.click("#agent")
    wait_for(lambda: served.dream.calls[-1] == ("step", None))
    page.click("#you")
    page.keyboard.press("Space")  # goes to the game, not to the button that was clicked last
    wait_for(lambda: "FIRE" in actions_of(served))
    assert served.game.player == "you"


def test_the_real_game_can_be_hidden(page):
    assert page.is_visible("#real")
    page.keyboard.press("KeyV")
    page.wait_for_selector("#real", state="hidden")


def test_a_recording_is_shown_and_can_be_saved(page, served):
    page.keyboard.press("KeyG")
    wait_for(lambda: page.evaluate("state.recording > 5"))
    page.keyboard.press("KeyG")
    page.wait_for_selector("#recording", state="visible", timeout=20_000)
    with page.expect_download() as download:
        page.click("#save")
    with Image.open(io.BytesIO(download.value.path().read_bytes())) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 3


def test_the_end_of_the_dream_is_shown_and_r_restarts(page, served):
    served.dream.last_step = served.game.last_frame().step + 20
    wait_for(lambda: served.game.is_over)
    page.wait_for_selector("#veil", state="visible")
    assert "ended" in page.inner_text("#veil-text")
    served.dream.last_step = 10**9
    page.keyboard.press("KeyR")
    wait_for(lambda: not served.game.is_over)
    page.wait_for_selector("#veil", state="hidden")


def test_a_second_tab_takes_over_and_the_first_can_take_it_back(page, served):
    other = page.context.new_page()
    other.goto(served.url)
    wait_for(lambda: other.evaluate("state && state.type"))
    wait_for(lambda: page.evaluate("document.getElementById('status').textContent === 'elsewhere'"))
    page.bring_to_front()
    page.keyboard.press("Enter")
    wait_for(lambda: page.evaluate("document.getElementById('status').textContent === 'live'"))
    wait_for(lambda: other.evaluate("document.getElementById('status').textContent === 'elsewhere'"))


def test_a_page_that_opens_again_goes_on_where_it_was(page, served):
    wait_for(lambda: served.game.last_frame().step > 5)
    step = served.game.last_frame().step
    page.reload()
    wait_for(lambda: page.evaluate("state && state.step !== undefined"))
    assert page.evaluate("state.step") >= step


def test_the_page_is_drawn(page, served):
    """Both screens, the token colours and the charts are there in a screenshot."""
    page.keyboard.press("Space")
    wait_for(lambda: served.game.last_frame().step > 30 or served.game.is_over)
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    for color in ((214, 122, 224), (86, 180, 233)):
        assert (np.abs(picture - color).sum(-1) < 6).sum() > 4000
    tokens = np.asarray(Image.open(io.BytesIO(page.locator("#tokens").screenshot())).convert("RGB"))
    assert len(np.unique(tokens.reshape(-1, 3), axis=0)) > 6
    charts = np.asarray(Image.open(io.BytesIO(page.locator("#charts").screenshot())).convert("RGB")).astype(
        int
    )
    assert (np.abs(charts - (240, 92, 92)).sum(-1) < 60).sum() > 50
