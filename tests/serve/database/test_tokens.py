"""Tokens: what verifies, what does not, what is kept of a secret."""

import pickle
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from forebear_serve.database import (
    ConflictError,
    Database,
    ExpiredTokenError,
    InvalidEntryError,
    NotFoundError,
    RevokedTokenError,
    Scope,
    ScopeError,
    TokenError,
    Tokens,
    UnknownTokenError,
    require,
)
from forebear_serve.database.auditing import log_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokens that many examples use; with one token among them."""
    tokens = Tokens(Database.open(tmp_path_factory.mktemp("run")))
    tokens.create("the only one", ["read"])
    return tokens


def set_time(database: Database, column: str, moment: datetime) -> None:
    with database.writing() as session:
        session.execute(text(f"UPDATE tokens SET {column} = :moment"), {"moment": moment.replace(tzinfo=None)})


def test_a_secret_verifies_as_its_token(tokens: Tokens) -> None:
    token, secret = tokens.create("ana", ["read", Scope.REVIEW], timedelta(days=90))
    assert len(secret) == len("fb_") + 43  # 256 bits, six in each character
    assert secret.startswith(token.prefix)
    assert token.expires == token.created + timedelta(days=90)
    found = tokens.verify(secret)
    assert found == token
    (listed,) = tokens.list()
    assert listed.scopes == {Scope.READ, Scope.REVIEW}
    assert listed.last_used is not None
    assert secret not in repr(listed)


def test_last_used_is_written_once_a_minute(database: Database, tokens: Tokens) -> None:
    _, secret = tokens.create("ana", ["read"])
    tokens.verify(secret)
    (first,) = tokens.list()
    tokens.verify(secret)
    assert tokens.list() == (first,)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    set_time(database, "last_used", long_ago)
    tokens.verify(secret)
    (later,) = tokens.list()
    assert later.last_used is not None
    assert later.last_used > long_ago


def test_an_expired_or_revoked_token_says_so_and_an_unknown_one_too(database: Database, tokens: Tokens) -> None:
    _, secret = tokens.create("ana", ["admin"], timedelta(minutes=1))
    set_time(database, "expires", datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(ExpiredTokenError, match=r"expired at .* UTC; ask for a new one"):
        tokens.verify(secret)
    tokens.revoke("ana")
    with pytest.raises(RevokedTokenError, match="was revoked"):
        tokens.verify(secret)
    for other in (None, "", "fb_", secret[:-1], secret + "A", "Bearer " + secret, "fb_\ud800", "fb_" + "x" * 100_000):
        with pytest.raises(UnknownTokenError) as refused:
            tokens.verify(other)
        assert isinstance(pickle.loads(pickle.dumps(refused.value)), TokenError)
        assert secret[9:] not in str(refused.value)


def test_revoking_is_logged_and_for_ever(database: Database, tokens: Tokens) -> None:
    token, _ = tokens.create("ana", ["read"], actor="root", request_id="r1")
    first = tokens.revoke("ana", actor="root")
    assert tokens.revoke("ana").revoked == first.revoked
    with pytest.raises(NotFoundError, match="no token named 'bob'"):
        tokens.revoke("bob")
    with pytest.raises(ConflictError, match="there is, or was, a token named 'ana'"):
        tokens.create("ana", ["read"])
    created, revoked = log_of(database, "token", token.id)
    assert (created.action, created.actor, created.request_id, created.before) == ("create", "root", "r1", None)
    assert (revoked.action, revoked.before) == ("revoke", created.after)
    assert revoked.after["revoked"] == first.revoked.isoformat()


@pytest.mark.parametrize(
    ("name", "scopes", "expires", "remedy"),
    [
        ("", ["read"], None, "name is empty"),
        ("a\nb", ["read"], None, r"U\+000A"),
        (" a", ["read"], None, "begins or ends with a blank"),
        ("x" * 201, ["read"], None, "at most 200"),
        ("a", [], None, "at least one scope of: read, generate, review, admin"),
        ("a", ["write"], None, "'write' is not a valid Scope; the scopes are"),
        ("a", ["read"], timedelta(0), "over at once"),
        ("a", ["read"], timedelta(days=10**8), "calendar"),
    ],
)
def test_unfit_tokens_are_not_made(
    shared: Tokens, name: str, scopes: list[str], expires: timedelta | None, remedy: str
) -> None:
    with pytest.raises(InvalidEntryError, match=remedy):
        shared.create(name, scopes, expires)
    assert len(shared.list()) == 1


@settings(max_examples=20)
@given(scopes=st.sets(st.sampled_from(Scope), min_size=1), wanted=st.sampled_from(Scope), number=st.uuids())
def test_a_token_allows_its_scopes_and_admin_all(shared: Tokens, scopes: set[Scope], wanted: Scope, number) -> None:
    _, secret = shared.create(str(number), scopes)
    token = shared.verify(secret)
    if wanted in scopes or Scope.ADMIN in scopes:
        require(token, wanted)
    else:
        with pytest.raises(ScopeError, match=f"needs a token with the scope {wanted}"):
            require(token, wanted)
    with shared._database.writing() as session:
        session.execute(text("DELETE FROM tokens WHERE name != 'the only one'"))


@given(secret=st.text(max_size=60) | st.text(max_size=60).map("fb_".__add__))
def test_nothing_else_verifies(shared: Tokens, secret: str) -> None:
    with pytest.raises(UnknownTokenError):
        shared.verify(secret)


def test_secrets_are_in_no_file(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    tokens = Tokens(database)
    secrets = [tokens.create(f"token {number}", ["read"])[1] for number in range(5)]
    for secret in secrets:
        tokens.verify(secret)
    tokens.revoke("token 0")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"token 4" in content
    assert len(set(secrets)) == 5
    for secret in secrets:
        assert secret.encode() not in content
        assert secret[9:].encode() not in content
    database.close()
    assert subprocess.run(["grep", "-c", secrets[1][9:], tmp_path / "reviews.sqlite"], check=False).returncode == 1
