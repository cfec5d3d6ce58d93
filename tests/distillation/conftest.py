"""Processes that meet, for the tests of what they do together."""

import multiprocessing
import os
import socket
from multiprocessing.connection import wait

import pytest

from t3d.distillation import processes


@pytest.fixture(scope="session")
def in_processes():
    """Run a function of the rank in several processes that meet, and return what it returned in each.

    None for one that died; the others are then ended, as a launcher would end them. Forked, they load no PyTorch again.
    """

    def run(function, rank, there, said):
        os.environ |= there | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.join("cpu")
        said.send(function(rank))
        said.close()
        processes.leave()

    def start(function, count=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        there |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
        context = multiprocessing.get_context("fork")
        started, rank_of = [], {}
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            started.append(context.Process(target=run, args=(function, rank, there, theirs), daemon=True))
            started[-1].start()
            theirs.close()
            rank_of[ours] = rank
        heard = [None] * count
        while rank_of:
            found = wait(list(rank_of), timeout=60)
            assert found, "the processes wait for each other"
            for ours in found:
                rank = rank_of.pop(ours)
                try:
                    heard[rank] = ours.recv()
                except EOFError:
                    for process in started:
                        process.kill()
        for process in started:
            process.join(10)
        return heard

    return start
