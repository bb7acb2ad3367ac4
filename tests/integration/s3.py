"""S3 server whose faults tests choose: moto's, behind a filter of requests."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

BUCKET = "runs"
_ERRORS = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


class S3:
    """Server on this machine with one bucket; what it holds outlives `stop` and `start`."""

    def __init__(self) -> None:
        self.status = 200
        """Status of every answer; 403, 500 and 503 are errors."""
        self.delay_s = 0.0
        """Seconds before each answer."""
        self.requests = Counter[int]()
        """Number of requests by the status that was chosen for them."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._port = 0
        self.start()
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="key", aws_secret_access_key="secret",
            region_name="us-east-1",
        )  # fmt: skip
        self.make_bucket()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of a process that uses the server."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def make_bucket(self) -> None:
        self.client.create_bucket(Bucket=BUCKET)

    def delete_bucket(self) -> None:
        """Delete the bucket, to which another process may write at the same time."""
        for _ in range(50):
            for name in self.names():
                self.client.delete_object(Bucket=BUCKET, Key=name)
            with contextlib.suppress(ClientError):
                self.client.delete_bucket(Bucket=BUCKET)
                return
        raise AssertionError("something is written to the bucket all the time")

    def names(self) -> list[str]:
        return sorted(each["Key"] for each in self._objects())

    def files(self, folder: str) -> dict[str, bytes]:
        """Content of each file of a folder of the bucket, by its path in the folder."""
        prefix = f"{folder}/"
        return {
            name.removeprefix(prefix): self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            for name in self.names() if name.startswith(prefix)
        }  # fmt: skip

    def _objects(self) -> Iterable[dict[str, Any]]:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            yield from page.get("Contents", [])

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status = self.status
        self.requests[status] += 1
        time.sleep(self.delay_s)
        if status == 200:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        text = f"<Error><Code>{_ERRORS[status]}</Code><Message>chosen by the test</Message></Error>"
        start_response(f"{status} Error", [("Content-Type", "application/xml")])
        return [text.encode()]


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of each file of a local folder that a mirror copies."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in names.items() if not any(part.startswith(".") for part in name.parts)
    }  # fmt: skip
