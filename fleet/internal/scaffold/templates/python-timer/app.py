from wit_world import exports
from wit_world.exports.handler import Tick
from wit_world.imports import atomics, producer, store
from wit_world.imports.types import Client, Message


class Handler(exports.Handler):
    # What it counts and publishes takes effect when it returns; an error undoes it, and the tick is tried again.
    def handle(self, tick: Tick) -> None:
        n = atomics.increment(store.open("default"), "ticks", 1)
        producer.send(Client.connect("default"), "ticks", Message(f"{tick.timer} {n}".encode()))
