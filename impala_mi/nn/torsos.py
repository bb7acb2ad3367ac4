"""Torsos: frames to features. Frames arrive as uint8, channels last, and convolutions keep channels last."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.errors import UserError
from impala_mi.nn.packed import Layer, convolution, convolution_of_bytes, forget, linear, packs
from impala_mi.nn.precision import compute_dtype

WIDTH = 256
"""Features of every torso."""


def make_torso(kind: str, frame_shape: tuple[int, ...]) -> nn.Module:
    """Torso [..., *frame_shape] -> [..., 256]; raises `UserError` if the frames do not suit it."""
    if kind == "mlp":
        return _initialised(MLP(frame_shape))
    smallest = Shallow.SMALLEST if kind == "shallow" else 1
    if len(frame_shape) != 3 or min(frame_shape[:2]) < smallest:
        raise UserError(
            f"agent.torso={kind!r} needs frames [height, width, channels] of at least {smallest} pixels a side, "
            f"but the suite's observations are {list(frame_shape)}; use agent.torso=mlp"
        )
    return _initialised(Shallow(frame_shape) if kind == "shallow" else Deep(frame_shape))


def _initialised(torso: nn.Module) -> nn.Module:
    """Torso with orthogonal weights of a ReLU's gain: PyTorch's default shrinks features from layer to layer."""
    for module in torso.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:  # whose QR loads a compiler
            nn.init.orthogonal_(module.weight, 2**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return torso


def first_conv(conv: nn.Conv2d, frame: Shaped[Tensor, "*N h w c"]) -> Float[Tensor, "M o h2 w2"]:
    """Convolution of frames scaled to [0, 1], without copying or rescaling the frames.

    Frames lie in memory as channels-last tensors, and convolutions keep that format. The kernel is scaled instead
    of the frames. If the stride s divides the widths of frame and kernel, s adjacent pixels of c channels are read
    as one pixel of s c channels: the sums are the same, but few channels would leave vector units empty (a third of
    the time in bfloat16 on a CPU).
    """
    side = _side(conv, frame.shape[-2])
    x, weight = frame.to(compute_dtype(conv.weight)).flatten(end_dim=-4), conv.weight * (1 / 255)
    return F.conv2d(_pixels(x, side), _kernel(weight, side), conv.bias, _stride(conv, side), conv.padding)


def _side(conv: nn.Conv2d, width: int) -> int:
    """Number of adjacent pixels that are read as one, for frames of that width."""
    (_, columns), (_, stride) = conv.kernel_size, conv.stride
    return 1 if width % stride or columns % stride or conv.padding != (0, 0) else stride


def _pixels(frame: Shaped[Tensor, "N h w c"], side: int) -> Shaped[Tensor, "N C h W"]:
    return frame.unflatten(2, (-1, side)).flatten(3).permute(0, 3, 1, 2)


def _kernel(weight: Float[Tensor, "o c k l"], side: int) -> Float[Tensor, "o C k L"]:
    return weight.unflatten(3, (-1, side)).permute(0, 4, 1, 2, 3).flatten(1, 2)


def _stride(conv: nn.Conv2d, side: int) -> tuple[int, int]:
    rows, columns = conv.stride
    return rows, columns // side


class Shallow(nn.Module):
    """Shallow torso: conv 16 8x8 stride 4, conv 32 4x4 stride 2, linear 256, ReLUs (paper, appendix E)."""

    SMALLEST = 20

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, channels = frame_shape
        self.conv1 = nn.Conv2d(channels, 16, 8, 4)
        self.conv2 = nn.Conv2d(16, 32, 4, 2)
        rows, columns = (((side - 8) // 4 + 1 - 4) // 2 + 1 for side in (height, width))
        self.linear = nn.Linear(32 * rows * columns, WIDTH)
        self.packed: tuple[Layer, ...] | None = None
        self.register_load_state_dict_post_hook(forget)

    def forward(self, frame: Shaped[Tensor, "*N h w c"]) -> Float[Tensor, "*N 256"]:
        """[..., 256]."""
        if frame.dtype == torch.uint8 and packs(self.linear.weight):
            return self._act(frame.flatten(end_dim=-4)).unflatten(0, frame.shape[:-3])
        self.packed = None
        x = F.relu_(first_conv(self.conv1, frame))
        x = F.relu_(self.conv2(x))
        return F.relu_(self.linear(x.flatten(1))).unflatten(0, frame.shape[:-3])

    def _act(self, frame: Shaped[Tensor, "N h w c"]) -> Float[Tensor, "N 256"]:
        side = _side(self.conv1, frame.shape[2])
        x = _pixels(frame, side)
        if self.packed is None:
            first = convolution_of_bytes(
                _kernel(self.conv1.weight, side), self.conv1.bias, _stride(self.conv1, side), x.shape
            )
            second = convolution(self.conv2, first(x).shape)
            self.packed = first, second, linear(self.linear.weight, self.linear.bias, len(x), relu=True)
        first, second, last = self.packed
        return last(second(first(x)).flatten(1))


def same_max_pool(x: Float[Tensor, "N c h w"]) -> Float[Tensor, "N c h2 w2"]:
    """Max pooling 3x3, stride 2, with TensorFlow's SAME padding: an odd pixel is added at the end."""
    pad = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        pad += [total // 2, total - total // 2]
    return F.max_pool2d(F.pad(x, pad, value=float("-inf")), 3, 2)


class ResidualBlock(nn.Module):
    """Residual block: x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the shape of x."""
        return x + self.conv2(F.relu_(self.conv1(F.relu(x))))


class Deep(nn.Module):
    """Deep torso: residual sections of 16, 32, 32 channels, linear 256 (IMPALA, figure 3 right)."""

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, channels = frame_shape
        self.convs, self.blocks = nn.ModuleList(), nn.ModuleList()
        for out in (16, 32, 32):
            self.convs.append(nn.Conv2d(channels, out, 3, padding=1))
            self.blocks.append(nn.Sequential(ResidualBlock(out), ResidualBlock(out)))
            channels, height, width = out, -(-height // 2), -(-width // 2)
        self.linear = nn.Linear(channels * height * width, WIDTH)

    def forward(self, frame: Shaped[Tensor, "*N h w c"]) -> Float[Tensor, "*N 256"]:
        """[..., 256]."""
        x = frame
        for i, (conv, block) in enumerate(zip(self.convs, self.blocks, strict=True)):
            assert isinstance(conv, nn.Conv2d)
            x = block(same_max_pool(conv(x) if i else first_conv(conv, frame)))
        return F.relu_(self.linear(F.relu(x).flatten(1))).unflatten(0, frame.shape[:-3])


class MLP(nn.Module):
    """MLP torso: two linear layers of 256 with tanh, for vectors and very small images."""

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        super().__init__()
        self._dimensions, size = len(frame_shape), int(torch.Size(frame_shape).numel())
        self.layers = nn.Sequential(nn.Linear(size, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())

    def forward(self, frame: Shaped[Tensor, "..."]) -> Float[Tensor, "... 256"]:
        """[..., 256] of [..., *frame_shape]; uint8 is scaled to [0, 1], floats are taken as they are."""
        x = frame.flatten(-self._dimensions).to(compute_dtype(next(self.parameters())))
        return self.layers(x / 255 if frame.dtype == torch.uint8 else x)


class FeatureFilm(nn.Module):
    """FiLM of a torso's features (Perez et al., 2018): f -> (1 + z^T G) * f + z^T U, the identity at the start.

    There is no random draw, so the other weights start as those of an agent without it. z is a one-hot level or an
    embedded instruction.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.G = nn.Parameter(torch.zeros(width, WIDTH))
        self.U = nn.Parameter(torch.zeros(width, WIDTH))

    def forward(self, features: Float[Tensor, "*d 256"], z: Float[Tensor, "*d m"]) -> Float[Tensor, "*d 256"]:
        """[..., 256]."""
        return (1 + z @ self.G) * features + z @ self.U
