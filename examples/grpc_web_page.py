"""A page that calls a gRPC service from the browser, by gRPC-Web and with nothing but `fetch`.

python -m engine serve examples.grpc_web_page:app

Real pages have generated clients (grpc-web, @connectrpc/connect-web), which speak to the same service.
Pages of other origins may call where `grpc.cors_origins` names them.
"""

from __future__ import annotations

from engine import App, Config, Request, Response

from .greeter import Greeter

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>gRPC-Web</title>
<link rel="icon" href="data:,">
<form><input aria-label="Name" value="World" maxlength="20"> <button>Say hello</button></form>
<p><output></output></p>
<script>
  const text = new TextDecoder(), [form] = document.forms, output = document.querySelector("output");

  async function sayHello(name) {
    const bytes = new TextEncoder().encode(name);
    const message = [10, bytes.length, ...bytes]; // HelloRequest: field 1, a string below 128 bytes
    const answer = await fetch("/greet.Greeter/SayHello", {
      method: "POST",
      headers: { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" },
      body: new Uint8Array([0, 0, 0, 0, message.length, ...message]), // a flag, a length of 4 bytes, the message
    });
    const body = await answer.arrayBuffer(), view = new DataView(body);
    let reply = "";
    for (let at = 0; at < body.byteLength; ) {
      const size = view.getUint32(at + 1), frame = new Uint8Array(body, at + 5, size);
      if (view.getUint8(at) & 0x80) { // the last frame: the status, as lines of a head
        const status = Object.fromEntries(text.decode(frame).trim().split("\\r\\n").map((line) => line.split(": ")));
        if (status["grpc-status"] === "0") return reply;
        throw new Error(`${status["grpc-status"]} ${decodeURIComponent(status["grpc-message"] ?? "")}`);
      }
      reply = text.decode(frame.subarray(2)); // HelloReply: field 1, likewise
      at += 5 + size;
    }
    throw new Error("the response ended without a status");
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    output.value = await sayHello(form.elements[0].value).catch((error) => `failed: ${error.message}`);
  });
</script>
</html>
"""

app = App(Config().replace(grpc__cors_origins=("http://localhost:3000",)))  # such as a development server's
app.add_service(Greeter())


@app.route("/")
async def page(request: Request) -> Response:
    return Response(PAGE, content_type="text/html; charset=utf-8")
