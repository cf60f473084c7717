"""The work queue: what is looked at, and how often all is."""

import asyncio
from itertools import pairwise

from airtap.macnat.workqueue import EVERYTHING, Devices, WorkQueue


def test_all_is_looked_at_a_tenth_of_the_time_at_most() -> None:
    """Single devices need not wait for that."""
    looks: list[tuple[float, Devices]] = []

    async def look(devices: Devices) -> float:
        looks.append((asyncio.get_running_loop().time(), devices))
        return 0.05 if None in devices else 0.0

    async def churn() -> None:
        queue = WorkQueue(look)
        for _ in range(100):
            queue.enqueue()
            queue.enqueue(7)
            await asyncio.sleep(0.01)
        await queue.close()

    asyncio.run(churn())
    all_of_them = [time for time, devices in looks if None in devices]
    assert len(all_of_them) >= 2
    assert all(later - one >= 0.44 for one, later in pairwise(all_of_them))
    assert len([1 for _, devices in looks if 7 in devices]) > 5


def test_what_came_in_meanwhile_is_looked_at_in_the_end() -> None:
    looks: list[Devices] = []

    async def look(devices: Devices) -> float:
        looks.append(devices)
        await asyncio.sleep(0.01)
        return 0.01

    async def run() -> None:
        queue = WorkQueue(look)
        for expected in (1, 2):
            queue.enqueue()
            while len(looks) < expected:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
        await queue.close()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert looks == [EVERYTHING, EVERYTHING]
