"""The project's sequential networks in PyTorch, with the same weights."""

import numpy as np


def channels_first(images: np.ndarray) -> np.ndarray:
    """Images from (examples, height, width, channels) to PyTorch's order."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def network(params: dict):
    """A stack of convolutions with ReLU and 2x2 max pooling, then dense layers with ReLU.

    Args:
      params: layer -> {"kernel", "bias"}; names sort in the order of the layers within a kind.
    """
    from torch import nn

    convolutions = [params[name] for name in sorted(params) if params[name]["kernel"].ndim == 4]
    dense = [params[name] for name in sorted(params) if params[name]["kernel"].ndim == 2]
    parts, channels = [], 1
    for layer in convolutions:
        kernel = np.array(layer["kernel"])
        height, width, inputs, channels = kernel.shape
        module = nn.Conv2d(inputs, channels, (height, width))
        _set(module, kernel.transpose(3, 2, 0, 1), layer["bias"])
        parts += [module, nn.ReLU(), nn.MaxPool2d(2)]
    parts.append(nn.Flatten())
    for number, layer in enumerate(dense):
        kernel = np.array(layer["kernel"])
        if number == 0:
            positions = kernel.shape[0] // channels if convolutions else 1
            kernel = kernel.reshape(positions, -1, kernel.shape[1]).swapaxes(0, 1)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        module = nn.Linear(*kernel.shape)
        _set(module, kernel.T, layer["bias"])
        parts += [module, nn.ReLU()] if number < len(dense) - 1 else [module]
    return nn.Sequential(*parts)


def _set(module, weight: np.ndarray, bias: np.ndarray) -> None:
    from torch import from_numpy

    module.weight.data = from_numpy(np.ascontiguousarray(weight))
    module.bias.data = from_numpy(np.array(bias))
