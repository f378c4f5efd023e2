"""The notebook's player: real keys and clicks in a real browser are steps of the dream, and its pictures are shown."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iris_wm.dream.env import DreamEnv

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
pytest.importorskip("anywidget")

# What Jupyter gives a widget: a model whose values Python sets, and which carries messages to Python.
PAGE = """
<body><div id="cell"></div><script type="module">
const values = {}, handlers = {}, sent = [];
const model = { get: name => values[name], on: (event, act) => { handlers[event] = act; },
                send: message => sent.push(message) };
window.take = () => sent.splice(0);
window.set = next => {
  const bytes = Uint8Array.from(atob(next.picture), letter => letter.charCodeAt(0));
  Object.assign(values, next, { picture: new DataView(bytes.buffer) });
  if (handlers["change:picture"]) handlers["change:picture"]();
};
window.begin = async source => {
  const widget = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  widget.default.render({ model, el: document.getElementById("cell") });
};
</script></body>
"""


class Cell:
    """The player in a page, and the wire between the two."""

    def __init__(self, page, player) -> None:
        self.page, self.player = page, player
        page.set_content(PAGE)
        page.wait_for_function("typeof window.begin === 'function'")
        self.show()
        page.evaluate("source => begin(source)", player._esm)

    def show(self) -> None:
        values = {"text": self.player.text, "names": self.player.names}
        picture = base64.b64encode(self.player.picture).decode()
        self.page.evaluate("values => set(values)", {**values, "picture": picture})

    def answer(self) -> None:
        """What Python does with what the page has sent."""
        for message in self.page.evaluate("take()"):
            self.player._on_message(self.player, message, [])
        self.show()

    def text(self) -> str:
        return self.page.inner_text("pre")


@pytest.fixture
def cell(tiny_agent, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "notebooks"))
    from dream_player import DreamPlayer

    agent = tiny_agent()
    with torch.no_grad():  # a dream that does not end by itself
        agent.world.termination_head[-1].bias.copy_(torch.tensor([9.0, -9.0]))
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    player = DreamPlayer(DreamEnv(agent, frames, horizon=6), ["NOOP", "LEFT", "RIGHT"])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield Cell(page, player)
        assert problems == []
        browser.close()


def test_keys_buttons_and_a_new_dream(cell):
    assert "step 0" in cell.text()
    assert cell.page.locator("button").all_inner_texts() == ["NOOP", "LEFT", "RIGHT", "new dream"]
    cell.page.click("img")
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "q"):  # the game has no UP, and Q is no key of it
        cell.page.keyboard.press(key)
    cell.answer()
    assert cell.text().startswith("step 2\nRIGHT:")
    cell.page.click("text=NOOP")
    cell.page.keyboard.press("ArrowLeft")  # a click on a button leaves the keyboard to the picture
    cell.answer()
    assert cell.text().startswith("step 4\nLEFT:")
    for _ in range(4):
        cell.page.keyboard.press("ArrowLeft")
    cell.answer()
    assert cell.text().startswith("step 6\n"), "the dream is over after six steps"
    assert "over" in cell.text()
    cell.page.click("text=new dream")
    cell.answer()
    assert cell.text().startswith("step 0\n")


def test_the_page_shows_the_dreamed_frame(cell):
    cell.player.press("LEFT")
    cell.show()
    cell.page.wait_for_function("document.querySelector('img').naturalWidth === 64")
    shown = np.asarray(Image.open(io.BytesIO(cell.page.locator("img").screenshot())).convert("RGB"))
    assert np.array_equal(shown[2::5, 2::5], cell.player.frames[-1])
