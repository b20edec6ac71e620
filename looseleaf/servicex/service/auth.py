"""Authentication: the service's token, the passes that it is exchanged for, S3 signatures."""

import calendar
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import jwt
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from looseleaf.files import write_private

PASS_S = 3600
# ours have about 150 characters
LONGEST_PASS = 1000
# ServiceX's client signs URLs for a year: keys change every half a day, and the one before is good
# too, so that what they have signed ends within a day
KEY_S = 12 * 3600
_NUMBER = re.compile("[0-9]{1,12}")
ALGORITHM = "HS256"


@dataclass(frozen=True)
class Keys:
    """The service's secrets: the token in a client's configuration, and the key for signatures."""

    token: str
    signing: str

    @classmethod
    def of(cls, path: Path) -> "Keys":
        """The keys in a file that only its owner may read; it is created if it doesn't exist."""
        if not path.exists():
            write_private(path, json.dumps(asdict(cls.new())))
        return cls(**json.loads(path.read_text()))

    @classmethod
    def new(cls) -> "Keys":
        """Keys that nobody else has."""
        return cls(secrets.token_urlsafe(32), secrets.token_hex(32))

    def knows(self, token: str) -> bool:
        """Whether this is the service's token."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def new_pass(self) -> str:
        """A JWT that is valid for an hour."""
        claims = {"sub": "looseleaf", "exp": int(time.time()) + PASS_S}
        return jwt.encode(claims, self.signing, ALGORITHM)

    def valid(self, presented: str) -> bool:
        if len(presented) > LONGEST_PASS:
            return False
        try:
            jwt.decode(presented, self.signing, [ALGORITHM], options={"require": ["exp"]})
        except Exception:
            # a stranger's text is taken apart before its signature is looked at
            return False
        return True

    def s3(self, request_id: str, before: int = 0) -> Credentials:
        """The S3 key of one request, which gives access to no other, or an earlier one of it."""
        name = f"{request_id}-{int(time.time()) // KEY_S - before}"
        secret = hmac.new(self.signing.encode(), name.encode(), hashlib.sha256).hexdigest()
        return Credentials(access_key=name, secret_key=secret)

    def opens(
        self, request_id: str, method: str, url: str, query: str, headers: Mapping[str, str]
    ) -> bool:
        """Whether a request for S3 carries a signature by a key of `request_id` that is good."""
        keys = [self.s3(request_id), self.s3(request_id, 1)]
        return any(signed(method, url, query, headers, key) for key in keys)


def signed(
    method: str,
    url: str,
    query: str,
    headers: Mapping[str, str],
    credentials: Credentials,
) -> bool:
    """Whether a request for S3 has a recent signature by these credentials.

    `url` is without its query. botocore computes the expected signature: version 4 in a header or
    in the query, or the older one that boto3 still uses in presigned URLs.
    """
    try:
        return _signed(method, url, query, headers, credentials)
    except (ValueError, TypeError, LookupError):
        # something in it is not even of the kind that a signature is made of
        return False


def _signed(
    method: str, url: str, query: str, headers: Mapping[str, str], credentials: Credentials
) -> bool:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if "AWSAccessKeyId" in parameters:
        return _signed_v1(method, url, parameters, credentials)
    in_query = "X-Amz-Signature" in parameters
    if in_query:
        given = {key: parameters.get(f"X-Amz-{key}", "") for key in ("Credential", "SignedHeaders")}
        presented, moment = parameters.pop("X-Amz-Signature"), parameters.get("X-Amz-Date", "")
        lifetime = parameters.get("X-Amz-Expires", "")
    else:
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        given = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        presented, moment = given.get("Signature", ""), headers.get("x-amz-date", "")
        lifetime = "900"
        if scheme != "AWS4-HMAC-SHA256":
            return False
    key, _, scope = given.get("Credential", "").partition("/")
    if key != credentials.access_key or scope.count("/") != 3 or not _NUMBER.fullmatch(lifetime):
        return False
    try:
        issued = calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return False
    if not issued - 900 <= time.time() <= issued + int(lifetime):
        return False
    names = given.get("SignedHeaders", "").split(";")
    if "host" not in names:
        return False
    request = AWSRequest(
        method=method,
        url=url,
        params=parameters,
        headers={name: headers.get(name, "") for name in names},
    )
    request.context["timestamp"] = moment
    auth = (S3SigV4QueryAuth if in_query else S3SigV4Auth)(credentials, "s3", scope.split("/")[1])
    expected = auth.signature(
        auth.string_to_sign(request, auth.canonical_request(request)), request
    )
    return hmac.compare_digest(expected.encode(), presented.encode())


class _Expiring(HmacV1QueryAuth):
    """In a presigned URL of this kind, the expiry time stands in for the date."""

    def _get_date(self) -> str:
        return str(self._expires)


def _signed_v1(
    method: str, url: str, parameters: Mapping[str, str], credentials: Credentials
) -> bool:
    expires, presented = parameters.get("Expires", ""), parameters.get("Signature", "")
    if parameters["AWSAccessKeyId"] != credentials.access_key or not _NUMBER.fullmatch(expires):
        return False
    if time.time() > int(expires):
        return False
    auth = _Expiring(credentials, expires)
    expected = auth.get_signature(method, urlsplit(url), AWSRequest(method=method, url=url).headers)
    return hmac.compare_digest(expected.encode(), presented.encode())
