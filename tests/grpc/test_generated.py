"""Code generation: what is checked in is fresh, and what comes out of all kinds of files works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools is missing; install the extra codegen")

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from engine.demo.generated.greet_engine import GreeterBase
from engine.errors import ConfigError
from engine.grpc.codegen.emit import relative_package, snake_case
from engine.grpc.codegen.generate import CHECKED_IN, generate
from engine.grpc.methods import MethodKind

ROOT = Path(__file__).parents[2]

LIBRARY = """
edition = "2023";
package acme.library.v1;
import "acme/shared-types/page.proto";
import "google/protobuf/empty.proto";
// Books.
//
// Ends with a "quote"
service Library {
  /* Finds one \\ book. Says \"\"\"so\"\"\". */
  rpc GetISBNBook(Book.Key) returns (Book) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc Import(stream Book) returns (google.protobuf.Empty);
  rpc List(acme.shared.Page) returns (stream Book);
  rpc WithAVeryLongNameThatDoesNotFitIntoOneLine(stream Book.Key) returns (stream acme.shared.Page);
}
service Nothing {}
message Book { message Key { string isbn = 1; } Key key = 1; }
"""
PAGE = """
syntax = "proto2";
package acme.shared;
message Page { optional int32 number = 1; extensions 100 to 200; }
extend Page { optional string note = 100; }
"""


ODD = """
// A licence.

syntax = "proto3";
message Ping { string class = 1; optional int32 count = 2; }
service Service {  // Behind the brace.
  // Stands by itself.

  // Before.
  rpc Do(Ping) returns (Ping);  // Behind.
  rpc do(Ping) returns (stream Ping);
  rpc DO(Ping) returns (Ping);
  rpc _method(Ping) returns (Ping);
  rpc __init__(Ping) returns (Ping);
  rpc odd_pb2(Ping) returns (Ping);
  rpc unimplemented(Ping) returns (Ping);
  rpc Old(Ping) returns (Ping) { option deprecated = true; }
}
service Stub { option deprecated = true; rpc X(Ping) returns (Ping); }
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A tree of .proto files whose code refers to each other and to Google's."""
    for name, text in {"acme/library/v1/library.proto": LIBRARY, "acme/shared-types/page.proto": PAGE}.items():
        path = tmp_path / "protos" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "protos"


def run_python(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(folder), str(ROOT)]}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generated_code_in_the_tree_is_what_the_protos_give(tmp_path: Path) -> None:
    for number, each in enumerate(CHECKED_IN):
        out = tmp_path / str(number)
        written = generate(
            [ROOT / each.include / name for name in each.names],
            out,
            include=[ROOT / each.include],
            private_pool=each.private_pool,
            stock=each.stock,
        )
        assert written
        for path in written:
            kept = ROOT / each.out / path.relative_to(out)
            assert kept.read_text() == path.read_text(), f"{kept} is stale; run python -m engine proto generate"


def test_the_greeter_is_described_by_its_specification() -> None:
    spec = GreeterBase.__service__
    assert (spec.name, spec.file) == ("greet.Greeter", "greet.proto")
    assert [(method.path, method.kind, method.name) for method in spec.methods] == [
        ("/greet.Greeter/SayHello", MethodKind.UNARY, "say_hello"),
        ("/greet.Greeter/StreamHellos", MethodKind.SERVER_STREAMING, "stream_hellos"),
        ("/greet.Greeter/CollectNames", MethodKind.CLIENT_STREAMING, "collect_names"),
        ("/greet.Greeter/Chat", MethodKind.BIDIRECTIONAL, "chat"),
    ]
    assert GreeterBase.__doc__ == "Greets whoever asks."


@pytest.mark.parametrize("package", ["", "inside/of"])
def test_generated_modules_import_each_other_inside_of_any_package(library: Path, tmp_path: Path, package: str) -> None:
    out = tmp_path / "out" / "top" / package
    written = generate([library], out)
    assert {path.relative_to(out).as_posix() for path in written} == {
        "acme/library/v1/library_pb2.py",
        "acme/library/v1/library_pb2.pyi",
        "acme/library/v1/library_engine.py",
        "acme/shared_types/page_pb2.py",
        "acme/shared_types/page_pb2.pyi",
    }
    module = ".".join(["top", *filter(None, package.split("/")), "acme.library.v1.library_engine"])
    code = f"""
from {module} import LibraryBase, NothingBase
assert NothingBase.__service__.methods == ()
print(repr(LibraryBase.__doc__), repr(LibraryBase.get_isbn_book.__doc__))
for method in LibraryBase.__service__.methods:
    print(method.path, method.name, method.kind.name, method.request_type.DESCRIPTOR.full_name,
          method.response_type.DESCRIPTOR.full_name, method.no_side_effects)
"""
    doc, *methods = run_python(code, tmp_path / "out").splitlines()
    assert doc == repr('Books.\n\n    Ends with a "quote"\n    ') + " " + repr('Finds one \\ book. Says """so""".')
    page = "acme.shared.Page"
    service = "/acme.library.v1.Library"
    assert methods == [
        f"{service}/GetISBNBook get_isbn_book UNARY acme.library.v1.Book.Key acme.library.v1.Book True",
        f"{service}/Import import_ CLIENT_STREAMING acme.library.v1.Book google.protobuf.Empty False",
        f"{service}/List list SERVER_STREAMING {page} acme.library.v1.Book False",
        f"{service}/WithAVeryLongNameThatDoesNotFitIntoOneLine "
        f"with_a_very_long_name_that_does_not_fit_into_one_line BIDIRECTIONAL acme.library.v1.Book.Key {page} False",
    ]


def test_names_that_mean_something_else_get_out_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "odd.proto").write_text(ODD)
    generate([tmp_path / "odd.proto"], tmp_path / "top")
    code = """
from top.odd_engine import ServiceBase, ServiceStub, StubBase, StubStub
from engine.grpc import Channel, ServiceBase as Ours, StubBase as OurStub
assert ServiceBase.__bases__ == StubBase.__bases__ == (Ours,)
assert ServiceStub.__bases__ == StubStub.__bases__ == (OurStub,)
print(*[method.name for method in ServiceBase.__service__.methods])
stub = ServiceStub(Channel("localhost:1"))
assert all(hasattr(stub, name) for name in "do DO init_ odd_pb2_".split())
"""
    assert run_python(code, tmp_path).split() == (
        ["do", "do_", "DO", "method_", "init_", "odd_pb2_", "unimplemented", "old"]
    )


def test_comments_are_carried_over(tmp_path: Path) -> None:
    (tmp_path / "odd.proto").write_text(ODD)
    generate([tmp_path / "odd.proto"], tmp_path)
    text = (tmp_path / "odd_engine.py").read_text()
    assert '    """Behind the brace."""\n' in text
    assert "\n    # Stands by itself.\n\n    async def do(" in text
    assert '        """Before.\n\n        Behind.\n        """\n        raise unimplemented("/Service/Do")' in text
    assert text.count('        """Before.\n') == 2  # at the stub's, too


def test_what_is_deprecated_warns_whoever_uses_it(tmp_path: Path) -> None:
    (tmp_path / "odd.proto").write_text(ODD)
    generate([tmp_path / "odd.proto"], tmp_path / "top")
    code = """
import warnings
from engine.grpc import Channel
from top.odd_engine import ServiceStub, StubStub
channel = Channel("localhost:1")
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    ServiceStub(channel).old
    StubStub(channel)
print(*[f"{each.category.__name__} in {each.filename}: {each.message}" for each in found], sep="\\n")
"""
    assert run_python(code, tmp_path).splitlines() == [
        "DeprecationWarning in <string>: /Service/Old is deprecated",
        "DeprecationWarning in <string>: the service Stub is deprecated",
    ]


@pytest.mark.slow
def test_generated_code_and_handlers_on_it_pass_mypy_strict(library: Path, tmp_path: Path) -> None:
    (library / "odd.proto").write_text(ODD)
    generate([library], tmp_path / "out" / "top")
    (tmp_path / "out" / "user.py").write_text(
        """
from collections.abc import AsyncIterator
from google.protobuf.empty_pb2 import Empty
from engine.grpc import CallContext, Reply, RequestStream
from top.acme.library.v1.library_engine import LibraryBase, LibraryStub
from top.acme.library.v1.library_pb2 import Book
from top.acme.shared_types.page_pb2 import Page
from top.odd_engine import ServiceBase, ServiceStub
from top.odd_pb2 import Ping

class Service(ServiceBase):
    async def do(self, request: Ping, context: CallContext) -> Ping:
        return Ping(count=request.count)

async def use_odd(stub: ServiceStub) -> None:
    ping: Ping = await stub.do(Ping())
    ping = await stub.old(ping)
    ping = await stub.odd_pb2_(ping)

class Library(LibraryBase):
    async def get_isbn_book(self, request: Book.Key, context: CallContext) -> Book:
        return Book(key=request)

    async def import_(self, requests: RequestStream[Book], context: CallContext) -> Empty:
        async for book in requests:
            book.key.isbn.upper()
        return Empty()

    async def list(self, request: Page, context: CallContext) -> AsyncIterator[Book]:
        yield Book()

    async def with_a_very_long_name_that_does_not_fit_into_one_line(
        self, requests: RequestStream[Book.Key], context: CallContext
    ) -> None:
        await context.send(Page())

async def use(stub: LibraryStub) -> None:
    book: Book = await stub.get_isbn_book(Book.Key(isbn="1"), timeout=1.0, metadata=[("x-a", "1")])
    with_metadata: Reply[Book] = await stub.get_isbn_book.with_call(Book.Key())
    async with stub.list(Page()) as books:
        async for each in books:
            each.key.isbn.upper()
    async with stub.import_() as upload:
        await upload.send(book)
        empty: Empty = await upload.reply()
    async with stub.with_a_very_long_name_that_does_not_fit_into_one_line() as both:
        await both.send(with_metadata.message.key)
        page: Page | None = await both.receive()
"""
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout


def test_absolute_imports_are_those_of_protoc(library: Path, tmp_path: Path) -> None:
    generate([library], tmp_path / "out", imports="absolute")
    text = (tmp_path / "out/acme/library/v1/library_engine.py").read_text()
    assert "from acme.shared_types import page_pb2\n" in text
    assert run_python("import acme.library.v1.library_engine", tmp_path / "out") == ""


def test_the_plugin_works_under_protoc_and_accepts_editions(library: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "protoc-gen-engine"
    plugin.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from engine.grpc.codegen.plugin import main; main()\n"
    )
    plugin.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    arguments = [
        *(f"-I{library}", f"--plugin={plugin}", f"--python_out={out}", f"--engine_out={out}"),
        *("--engine_opt=imports=absolute", "acme/library/v1/library.proto", "acme/shared-types/page.proto"),
    ]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    assert run_python("import acme.library.v1.library_engine", out) == ""


def test_the_plugin_reports_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "a.proto").write_text('syntax = "proto3"; message None {} service S { rpc A(None) returns (None); }')
    with pytest.raises(ConfigError, match=r"'None' of \.None is no Python name"):
        generate([tmp_path / "a.proto"], tmp_path)
    (tmp_path / "a.proto").write_text("nonsense")
    with pytest.raises(ConfigError, match="protoc refused it"):
        generate([tmp_path / "a.proto"], tmp_path)
    with pytest.raises(ConfigError, match=r"there is no \.proto file"):
        generate([tmp_path / "missing.proto"], tmp_path)
    (tmp_path / "a.proto").write_text('syntax = "proto3"; message M {}')
    with pytest.raises(ConfigError, match=r"^--out = .*: name a directory that can be written to \(File exists\)"):
        generate([tmp_path / "a.proto"], tmp_path / "a.proto")


def test_unknown_options_of_the_plugin_are_named() -> None:
    command = [sys.executable, "-m", "engine.grpc.codegen.plugin"]
    request = CodeGeneratorRequest(parameter="import=relative").SerializeToString()
    done = subprocess.run(command, input=request, capture_output=True, check=True, cwd=ROOT)
    response = CodeGeneratorResponse.FromString(done.stdout)
    assert "unknown option 'import=relative'" in response.error
    assert "imports=relative|absolute" in response.error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SayHello", "say_hello"),
        ("sayHello", "say_hello"),
        ("GetHTTPStatus", "get_http_status"),
        ("HTTPGet", "http_get"),
        ("V2Get", "v2_get"),
        ("List2", "list2"),
        ("already_snake", "already_snake"),
        ("Import", "import_"),
        ("A", "a"),
    ],
)
def test_method_names_become_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


@pytest.mark.parametrize(
    ("importer", "imported", "package"),
    [
        ("a.proto", "b.proto", "."),
        ("x/a.proto", "b.proto", ".."),
        ("a.proto", "x/b.proto", ".x"),
        ("x/y/a.proto", "x/b.proto", ".."),
        ("x/y/a.proto", "x/z/b.proto", "..z"),
        ("x/a.proto", "y-z/b.proto", "..y_z"),
    ],
)
def test_relative_imports_climb_no_further_than_they_must(importer: str, imported: str, package: str) -> None:
    assert relative_package(importer, imported) == package
