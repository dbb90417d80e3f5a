"""S3: moto. Knows buckets, ranges, multipart uploads and copies.

It verifies signatures and permissions only while it is told to (:meth:`Moto.verifying`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.servers import certificates
from tests.servers.process import LOOPBACK, Process, any_port, base_env, on_free_ports, running

_numbers = itertools.count(1)

#: For each request moto looks through the folder of its two hundred services, and logs it.
_PROGRAM = (
    "import moto.backends as backends;"
    "services = list(backends.list_of_moto_modules());"
    "backends.list_of_moto_modules = lambda: services;"
    "from moto.server import MotoRequestHandler, main;"
    "MotoRequestHandler.log_request = lambda *_: None;"
    "main()"
)


@dataclasses.dataclass(frozen=True)
class Moto:
    """A running S3 server."""

    url: str
    process: Process
    #: The certificate authority's file where `url` is https.
    ca: Path | None = None
    key: str = "testing"
    secret: str = "testing-secret"
    region: str = "us-east-1"

    @property
    def env(self) -> dict[str, str]:
        env = {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            # Without it botocore asks the cloud's metadata address where it finds no credentials.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return env | ({"AWS_CA_BUNDLE": str(self.ca)} if self.ca else {})

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """Ask the server without a driver; moto verifies no signature."""
        context = ssl.create_default_context(cafile=str(self.ca)) if self.ca else None
        # moto takes the region and the service from the credential's scope.
        scope = f"{self.key}/20200101/{self.region}/s3/aws4_request"
        signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        # Without a type urllib says that the body is a form's, and moto reads it as one.
        headers = {"Authorization": signed, "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            body: bytes = response.read()
            return body

    def uploads(self, bucket: str) -> list[str]:
        """Return the ids of the multipart uploads that were neither completed nor aborted."""
        listed = ElementTree.fromstring(self.request("GET", f"/{bucket}?uploads"))
        return [each.text or "" for each in listed.iter() if each.tag.endswith("UploadId")]

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(_numbers)}"
        self.request("PUT", f"/{name}")
        return name

    def new_root(self) -> str:
        """Return the URI of a fresh bucket."""
        return f"s3://{self.new_bucket()}"

    @contextlib.contextmanager
    def verifying(self) -> Iterator[None]:
        """Refuse whoever is no user or role of its IAM, or may not do what is asked."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"inf")

    def iam(self) -> Any:
        """A client of its IAM."""
        import boto3

        return boto3.client(
            "iam",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )


@on_free_ports
@contextlib.contextmanager
def serve(directory: Path, *, tls: bool = False) -> Iterator[Moto]:
    """Run moto; with `tls`, over https with a certificate of a private authority."""
    port = any_port()
    command = [sys.executable, "-c", _PROGRAM, "-H", LOOPBACK, "-p", str(port)]
    ca = None
    if tls:
        issued = certificates.issue(directory / "certificates")
        command += ["-s", "-c", str(issued.certificate), "-k", str(issued.key)]
        ca = issued.ca
    scheme = "https" if tls else "http"
    with running(command, directory / "moto.log", env=base_env()) as process:
        server = Moto(f"{scheme}://{LOOPBACK}:{port}", process, ca)
        process.wait_for_port(port, lambda: server.request("GET", "/moto-api/data.json"))
        yield server
