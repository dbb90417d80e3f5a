"""Amazon S3 and what speaks its protocol: ``s3``, ``s3a``, ``s3n``; Cloudflare R2; Backblaze B2.

``r2://bucket@account.r2.cloudflarestorage.com/key`` and ``b2://bucket@endpoint/key`` name their
endpoint; for the others it is ``MLFLOW_S3_ENDPOINT_URL``, or Amazon's. Credentials, profiles,
roles and regions are botocore's business, as they are in MLflow.
"""

from __future__ import annotations

import re
from typing import Any

from mlartifacts.environment import Environment, server
from mlartifacts.errors import InvalidConfig, InvalidURI
from mlartifacts.store import Store
from mlartifacts.uri import ArtifactURI

__all__ = ["CA_BUNDLE", "FULL_CHECKSUMS", "OBSTORES_OWN", "STORE", "UPLOAD_ARGUMENTS"]

_ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
_IGNORE_TLS = "MLFLOW_S3_IGNORE_TLS"
_CA_BUNDLE = "AWS_CA_BUNDLE"
_EXTRA_ARGS = "MLFLOW_S3_UPLOAD_EXTRA_ARGS"
_OWNER = "MLFLOW_S3_EXPECTED_BUCKET_OWNER"
_ADDRESSING = "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"
_ATTEMPTS = "AWS_MAX_ATTEMPTS"
_SIGNATURE = "MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION"

#: Schemes whose URIs name their endpoint, and the addressing style that MLflow has for each.
_NAMED_ENDPOINT = {"r2": "virtual", "b2": "path"}
_B2_HOST = re.compile(r"s3\.([a-z0-9-]+)\.backblazeb2\.com")

_LOGIN = (
    "S3 takes its credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
)

#: Checksums of an object as a whole, among :data:`UPLOAD_ARGUMENTS`.
FULL_CHECKSUMS = frozenset(
    "ChecksumCRC32 ChecksumCRC32C ChecksumCRC64NVME ChecksumMD5 ChecksumSHA1 ChecksumSHA256"
    " ChecksumSHA512 ChecksumXXHASH3 ChecksumXXHASH64 ChecksumXXHASH128".split()
)
#: What boto3's ``ExtraArgs`` of an upload may hold (its ``ALLOWEDUPLOAD_ARGUMENTS``), and
#: ``BucketKeyEnabled``, which MLflow takes in its own multipart uploads.
UPLOAD_ARGUMENTS = FULL_CHECKSUMS | frozenset(
    "BucketKeyEnabled"
    " ACL CacheControl ChecksumAlgorithm ChecksumType ContentDisposition ContentEncoding"
    " ContentLanguage ContentType ExpectedBucketOwner Expires GrantFullControl GrantRead"
    " GrantReadACP GrantWriteACP Metadata MpuObjectSize ObjectLockLegalHoldStatus ObjectLockMode"
    " ObjectLockRetainUntilDate RequestPayer SSECustomerAlgorithm SSECustomerKey"
    " SSECustomerKeyMD5 SSEKMSEncryptionContext SSEKMSKeyId ServerSideEncryption StorageClass"
    " Tagging WebsiteRedirectLocation".split()
)

#: Variables that obstore takes from the environment itself, and cannot be told not to.
OBSTORES_OWN = (
    "AWS_CHECKSUM_ALGORITHM AWS_SERVER_SIDE_ENCRYPTION AWS_SSE_KMS_KEY_ID"
    " AWS_SSE_BUCKET_KEY_ENABLED AWS_SSE_CUSTOMER_KEY_BASE64 AWS_PROXY_URL AWS_PROXY_CA_CERTIFICATE"
    " AWS_PROXY_EXCLUDES AWS_DEFAULT_CONTENT_TYPE AWS_DEFAULT_HEADERS"
).split()

#: What is an endpoint for certain: Amazon's, a port, an address (which no bucket may look like).
_ENDPOINT_HOST = re.compile(
    r"(^|\.)s3[.-]([a-z0-9.-]+\.)?amazonaws\.com(\.cn)?$|:|^localhost$|^\d+\.\d+\.\d+\.\d+$"
    r"|\.(digitaloceanspaces|backblazeb2|r2\.cloudflarestorage|wasabisys)\.com$"
)


def path(uri: ArtifactURI) -> str:
    """``bucket/key``.

    Raises
    ------
    InvalidURI
        There is no bucket, or an endpoint where the bucket belongs.
    """
    if uri.scheme in _NAMED_ENDPOINT:
        if not uri.username or not uri.host:
            raise InvalidURI(
                f"{uri} names no bucket and endpoint: write"
                f" {uri.scheme}://<bucket>@<endpoint's host>/<key>."
            )
        if uri.password is not None:
            raise InvalidURI(f"{uri} has a password, but {_LOGIN}: leave it out.")
        bucket = uri.username
    else:
        bucket = uri.netloc
        if uri.username is not None:
            raise InvalidURI(f"{uri} has a user, but {_LOGIN}: write s3://<bucket>/<key>.")
        if not bucket:
            raise InvalidURI(f"{uri} names no bucket: write {uri.scheme}://<bucket>/<key>.")
        if _ENDPOINT_HOST.search(bucket) and not bucket.startswith("arn:"):
            raise InvalidURI(
                f"{uri} has the endpoint {bucket!r} where the bucket belongs: write"
                f" {uri.scheme}://<bucket>/<key>, and put an endpoint other than Amazon's in"
                f" {_ENDPOINT} (on the server alone, if it gives out the artifact root)."
            )
    return bucket + uri.path.rstrip("/")


def root(uri: ArtifactURI) -> ArtifactURI | None:
    """The endpoint, where the scheme names one."""
    if uri.scheme in _NAMED_ENDPOINT:
        return ArtifactURI(uri.scheme, uri.netloc)
    return None


def options(uri: ArtifactURI, environment: Environment) -> dict[str, Any]:
    """The endpoint, TLS, addressing, timeouts and upload arguments.

    Raises
    ------
    InvalidConfig
        A variable has a value that cannot be used, or two contradict each other.
    """
    client: dict[str, Any] = {}
    config: dict[str, Any] = {}
    derived: dict[str, Any] = {
        "default_cache_type": "proportional",
        "use_listings_cache": False,
        "fixed_upload_size": True,  # R2, by whichever name, refuses parts of unequal sizes
    }
    endpoint = f"https://{uri.netloc}" if uri.scheme in _NAMED_ENDPOINT else None
    if endpoint := endpoint or _endpoint(environment):
        derived["endpoint_url"] = endpoint
    if environment.boolean(_IGNORE_TLS):
        if environment.text(_CA_BUNDLE):
            raise InvalidConfig(
                f"{_IGNORE_TLS} turns the check of certificates off and {_CA_BUNDLE} adds an"
                " authority to it: set one of the two."
            )
        client["verify"] = False
    if uri.scheme == "r2":
        client["region_name"] = "auto"  # R2 refuses those of Amazon
    elif uri.scheme == "b2" and (host := _B2_HOST.fullmatch(uri.host)):
        client["region_name"] = host[1]
    if style := _NAMED_ENDPOINT.get(uri.scheme) or environment.text(_ADDRESSING):
        if style not in {"auto", "path", "virtual"}:
            raise InvalidConfig(f"{_ADDRESSING}={style!r}: it takes auto, path or virtual.")
        config["s3"] = {"addressing_style": style}
    if signature := environment.text(_SIGNATURE):
        if signature.lower() == "unsigned":
            derived["anon"] = True
        else:
            config["signature_version"] = signature
    timeout = environment.transfer_timeout()
    if timeout is not None:
        config["read_timeout"] = None if timeout == -1 else timeout
        config["connect_timeout"] = 5 if timeout == -1 else min(timeout, 5)
    attempts = environment.integer(_ATTEMPTS)
    if attempts is not None and attempts < 1:
        raise InvalidConfig(f"{_ATTEMPTS}={attempts}: it takes a number above 0.")
    if not (attempts or environment.text("AWS_RETRY_MODE")):
        # What is above it tries again (asking.py): botocore's attempts beneath would multiply.
        config["retries"] = {"total_max_attempts": 1, "mode": "standard"}
    if arguments := _upload_arguments(environment):
        derived["s3_additional_kwargs"] = arguments
    if client:
        derived["client_kwargs"] = client
    if config:
        derived["config_kwargs"] = config
    return derived


def _endpoint(environment: Environment) -> str | None:
    value = environment.text(_ENDPOINT)
    if value is None:
        return None
    hint = " An artifact root (s3://...) belongs elsewhere; unset the variable on clients."
    parts = server(_ENDPOINT, value, hint)
    if parts.username is not None:
        raise InvalidConfig(f"{_ENDPOINT} has a user, but {_LOGIN}: write the server's URL alone.")
    host = parts.hostname or ""
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) and (
        re.match(r".+\.s3[.-]", host) or parts.path.strip("/")
    ):
        raise InvalidConfig(
            f"{_ENDPOINT} names a bucket or a key besides the server ({host}{parts.path}): every"
            " key would lie below it a second time. Unset it for Amazon S3, or write the"
            " server's URL alone."
        )
    return value.rstrip("/")


def _upload_arguments(environment: Environment) -> dict[str, object]:
    arguments = environment.json_object(_EXTRA_ARGS) or {}
    unknown = sorted(arguments.keys() - UPLOAD_ARGUMENTS)
    if unknown:
        raise InvalidConfig(
            f"{_EXTRA_ARGS} has {', '.join(map(repr, unknown))}, which S3 uploads do not know."
            f" They know {', '.join(sorted(UPLOAD_ARGUMENTS))}."
        )
    for name, value in arguments.items():
        if not _fits(name, value):
            raise InvalidConfig(f"{_EXTRA_ARGS} has {name!r} of a type that S3 does not take.")
    if owner := environment.text(_OWNER):
        arguments.setdefault("ExpectedBucketOwner", owner)
    return arguments


def _fits(name: str, value: object) -> bool:
    if name == "Metadata":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    kinds = {"BucketKeyEnabled": bool, "MpuObjectSize": int}
    return isinstance(value, kinds.get(name, str))


STORE = Store(
    schemes=("s3", "s3a", "s3n", "r2", "b2"),
    filesystem="mlartifacts.stores.s3.filesystem:S3ArtifactFileSystem",
    path=path,
    options=options,
    root=root,
    variables=(
        *(_ENDPOINT, _IGNORE_TLS, _CA_BUNDLE, _EXTRA_ARGS, _OWNER, _ADDRESSING, _SIGNATURE),
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
        # What botocore reads.
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
        *("AWS_SECURITY_TOKEN", "AWS_REGION", "AWS_RETRY_MODE", "AWS_ROLE_SESSION_NAME"),
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        *("AWS_EC2_METADATA_DISABLED", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_ROLE_ARN"),
        *("AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL"),
        *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"),
        *(_ATTEMPTS, "AWS_REQUEST_CHECKSUM_CALCULATION"),
        *("AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "HOME"),
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        *("~/.aws/credentials", "~/.aws/config"),
        *("@AWS_SHARED_CREDENTIALS_FILE", "@AWS_CONFIG_FILE", f"@{_CA_BUNDLE}"),
        # What transfers heed, too.
        *("ALL_PROXY", "all_proxy", *OBSTORES_OWN),
    ),
    extra="s3",
    package="s3fs",
)
