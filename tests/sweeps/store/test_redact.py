"""Addresses lose their secrets, and nothing else of a text does."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.store.redact import redact, redact_argument, redact_command

SECRETS = ["pw", "p@ss", "p:w", "p%40w", "pa/ss", "+x/y==", "a?b", "a#b", "12:34@56", "p@s/s"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg", "s3", "mysql"])
def test_a_password_in_an_address_is_left_out(secret: str, scheme: str) -> None:
    address = f"{scheme}://ann:{secret}@host/place"
    for text in (address, f"MLflow at {address} is away", f"--study={address}", f'{{"uri": "{address}"}}'):
        assert redact(text) == text.replace(f"ann:{secret}@", "")
    assert redact_argument(address) == f"{scheme}://host/place"


@given(st.text(st.characters(exclude_characters=" \t\n", codec="ascii"), min_size=8))
def test_no_argument_of_a_command_keeps_a_password(secret: str) -> None:
    shown = redact_command(["spt", "run", f"--study=postgresql://ann:{secret}x@host/db", "--rerun"])
    assert shlex.split(shown) == ["spt", "run", "--study=postgresql://host/db", "--rerun"]


def test_a_password_with_a_space_in_an_argument_is_left_out() -> None:
    assert redact_command(["--study", "postgresql://ann:p w'\"@x@host/db"]) == "--study postgresql://host/db"


@pytest.mark.parametrize("name", ["password", "token", "PASSWORD", "access_key", "sig"])
def test_a_secret_in_a_query_is_left_out(name: str) -> None:
    assert redact(f"postgresql://host/db?{name}=se@cret&x=1") == f"postgresql://host/db?{name}=***&x=1"


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/owner/name@revision/file.jsonl",
        "http://host:5000/a@b?c=d@e, asked by ann@example.org",
        "sqlite:////folder/a@b.db and file:///a/b@c",
        "s3://bucket/folder?region=eu-west-1",
        "no address: a@b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_each_address_of_a_text_is_seen_to() -> None:
    text = "from http://ann:pw@host/a to postgresql://bob@db:5432/x, asked by ann@example.org"
    assert redact(text) == "from http://host/a to postgresql://db:5432/x, asked by ann@example.org"


def test_where_it_is_not_clear_where_a_password_ends_too_much_is_left_out() -> None:
    assert redact("http://ann:pw@host/a@b") == "http://b"
