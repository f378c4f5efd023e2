"""Each term of the tokenizer's loss by hand, and LPIPS refused clearly where it cannot be had."""

import builtins
import sys
import types

import pytest
import torch

from iris_wm.tokenizer.learner import LPIPS, TokenizerLossConfig, tokenizer_loss
from iris_wm.tokenizer.tokenizer import TokenizerOutput

ZEROS = {"l1": 0.0, "l2": 0.0, "max_pixel": 0.0}


@pytest.fixture
def targets() -> torch.Tensor:
    """Two frames of 2x2 pixels, black but for one bright pixel in the second."""
    frames = -torch.ones(2, 3, 2, 2)
    frames[1, :, 0, 0] = 1.0
    return frames


@pytest.fixture
def output(targets) -> TokenizerOutput:
    """Off by 0.5 in one channel of one pixel of the first, by 1 in all of the bright pixel of the second."""
    reconstructions = targets.clone()
    reconstructions[0, 1, 1, 1] += 0.5
    reconstructions[1, :, 0, 0] -= 1.0
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    return TokenizerOutput(torch.zeros(2, 4, 1, 1), tokens, reconstructions, torch.tensor(0.25))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"l1": 1.0}, (0.5 + 3 * 1.0) / 24),
        ({"l2": 1.0}, (0.25 + 3 * 1.0) / 24),
        ({"max_pixel": 1.0}, (0.25 + 1.0) / 2),
        # Only the bright pixel differs from the median frame (of two, the darker), and only in its own frame.
        ({"moving_pixels": 1.0}, (0.0 + 1.0) / 2),
        ({"l1": 2.0, "l2": 3.0}, 2 * 3.5 / 24 + 3 * 3.25 / 24),
        ({}, 0.0),
    ],
)
def test_pixel_terms_by_hand(output, targets, weights, expected):
    losses = tokenizer_loss(output, targets, TokenizerLossConfig(**{**ZEROS, **weights}))
    assert losses["reconstruction_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["commitment_loss"].item() == 0.25
    assert losses.keys() == {"commitment_loss", "reconstruction_loss"}


def test_where_nothing_moves_there_is_no_moving_term(output, targets):
    config = TokenizerLossConfig(**ZEROS, moving_pixels=1.0)
    still = targets[:1].expand(2, -1, -1, -1)
    assert tokenizer_loss(output, still, config)["reconstruction_loss"].item() == 0


def test_a_flash_counts_no_more_than_a_small_object():
    """Three black frames, one of them with an object of one pixel; in the fourth everything is white."""
    targets = -torch.ones(4, 3, 4, 4)
    targets[1, :, 0, 0] = 1.0
    targets[3] = 1.0
    blind = TokenizerOutput(
        torch.zeros(4, 4, 1, 1), torch.zeros(4, 1), -torch.ones_like(targets), torch.tensor(0.0)
    )
    loss = tokenizer_loss(blind, targets, TokenizerLossConfig(**ZEROS, moving_pixels=1.0))
    assert loss["reconstruction_loss"].item() == pytest.approx((4.0 + 4.0) / 4)


def test_perceptual_term_is_named(output, targets):
    class Distance(torch.nn.Module):
        def forward(self, reconstructions, targets):
            return (reconstructions - targets).abs().max()

    losses = tokenizer_loss(output, targets, TokenizerLossConfig(), Distance())
    assert losses["perceptual_loss"].item() == 1.0


@pytest.mark.parametrize("name", ["l1", "l2", "max_pixel", "moving_pixels"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: got .*, expected a number of at least 0"):
        TokenizerLossConfig(**{name: value})


@pytest.mark.parametrize("path", ["", "missing.pt"])
def test_lpips_without_its_file_is_refused_with_what_to_do(tmp_path, path):
    with pytest.raises(ValueError, match=r"perceptual_weights: no file .*perceptual: none") as caught:
        TokenizerLossConfig(perceptual="lpips", perceptual_weights=str(tmp_path / path) if path else "")
    assert "\n" not in str(caught.value)


@pytest.fixture
def weights_file(tmp_path) -> str:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "lpips.pt")
    return str(tmp_path / "lpips.pt")


def test_lpips_without_torchvision_is_refused_with_what_to_install(weights_file, monkeypatch):
    assert TokenizerLossConfig(perceptual="lpips", perceptual_weights=weights_file).perceptual == "lpips"
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    import_module = builtins.__import__

    def without_torchvision(name, *args, **kwargs):
        if name.split(".")[0] == "torchvision":
            raise ImportError("No module named 'torchvision'")
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torchvision)
    with pytest.raises(ValueError, match=r"torchvision; install iris-wm\[perceptual\]"):
        LPIPS(weights_file)


WIDTHS = (4, 4, "pool", 6, 6, "pool", 8, 8, 8, "pool", 8, 8, 8, "pool", 8, 8, 8, "pool")


def small_vgg16(weights: None) -> types.SimpleNamespace:
    """VGG16's layers in their order, a few feature maps wide."""
    layers, before = [], 3
    for width in WIDTHS:
        if width == "pool":
            layers.append(torch.nn.MaxPool2d(2))
        else:
            layers += [torch.nn.Conv2d(before, width, 3, padding=1), torch.nn.ReLU()]
            before = width
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


@pytest.fixture
def lpips_state(monkeypatch) -> dict[str, torch.Tensor]:
    models = types.ModuleType("torchvision.models")
    models.vgg16 = small_vgg16
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in small_vgg16(None).features.state_dict().items()}
    for i, width in enumerate((4, 6, 8, 8, 8)):
        state[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1)
    return state


def test_lpips_by_hand(lpips_state, tmp_path):
    torch.save(lpips_state, tmp_path / "lpips.pt")
    distance = LPIPS(str(tmp_path / "lpips.pt"))
    first, second = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert distance(first, first).item() == 0
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    expected, maps = 0.0, [(first - shift) / scale, (second - shift) / scale]
    for i, layer in enumerate(small_vgg16(None).features[:30]):
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = lpips_state[f"features.{i}.weight"]
            layer.bias.data = lpips_state[f"features.{i}.bias"]
        maps = [layer(each) for each in maps]
        if i in (3, 8, 15, 22, 29):
            unit = [each / each.norm(dim=1, keepdim=True).clamp_min(1e-10) for each in maps]
            weight = lpips_state[f"lin{(3, 8, 15, 22, 29).index(i)}.model.1.weight"]
            expected = expected + ((unit[0] - unit[1]).square() * weight).sum(1).mean()
    assert distance(first, second).item() == pytest.approx(expected.item(), rel=1e-4)


def test_lpips_is_frozen_and_lets_the_gradient_through(lpips_state, tmp_path):
    torch.save(lpips_state, tmp_path / "lpips.pt")
    distance = LPIPS(str(tmp_path / "lpips.pt")).train()
    assert not distance.training
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    frames = torch.rand(1, 3, 32, 32, requires_grad=True)
    distance(frames, torch.zeros(1, 3, 32, 32)).backward()
    assert frames.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("features.28.bias", r"is not LPIPS VGG16: 'features.28.bias' is missing"),
        ("lin3.model.1.weight", r"is not LPIPS VGG16: 'lin3.model.1.weight' is missing"),
    ],
)
def test_lpips_with_a_tensor_missing_is_refused(lpips_state, tmp_path, name, message):
    del lpips_state[name]
    torch.save(lpips_state, tmp_path / "lpips.pt")
    with pytest.raises(ValueError, match=message):
        LPIPS(str(tmp_path / "lpips.pt"))


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors", "list.pt"])
def test_a_file_that_is_no_state_dict_is_refused_in_one_line(lpips_state, tmp_path, name):
    if name == "list.pt":
        torch.save([1, 2], tmp_path / name)
    else:
        (tmp_path / name).write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="perceptual_weights: ") as caught:
        LPIPS(str(tmp_path / name))
    assert "\n" not in str(caught.value)
