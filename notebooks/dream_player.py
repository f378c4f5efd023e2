"""A dream to play in a notebook: buttons, and the keyboard once the picture has been clicked (needs anywidget)."""

import io
from typing import Any

import anywidget
import traitlets
from PIL import Image

from iris_wm.dream.env import DreamEnv

_KEYS = {"ArrowLeft": "LEFT", "ArrowRight": "RIGHT", "ArrowUp": "UP", "ArrowDown": "DOWN", " ": "FIRE"}


class DreamPlayer(anywidget.AnyWidget):
    """Shows a DreamEnv; every button and key is one step. A click on the picture lets it listen to the keyboard.

    action_names: one an action; the arrow keys and the space bar find LEFT, RIGHT, UP, DOWN and FIRE among them.
    """

    _esm = """
    function render({ model, el }) {
      const box = document.createElement("div"); box.tabIndex = 0; box.style.display = "inline-block";
      const picture = document.createElement("img"); picture.style.imageRendering = "pixelated"; picture.width = 320;
      const text = document.createElement("pre"); const buttons = document.createElement("div");
      const show = () => {
        picture.src = URL.createObjectURL(new Blob([model.get("picture").buffer], { type: "image/png" }));
        text.textContent = model.get("text");
      };
      for (const name of [...model.get("names"), "new dream"]) {
        const button = document.createElement("button"); button.textContent = name; button.style.margin = "2px";
        button.onclick = () => { model.send({ press: name }); box.focus(); }; buttons.append(button);
      }
      box.onkeydown = (event) => { model.send({ key: event.key }); event.preventDefault(); event.stopPropagation(); };
      model.on("change:picture", show); box.append(picture, text, buttons); el.append(box); show();
    }
    export default { render };
    """
    picture = traitlets.Bytes(b"").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, env: DreamEnv, action_names: list[str], seed: int = 0) -> None:
        super().__init__(names=list(action_names))
        self.env, self.frames = env, []
        self.on_msg(self._on_message)
        self.begin(seed)

    def begin(self, seed: int | None = None) -> None:
        """A new dream."""
        observation, _ = self.env.reset(seed=seed)
        self.steps, self.total, self.is_over, self.frames = 0, 0.0, False, [observation]
        self._show("a real frame; press a button")

    def press(self, name: str) -> None:
        """One step by the name of an action, or "new dream"."""
        if name == "new dream":
            self.begin()
            return
        if self.is_over:
            return
        observation, reward, terminated, truncated, info = self.env.step(self.names.index(name))
        self.steps, self.total = self.steps + 1, self.total + reward
        self.is_over = terminated or truncated
        self.frames.append(observation)
        self._show(
            f"{name}: reward {reward:+g}, return {self.total:g}\n"
            f"chance of an end {100 * info['termination_probability']:.0f} %, "
            f"token entropy {info['token_entropy'].mean():.2f} nats" + ("\nover" if self.is_over else "")
        )

    def _on_message(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """From the browser: a button's name or a key."""
        name = content.get("press") or _KEYS.get(str(content.get("key")))
        if name == "new dream" or name in self.names:
            self.press(name)

    def _show(self, text: str) -> None:
        buffer = io.BytesIO()
        Image.fromarray(self.frames[-1]).save(buffer, format="PNG")
        self.text, self.picture = f"step {self.steps}\n{text}", buffer.getvalue()
