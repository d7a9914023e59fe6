"""Hubs with parameters and results of every kind of type, for the TypeScript compiler to judge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic

from engine import App, Hub

app = App()
T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Item:
    """A thing. */ This would end the comment."""

    name: str
    colour: Colour
    when: datetime
    data: bytes = b""
    parent: Item | None = None
    tags: list[str | None] = field(default_factory=list)


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    tricks: list[str]


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


class Tree(pydantic.BaseModel):
    name: str
    branches: list[Tree] = []
    leaf: Leaf | None = None


class Leaf(pydantic.BaseModel):
    colour: Colour
    odd_name: Annotated[int, pydantic.Field(alias="odd-name")] = 1


class Point(NamedTuple):
    x: float
    y: float


class Options(TypedDict):
    a: int
    b: NotRequired[str]


# Names that TypeScript and the declarations themselves have a use for.


class Subject(msgspec.Struct):
    subject: str


class Record(msgspec.Struct):
    x: int


class Promise(msgspec.Struct):
    kept: bool


class Shop(msgspec.Struct):
    """Called as the hub is."""

    open: bool


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Elsewhere:
    class Item(pydantic.BaseModel):
        """Another thing of the same name."""

        price: float


OtherItem = Elsewhere.Item
ShopRecord = Shop


@app.hub("/typed")
class TypedHub(Hub):
    """Everything."""

    class Client:
        def receive(self, item: Item, level: Level) -> None: ...

        def ask(self, question: str) -> bool: ...

    def put(self, item: Item, level: Level = Level.LOW) -> Item:
        """Store it. */"""
        return item

    def pets(self, pets: list[Cat | Dog]) -> Cat | Dog | None: ...

    def tree(self, node: Node, tree: Tree) -> dict[str, Tree]: ...

    def times(self, day: date, time: time, length: timedelta) -> datetime: ...

    def plain(self, price: Decimal, id: UUID, point: Point, options: Options) -> tuple[int, str]: ...

    def collections(
        self, numbers: set[int], words: frozenset[str], more: tuple[int, ...]
    ) -> dict[int, list[float]]: ...

    def literal(self, kind: Literal["a", 1] | None, number: int | None = None) -> Literal[True]: ...

    def names(self, subject: Subject, record: Record, promise: Promise, shop: ShopRecord) -> Page[Item]: ...

    def other(self, item: OtherItem, leaf: Leaf) -> OtherItem: ...

    def anything(self, x: Any, function: Any) -> Any: ...

    def nothing(self) -> None: ...

    async def numbers(self, n: int) -> AsyncIterator[Item]:
        for _ in range(n):
            yield Item("", Colour.RED, datetime.now())

    async def upload(self, a: AsyncIterator[int], text: str, b: AsyncIterator[Item]) -> int: ...

    async def both(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Node]:
        async for piece in pieces:
            yield Node(len(piece))


@app.hub("/shop")
class Shop(Hub):  # type: ignore[no-redef]
    async def go(self, text: str, thing: Item) -> None:
        await self.clients.all.send("Told", text, thing, 1, text.upper())
        await self.clients.group("a").send("Rest", *[1])
        await self.clients.caller.invoke("Ask", 5)


FirstShop = Shop


@app.hub("/another-shop")
class Shop(Hub):  # type: ignore[no-redef]
    async def close(self) -> None: ...


app.hub("/again")(FirstShop)
