"""Proxies and tokens are checked before anything is asked, and their path is never told."""

import base64
import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grid import EXPIRED, Authority, need

from looseleaf.das.problems import NoCredential
from looseleaf.das.proxy import MAKE_ONE, Credential, certificates, credential, read_proxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    need("openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


def refusal(path: Path | None, **more: timedelta) -> str:
    environment = {} if path is None else {"X509_USER_PROXY": str(path)}
    with pytest.raises(NoCredential) as problem:
        credential(environment, **more)
    message = str(problem.value)
    assert path is None or str(path) not in message
    return message


def test_a_proxy_of_the_vo(authority: Authority) -> None:
    path = authority.proxy("x509up", "-hours", "24")
    found = credential({"X509_USER_PROXY": str(path)})
    assert found == Credential(proxy=str(path))
    assert str(path) not in repr(found)
    proxy = read_proxy(path.read_bytes())
    assert proxy.groups == ("/cms/Role=NULL/Capability=NULL",)
    day = timedelta(hours=24)
    for end in (proxy.expires, proxy.attributes_expire):
        assert end is not None
        assert day - timedelta(minutes=5) < end - datetime.now(UTC) <= day


def test_no_proxy(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none")
    assert "the proxy that X509_USER_PROXY names can't be read (No such file" in message
    assert f"type: {MAKE_ONE}" in message


def test_an_expired_proxy(authority: Authority) -> None:
    message = refusal(authority.proxy("expired", *EXPIRED))
    assert "names expired 47:0" in message
    assert message.endswith(f"type: {MAKE_ONE}")


def test_attributes_that_ran_out_before_the_proxy(authority: Authority) -> None:
    path = authority.proxy("attributes", "-pastac", "48:00", "-vomslife", "1:00", "-hours", "24")
    message = refusal(path)
    assert "the VOMS attributes of the proxy that X509_USER_PROXY names expired 47:0" in message


def test_less_time_left_than_needed(authority: Authority) -> None:
    path = authority.proxy("short", "-hours", "1")
    assert "will expire in 0:5" in refusal(path, needed=timedelta(hours=2))
    assert ", 2:00 h are needed; type: " in refusal(path, needed=timedelta(hours=2))


def test_a_proxy_of_another_vo(authority: Authority) -> None:
    message = refusal(authority.proxy("atlas", "-hours", "24", vo="atlas"))
    assert "belongs to /atlas/Role=NULL/Capability=NULL, not to the VO cms" in message


def test_a_certificate_without_a_vo(authority: Authority, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    parts = (authority.folder / "user.pem", authority.folder / "user.key")
    plain.write_text("".join(part.read_text() for part in parts))
    plain.chmod(0o600)
    assert "belongs to no VO, not to the VO cms" in refusal(plain)


def test_a_proxy_that_others_can_read(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "open"
    shutil.copy(authority.proxy("x509up", "-hours", "24"), path)
    path.chmod(0o644)
    assert 'type: chmod 600 "$X509_USER_PROXY"' in refusal(path)


@pytest.mark.parametrize("keep", [0, 700, 3000])
def test_a_damaged_proxy(authority: Authority, tmp_path: Path, keep: int) -> None:
    whole = authority.proxy("x509up", "-hours", "24").read_bytes()
    path = tmp_path / "cut"
    path.touch(0o600)
    path.write_bytes(whole[:keep])
    assert "is damaged, or not a proxy at all" in refusal(path)


def token(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}.signature"


def test_a_token_goes_before_a_proxy(tmp_path: Path) -> None:
    good = token(exp=time.time() + 3600)
    assert credential({"BEARER_TOKEN": good}) == Credential(token=good)
    (tmp_path / "token").write_text(good + "\n")
    assert credential({"BEARER_TOKEN_FILE": str(tmp_path / "token")}).token == good
    assert good not in repr(Credential(token=good))
    # what is no JWT is for the service to judge
    assert credential({"BEARER_TOKEN": "opaque"}).token == "opaque"


def test_an_expired_token() -> None:
    with pytest.raises(NoCredential, match=r"the token expired 2:00 h ago; get a new one"):
        credential({"BEARER_TOKEN": token(exp=time.time() - 7201)})


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoCredential, match="BEARER_TOKEN_FILE names can't be read"):
        credential({"BEARER_TOKEN_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN KEY-----\nSECRET\n", b"\xff\xfe\x00", b"two words"]
)
def test_a_token_file_that_holds_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(NoCredential, match="BEARER_TOKEN_FILE doesn't give a token") as problem:
        credential({"BEARER_TOKEN_FILE": str(tmp_path / "token")})
    assert "SECRET" not in str(problem.value)


def test_a_token_of_a_date_beyond_all() -> None:
    far = token(exp=1e300)
    assert credential({"BEARER_TOKEN": far}).token == far


def test_where_authorities_are_looked_for(tmp_path: Path) -> None:
    assert certificates({"X509_CERT_DIR": str(tmp_path)}) == str(tmp_path)


def test_secrets_are_taken_out_of_what_others_say() -> None:
    used = Credential(proxy="/tmp/x509up_u7")
    assert used.without_secrets("open /tmp/x509up_u7: denied") == "open (the proxy): denied"
