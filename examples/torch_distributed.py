"""Train on handwritten digits with the processes that torchrun starts, each on its part of a batch.

DistributedDataParallel averages the gradients; the modules, the loss and the optimizer are ours.

    torchrun --nproc-per-node 2 examples/torch_distributed.py --epochs 20
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import innerloop as il
from innerloop.plugins.torch import AdamW
from innerloop.plugins.torch.modules import CrossEntropyLoss, Linear, Sequential


def main(argv: Sequence[str] | None = None) -> float:
    """Train; return the accuracy on rows not trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="rows, of all processes together")
    options = parser.parse_args(argv)

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))
    torch.set_num_threads(threads)  # the processes share the cores
    il.set_num_threads(threads)

    X, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(y))
    train, test = torch.utils.data.random_split(
        data, [0.75, 0.25], generator=torch.Generator().manual_seed(0)
    )
    sampler: DistributedSampler = DistributedSampler(train, seed=0)
    loader = DataLoader(train, batch_size=options.batch // world, sampler=sampler)

    torch.manual_seed(0)
    model = DistributedDataParallel(
        Sequential(Linear(64, options.hidden, activation="relu"), Linear(options.hidden, 10))
    )
    loss_of = CrossEntropyLoss()
    optimizer = AdamW(model.parameters(), lr=3e-3, max_norm=1.0)
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)  # another order
        total = torch.zeros(2)
        for x, target in loader:
            optimizer.zero_grad()
            loss = loss_of(model(x), target)
            loss.backward()
            optimizer.step()
            total += torch.tensor([loss.item() * len(x), len(x)])
        dist.all_reduce(total)
        if rank == 0:
            print(f"epoch {epoch + 1:3}  loss {total[0] / total[1]:.4f}", flush=True)

    x, target = test[:]
    mine = slice(rank, None, world)
    with torch.no_grad():
        right = (model(x[mine]).argmax(1) == target[mine]).sum()
    dist.all_reduce(right)
    accuracy = right.item() / len(target)
    if rank == 0:
        print(f"{world} processes of {threads} threads, accuracy {accuracy:.4f}")
    dist.destroy_process_group()
    return accuracy


if __name__ == "__main__":
    main()
