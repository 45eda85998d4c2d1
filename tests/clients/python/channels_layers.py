"""Channels: both of its Redis layers, as servers of WebSockets use them: one process receives, another sends.

The core layer keeps messages in sorted sets that are popped by BZPOPMIN and moved by scripts; the other layer
publishes and subscribes. Two layer objects stand for two server processes.
"""

import asyncio
import contextlib

import redis.asyncio as redis
from channels.exceptions import ChannelFull
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from stage import PATIENCE_S, PROTOCOL, URL, expect, perform, until_async

# The address of one Redis, as the layers hand it to redis-py.
HOST = {"address": URL, "protocol": PROTOCOL}
LAYERS = (RedisChannelLayer, RedisPubSubChannelLayer)


@contextlib.asynccontextmanager
async def two_processes(layer):
    """Two layers that share a prefix of their own."""
    prefix = f"channels:{layer.__name__}"
    pair = [layer(hosts=[HOST], prefix=prefix) for _ in range(2)]
    yield pair
    for one in pair:
        await (one.close_pools() if layer is RedisChannelLayer else one.flush())


async def receive(layer, channel):
    return await asyncio.wait_for(layer.receive(channel), PATIENCE_S)


async def a_message_finds_its_channel():
    for layer in LAYERS:
        async with two_processes(layer) as (here, there):
            channel = await here.new_channel()
            # Who asks first waits; the message comes from another process.
            waiting = asyncio.create_task(receive(here, channel))
            message = {"type": "chat.message", "text": "grüße", "bytes": bytes(range(256)), "n": [1, None]}
            await subscribed(here, 1)
            await there.send(channel, message)
            expect(await waiting, message)


async def subscribed(layer, count):
    """Waits until this many subscriptions stand: what is published before reaches nobody, as with any publisher."""
    if isinstance(layer, RedisPubSubChannelLayer):
        async with redis.Redis.from_url(URL, protocol=PROTOCOL) as client:

            async def stand():
                channels = await client.pubsub_channels(f"{layer.prefix}*")
                return sum(number for _, number in await client.pubsub_numsub(*channels)) == count

            await until_async(f"{count} subscriptions stand", stand)


async def a_group_reaches_all_its_members_and_nobody_else():
    for layer in LAYERS:
        async with two_processes(layer) as (here, there):
            members = [await here.new_channel() for _ in range(5)] + [await there.new_channel() for _ in range(5)]
            owners = [here] * 5 + [there] * 5
            for owner, member in zip(owners, members):
                await owner.group_add("room", member)
            stranger = await here.new_channel()
            # Eleven channels, and the group in both processes.
            await subscribed(here, 13)
            for number in range(20):
                await there.group_send("room", {"type": "tick", "number": number})
            for owner, member in zip(owners, members):
                got = [(await receive(owner, member))["number"] for _ in range(20)]
                expect(got, list(range(20)))
            # One leaves: what comes then reaches the others only.
            await here.group_discard("room", members[0])
            await there.group_send("room", {"type": "last"})
            for owner, member in list(zip(owners, members))[1:]:
                expect(await receive(owner, member), {"type": "last"})
            for nobody in (stranger, members[0]):
                with contextlib.suppress(asyncio.TimeoutError):
                    raise AssertionError(await asyncio.wait_for(here.receive(nobody), 0.1))


async def many_consumers_at_once():
    async with two_processes(RedisChannelLayer) as (here, there):
        channels = [await here.new_channel() for _ in range(30)]
        receiving = [asyncio.create_task(receive(here, channel)) for channel in channels]
        await asyncio.gather(*[there.send(channel, {"type": "to", "me": channel}) for channel in channels])
        expect([message["me"] for message in await asyncio.gather(*receiving)], channels)


async def a_full_channel_says_so():
    small = RedisChannelLayer(hosts=[HOST], prefix="channels:small", capacity=3)
    channel = await small.new_channel()
    for number in range(3):
        await small.send(channel, {"type": "fits", "number": number})
    try:
        await small.send(channel, {"type": "too much"})
        raise AssertionError("a channel took more than its capacity")
    except ChannelFull:
        pass
    expect([(await receive(small, channel))["number"] for _ in range(3)], [0, 1, 2])
    await small.close_pools()


perform(
    a_message_finds_its_channel,
    a_group_reaches_all_its_members_and_nobody_else,
    many_consumers_at_once,
    a_full_channel_says_so,
)
