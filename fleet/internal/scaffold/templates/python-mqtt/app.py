from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import atomics, producer, store
from wit_world.imports.types import Client, Error_Other, Message

LIMIT = 30


class IncomingHandler(exports.IncomingHandler):
    # What it counts and publishes takes effect when it returns; an error undoes it, and the message is tried again.
    def handle(self, message: Message) -> None:
        text = message.data().decode()
        try:
            value = float(text)
        except ValueError as error:
            raise Err(Error_Other(str(error)))
        if value <= LIMIT:
            return
        alerts = atomics.increment(store.open("default"), "alerts", 1)
        alert = f"{text} is above {LIMIT}, alert {alerts}"
        producer.send(Client.connect("default"), f"alerts/{message.topic()}", Message(alert.encode()))
