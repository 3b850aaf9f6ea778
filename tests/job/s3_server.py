"""A real S3-compatible server (moto) for a test."""

from __future__ import annotations

import json
import urllib.request

import pytest
import s3fs
from moto.server import ThreadedMotoServer

# Warnings of the libraries behind the server and its client.
OF_LIBRARIES = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Storage:
    """A bucket on a server of its own; `stop` takes it off the net, `start` brings it back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        self._server.start()
        host, port = self._server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # all servers of a process share their content
        self.files = s3fs.S3FileSystem(use_listings_cache=False)
        self.files.mkdir("bucket")

    def stop(self) -> None:
        self._server.stop()

    def names(self) -> list[str]:
        return sorted(name.removeprefix("bucket/") for name in self.files.find("bucket"))

    def ids(self, name: str) -> list[str]:
        return [json.loads(line)["custom_id"] for line in self.files.cat(f"bucket/{name}").splitlines()]
