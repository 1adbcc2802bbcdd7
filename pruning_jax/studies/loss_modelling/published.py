"""What S3 published, and the names of its criteria and networks in tables."""

METHODS = ("magnitude", "obd", "linear", "quadratic")

ABBREVIATIONS = {"magnitude": "MP", "obd": "OBD", "linear": "LM", "quadratic": "QM"}


def _by_method(*figures: tuple[float, float]) -> dict[str, tuple[float, float]]:
    return dict(zip(METHODS, figures, strict=True))


PUBLISHED = {
    "mlp_mnist": {
        "loss_gap": _by_method((2.02, 0.10), (1.83, 0.11), (1.17, 0.03), (1.05, 0.04)),
        "error_gap": _by_method((2.4, 0.3), (2.0, 0.1), (1.9, 0.3), (1.9, 0.2)),
    },
    "vgg11_cifar10": {
        "loss_gap": _by_method((1.84, 0.44), (0.89, 0.24), (0.90, 0.21), (0.86, 0.22)),
        "error_gap": _by_method((0.2, 0.2), (-0.1, 0.2), (-0.3, 0.1), (-0.1, 0.1)),
    },
    "preact_resnet18_cifar10": {
        "loss_gap": _by_method((2.23, 0.14), (1.95, 0.46), (1.36, 0.18), (1.22, 0.31)),
        "error_gap": _by_method((0.2, 0.2), (0.2, 0.2), (0.1, 0.1), (0.2, 0.2)),
    },
}
"""S3, Table 1 (loss gap, nats) and Table 2 (error gap, pp): mean and spread over 5 seeds."""

LABELS = {
    "mlp_mnist": "A: MLP-300-100, MNIST",
    "mlp_mnist_5k": "A5k: MLP-300-100, 5,000 images of MNIST",
    "small_conv_cifar10": "B: Small Conv, CIFAR-10 subset",
    "vgg11_cifar10": "VGG-11, CIFAR-10",
    "preact_resnet18_cifar10": "PreActResNet-18, CIFAR-10",
    "mlp_digits": "MLP, digits",
}

PAPER = {
    "network": "MLP-300-100 (tanh), VGG-11, PreActResNet-18",
    "data": "MNIST 50,000 / 10,000; CIFAR-10 45,000 / 5,000",
    "training": "SGD, momentum .9, weight decay 5e-4, batches of 100; 800, 300, 200 epochs",
    "seeds": "5",
}
"""What S3 ran."""
