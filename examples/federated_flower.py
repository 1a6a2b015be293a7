"""Federated averaging with Flower, each client a process of its own. Run: python examples/federated_flower.py

Needs Flower (pip install flwr), which reports its use unless FLWR_TELEMETRY_ENABLED=0. Clients send weights, no images.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import torch
from flwr import client, common, server

import forwardonly as fo

CLIENTS, ROUNDS, LOCAL_STEPS, ADDRESS = 4, 10, 20, "127.0.0.1:8479"
TRAIN, _, TEST = fo.data.load("digits")


def network(weights: list[np.ndarray] | None = None) -> fo.Network:
    """A network with such weights; pixels are not standardised, for that would take all clients' images."""
    net = fo.mlp(TRAIN.shape, [100, 100], rule=fo.rules.Hyperspherical(classes=10), standardise=False)
    for own, given in zip(net.parameters(), weights or (), strict=weights is not None):
        own.data.copy_(torch.from_numpy(given))
    return net


class Client(client.NumPyClient):
    def __init__(self, index: int) -> None:
        self.images, self.labels = TRAIN.images[index::CLIENTS], TRAIN.labels[index::CLIENTS]

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        online = fo.training.Online(net := network(parameters), learning_rate=2e-3)
        for drawn in torch.randint(len(self.labels), (LOCAL_STEPS, 32)):
            online.learn(self.images[drawn], self.labels[drawn])
        return [own.detach().numpy() for own in net.parameters()], len(self.labels), {}


def accuracy(turn: int, weights: list[np.ndarray], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    return 0.0, {"accuracy": fo.evaluate(network(weights), TEST).accuracy}


def main() -> float:
    """The accuracy on test images after the last round."""
    first = common.ndarrays_to_parameters([own.detach().numpy() for own in network().parameters()])
    strategy = server.strategy.FedAvg(
        initial_parameters=first, evaluate_fn=accuracy, min_available_clients=CLIENTS, fraction_evaluate=0.0
    )
    processes = [subprocess.Popen([sys.executable, __file__, str(index)]) for index in range(CLIENTS)]
    history = server.start_server(server_address=ADDRESS, config=server.ServerConfig(ROUNDS), strategy=strategy)
    assert all(process.wait() == 0 for process in processes)
    return history.metrics_centralized["accuracy"][-1][1]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        client.start_client(server_address=ADDRESS, client=Client(int(sys.argv[1])).to_client())
    else:
        print("accuracy", main())
