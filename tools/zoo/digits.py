"""Three trained classifiers of handwritten digits, with calibration and test data.

`python -m zoo.digits` trains what is missing and prints the size and accuracy of each.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zoo import cache, images, networks, training
from zoo.metric import Inputs, accuracy
from zoo.training import Recipe

BATCH = 32
CALIBRATION_BATCHES = 8
RECIPES = {
    "residual_cnn": Recipe(networks.ResidualCnn, epochs=20, rate=3e-3, decay=0.05),
    "depthwise_cnn": Recipe(networks.DepthwiseCnn, epochs=30, rate=4e-3, decay=0.05),
    "vit": Recipe(networks.VisionTransformer, epochs=50, rate=1e-3, decay=0.05),
}
Example = tuple[nn.Module, tuple[Tensor, ...]]


def residual_cnn() -> Example:
    """Trained residual CNN and an example input, float32 [1, 1, 16, 16]."""
    return trained("residual_cnn")


def depthwise_cnn() -> Example:
    """Trained depthwise CNN and an example input, float32 [1, 1, 16, 16]."""
    return trained("depthwise_cnn")


def vit() -> Example:
    """Trained vision transformer and an example input, float32 [1, 1, 16, 16]."""
    return trained("vit")


def trained(name: str) -> Example:
    """The network of a recipe with its weights from the cache; trains it if they are missing."""
    recipe = RECIPES[name]
    modules = (images, networks, training)
    sources = [Path(__file__), *(Path(str(module.__file__)) for module in modules)]
    weights = cache.weights(name, sources, lambda: training.train(recipe))
    model = recipe.network()
    model.load_state_dict(weights)
    _, test = images.load()
    return model.eval(), (torch.from_numpy(test.x[:1]),)


def calibration() -> Iterator[Inputs]:
    """Batches `x`, float32 [32, 1, 16, 16], of the first 256 training images."""
    train, _ = images.load()
    for start in range(0, BATCH * CALIBRATION_BATCHES, BATCH):
        yield {"x": train.x[start : start + BATCH]}


def evaluation() -> Iterator[tuple[Inputs, NDArray[np.int64]]]:
    """The whole test split: `x`, float32 [up to 32, 1, 16, 16], and its labels, int64 [batch]."""
    _, test = images.load()
    for start in range(0, len(test.x), BATCH):
        rows = slice(start, start + BATCH)
        yield {"x": test.x[rows]}, test.labels[rows]


def measure(model: nn.Module) -> float:
    """Accuracy of a network on the test split, in PyTorch."""
    with torch.inference_mode():
        batches = [
            ({"logits": model(torch.from_numpy(inputs["x"])).numpy()}, labels)
            for inputs, labels in evaluation()
        ]
    return accuracy(batches)


def main() -> None:
    """Train what is missing and print a table."""
    table = Table("model", "parameters", "seconds", "test accuracy")
    for name in RECIPES:
        start = time.perf_counter()
        model, _ = trained(name)
        seconds = time.perf_counter() - start
        parameters = sum(parameter.numel() for parameter in model.parameters())
        table.add_row(name, f"{parameters:,}", f"{seconds:.1f}", f"{measure(model):.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
