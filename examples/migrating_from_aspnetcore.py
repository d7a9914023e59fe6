"""A hub that was written for ASP.NET Core, line by line. Its clients stay as they are.

    python -m engine serve examples.migrating_from_aspnetcore:app

What changes: `Async` and `Task` go, a CancellationToken becomes the cancellation of the method itself, services
come from the module or from `app.state`, and PascalCase names are made from Python's (SendMessage, send_message).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

from engine import App, Hub, HubFilter, Request, Response, authorize
from engine.errors import HubError
from engine.signalr.auth import User, bearer_token
from engine.signalr.filters import HubInvocation
from engine.transport.exchange import RequestHead


class Message(msgspec.Struct, rename="camel"):  # public record Message(string SenderName, string Text); camelCase JSON
    sender_name: str
    text: str


class ChatHub(Hub):  # public class ChatHub : Hub
    async def on_connected(self) -> None:  # public override async Task OnConnectedAsync()
        await self.groups.add(self.context.connection_id, "everybody")  # Groups.AddToGroupAsync(…)

    async def on_disconnected(self, error: Exception | None) -> None:  # OnDisconnectedAsync(Exception? exception)
        await self.clients.others.send("Left", self.context.user_id)  # Clients.Others.SendAsync(…)

    async def send_message(self, message: Message) -> None:  # public async Task SendMessage(Message message)
        if not message.text:
            raise HubError("say something")  # throw new HubException("say something")
        await self.clients.group("everybody").send("ReceiveMessage", message)

    async def counter(self, count: int, delay: int) -> AsyncIterator[int]:
        # public async IAsyncEnumerable<int> Counter(int count, int delay, CancellationToken ct)
        for number in range(count):
            yield number
            await trio.sleep(delay / 1000)  # await Task.Delay(delay, ct)

    async def upload(self, lines: AsyncIterator[str]) -> int:  # Task<int> Upload(IAsyncEnumerable<string> lines)
        return len([line async for line in lines])

    async def confirm(self, question: str) -> bool:  # Clients.Caller.InvokeAsync<bool>("Confirm", question, ct)
        return bool(await self.clients.caller.invoke("Confirm", question, result_type=bool))

    @authorize(lambda context: context.user is not None)  # [Authorize]
    async def whoami(self) -> str | None:
        return self.context.user_id


class Shouting(HubFilter):  # public class Shouting : IHubFilter
    async def invoke(self, invocation: HubInvocation, call: Any) -> Any:  # InvokeMethodAsync(context, next)
        result = await call(invocation)
        return result.upper() if isinstance(result, str) else result


def authenticate(head: RequestHead) -> User | None:  # AddAuthentication().AddJwtBearer(): see examples/auth_jwt.py
    token = bearer_token(head)
    return User(token) if token else None


app = App()
app.hub(  # app.MapHub<ChatHub>("/chathub", options => …), AddSignalR(options => …)
    "/chathub", authenticator=authenticate, filters=[Shouting()], keep_alive_interval=10, max_message_size=64 * 1024
)(ChatHub)


@app.route("/announce", methods=("POST",))
async def announce(request: Request) -> Response:  # IHubContext<ChatHub>
    message = Message("server", (await request.body()).decode())
    await app.hub_context(ChatHub).clients.all.send("ReceiveMessage", message)
    return Response("sent\n")
