"""The examples in other languages and with FastAPI, run as people run them, over a restart of the service."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import Harness, StartService
from tests.support.polling import success
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
BUILD = ROOT / "build" / "examples"
BUF = Path(sys.executable).parent / "buf"
GO_PACKAGES = Path("/usr/share/gocode")

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")},
    "PROTOS": str(ROOT / "protos"),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # for buf
}


def run(*command: object, folder: Path, **variables: str) -> None:
    """Runs a tool to its end."""
    subprocess.run(
        [str(word) for word in command], cwd=folder, env={**ENVIRONMENT, **variables}, check=True, timeout=200
    )


def _hash_of(source: Path) -> str:
    """Of an example and of the protos that it is made with."""
    files = [*sorted(source.iterdir()), *sorted((ROOT / "protos" / "inventoryhold").rglob("*.proto"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files if path.is_file())).hexdigest()[:12]


@pytest.fixture(scope="session")
def typescript() -> list[str]:
    """The compiled example for Node; its packages are kept in build/."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no node with npm here (Debian, Ubuntu: apt-get install nodejs npm)")
    source = EXAMPLES / "typescript"
    folder = BUILD / f"typescript-{_hash_of(source)}"
    program = folder / "dist" / "hold.js"
    if not program.exists():
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        try:
            run(npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent", folder=folder)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)
            pytest.skip("npm cannot install the packages of examples/typescript")
        run(npm, "run", "--silent", "build", folder=folder)
    return [node, str(program)]


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The compiled example in Go, with Debian's packages; it is kept in build/."""
    tools = [shutil.which(name) for name in ("go", "protoc-gen-go", "protoc-gen-go-grpc")]
    if None in tools or not (GO_PACKAGES / "src" / "google.golang.org" / "grpc").exists():
        pytest.skip("there is no Go with gRPC here (Debian: golang-go golang-google-grpc-dev protoc-gen-go-grpc)")
    source = EXAMPLES / "go"
    program = BUILD / f"go-{_hash_of(source)}" / "hold"
    if not program.exists():
        path = tmp_path_factory.mktemp("go")
        folder = path / "src" / "example.org" / "hold"
        shutil.copytree(source, folder)
        template = folder / "buf.gen.yaml"
        template.write_text(template.read_text().replace("../../protos", str(ROOT / "protos")))
        run(BUF, "generate", folder=folder)
        cache = BUILD / "go"
        cache.mkdir(parents=True, exist_ok=True)
        variables = {"GO111MODULE": "off", "GOPATH": f"{path}:{GO_PACKAGES}", "GOCACHE": str(cache), "GOFLAGS": ""}
        run(tools[0], "build", "-ldflags=-s -w", "-o", program, ".", folder=folder, **variables)
    return [str(program)]


async def start(program: list[str], service: str, place: Path) -> asyncio.subprocess.Process:
    environment = {**ENVIRONMENT, "GRPC_GO_RETRY": "on"}
    return await asyncio.create_subprocess_exec(*program, service, "mug", str(place), stdout=PIPE, env=environment)


async def output(process: asyncio.subprocess.Process) -> list[str]:
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


@pytest.mark.parametrize("language", ["typescript", "go"])
async def test_a_program_holds_sells_and_follows_each_sale_once_over_restarts(
    language: str, request: pytest.FixtureRequest, start_service: StartService, tmp_path: Path
) -> None:
    program, place = request.getfixturevalue(language), tmp_path / "place.txt"
    one = await start_service(listen=f"127.0.0.1:{free_port()}")
    await one.create_item("mug", 10)
    held, sold, event = await output(await start(program, one.address, place))
    first = held.removeprefix("held ")
    assert (await one.get(first)).order_id == sold.removeprefix("sold as order ")
    assert event == f"event: sold {first}"
    await one.stop()
    # It finds no server: its first call waits, and is repeated, until there is one.
    waiting = await start(program, one.address, place)
    two = await start_service(listen=one.settings.listen)
    held, _, *events = await output(waiting)
    second = held.removeprefix("held ")
    assert events == [f"event: sold {second}"]
    item = await two.item("mug")
    assert (item.remaining, item.held, item.confirmed) == (6, 0, 4)


async def test_a_page_sells_over_http_and_shows_the_stock(typescript: list[str], start_service: StartService) -> None:
    port = free_port()
    service = await start_service(http_listen=f"127.0.0.1:{port}")
    await service.create_item("mug", 10)
    page = [typescript[0], typescript[1].replace("hold.js", "web.js")]
    process = await asyncio.create_subprocess_exec(
        *page, f"http://127.0.0.1:{port}", "mug", stdout=PIPE, env=ENVIRONMENT
    )
    sold, stock = await output(process)
    assert (await service.get(sold.removeprefix("sold "))).order_id
    assert stock == "mug: 8 remain"


async def test_a_checkout_with_fastapi_sells_once_however_often_it_is_asked(service: Harness) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    await service.create_item("mug", 20)
    url = f"http://127.0.0.1:{(port := free_port())}"
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "fastapi"), "--port", str(port), "app:app"),
        env={**ENVIRONMENT, "HOLDSVC_LISTEN": service.address},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(url) as shop:
            await success(lambda: shop.get("/stock/none/at/all"), aiohttp.ClientConnectionError)

            async def checkout(sku: str, quantity: int, key: str) -> tuple[int, str]:
                headers = {"Idempotency-Key": key}
                async with shop.post(f"/checkout/{sku}?quantity={quantity}", headers=headers) as answer:
                    found = await answer.json()
                    return answer.status, found.get("order_id") or found["detail"]

            once = await checkout("mug", 2, "the first one")
            assert once[0] == 200
            assert await checkout("mug", 2, "the first one") == once
            assert await checkout("mug", 11, "declined") == (402, "the payment was declined")
            assert await checkout("mug", 30, "too many") == (409, "only 18 left")
            assert await checkout("cup", 1, "not here") == (404, "no item cup")
            async with asyncio.timeout(30), shop.get("/stock/mug") as stock:
                assert await stock.content.readuntil(b"\n\n") == b'data: {"sku": "mug", "remaining": 18}\n\n'
    finally:
        server.kill()
        await server.wait()
    item = await service.item("mug")
    assert (item.remaining, item.held, item.confirmed) == (18, 0, 2)
