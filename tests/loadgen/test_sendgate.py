import asyncio

from ratematch.loadgen.sendgate import SendGate


def test_a_few_at_a_time_in_order_and_without_the_cancelled() -> None:
    async def crowd() -> list[tuple[int, int]]:
        gate = SendGate(3)
        iteration = 0
        passed: list[tuple[int, int]] = []

        async def count() -> None:
            nonlocal iteration
            while True:
                iteration += 1
                await asyncio.sleep(0)

        async def go(number: int) -> None:
            await gate.wait()
            passed.append((iteration, number))

        counter = asyncio.create_task(count())
        tasks = [asyncio.create_task(go(number)) for number in range(10)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0.01)
        await asyncio.wait_for(go(99), 10)  # free again after the crowd
        counter.cancel()
        return passed

    passed = asyncio.run(crowd())
    assert [number for _, number in passed] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 99]
    iterations = [iteration for iteration, _ in passed]
    assert max(map(iterations.count, iterations)) == 3
