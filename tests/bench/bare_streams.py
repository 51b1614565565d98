"""`python -m tests.bench.bare_streams ENVIRONMENT APP`: Modal's client alone, following what every running sandbox of an app prints; says once that it does."""

import asyncio
import sys

import modal


async def main(environment: str, app: str) -> None:
    modal.config.config.override_locally("sandbox_v2", "0")
    client = await modal.Client.from_env.aio()
    handle = await modal.App.lookup.aio(app, environment_name=environment, client=client)
    heard: set[str] = set()

    async def follow(sandbox: modal.Sandbox) -> None:
        async for _ in sandbox.stdout:
            heard.add(sandbox.object_id)

    following = [asyncio.create_task(follow(s)) async for s in modal.Sandbox.list.aio(app_id=handle.app_id, client=client)]
    while len(heard) < len(following):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    print(len(following), flush=True)
    await asyncio.gather(*following)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
