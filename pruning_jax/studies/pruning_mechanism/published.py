"""What S0 published of ResNet-20 on CIFAR-10, and what its regimes are called in tables."""

PUBLISHED = {
    "weight": {"fine_tuning": 90.870, "learning_rate_rewinding": 91.897, "small": 89.290},
    "channel": {"fine_tuning": 43.375, "learning_rate_rewinding": 87.138, "small": 88.020},
}
"""S0, Table 1: validation accuracy of ResNet-20 after 5 cycles, in %, by what is pruned and how it
is retrained. The paper gives neither seeds nor errors."""

RENDA = {3.05: (0.41, -0.60), 4.77: (0.02, -1.12), 9.31: (-0.96, -1.95)}
"""Renda et al. (2020), ResNet-20 pruned in cycles: compression -> the median change of accuracy, in
pp, after learning-rate rewinding and after fine-tuning; 3 trials, from their raw results."""

REGIMES = {
    "fine_tuning": "fine-tuning",
    "learning_rate_rewinding": "rewinding",
    "small": "small",
}

PAPER = {
    "network": "ResNet-20; a vanilla CNN whose layers the text does not give",
    "data": "CIFAR-10",
    "training": "SGD, 200 epochs, learning rate .1, divided by 10 at 50 and 75 %",
    "seeds": "not given",
}
"""What S0 ran."""
