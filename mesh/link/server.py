"""Simple first version; the full one follows."""
import asyncio
import json
import os
import sys
from pathlib import Path


class EmbeddedServer:
    def __init__(self, state_dir: Path, *, port: int | None = None, monitor_port: int | None = None, websocket_port: int | None = None) -> None:
        self.state_dir = state_dir
        self.url = ""

    async def start(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        conf = Path(__file__).resolve().parents[2] / "nats-server.conf"
        w = self.state_dir / "broker.conf"
        port = self.url.rpartition(":")[2] or "-1"
        w.write_text(f'include "{os.path.relpath(conf, self.state_dir)}"\nstore_dir: "{self.state_dir}"\nport: {port}\nhttp: "127.0.0.1:-1"\n'
                     f'log_file: "{self.state_dir}/broker.log"\nports_file_dir: "{self.state_dir}"\nwebsocket {{ listen: "127.0.0.1:-1", no_tls: true }}\n')
        for old in self.state_dir.glob("*.ports"):
            old.unlink()
        self.process = await asyncio.create_subprocess_exec(str(Path(sys.executable).parent / "nats-server"), "-c", str(w))
        self.pid = self.process.pid
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.05)
                for f in self.state_dir.glob("*.ports"):
                    ports = json.loads(f.read_text())
                    self.url = ports["nats"][0]
                    return

    async def wait_ready(self) -> None:
        await self.process.wait()
        await self.start()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
