"""What strangers are told of errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import ConfigError, DataError, SearchIndexError, StoreError
from forebear_serve.problems import PATH, of_error

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=12)


@given(st.lists(NAMES, min_size=2, max_size=6), st.sampled_from([ConfigError, DataError]))
def test_paths_are_cut_to_their_last_name(parts: list[str], kind: type) -> None:
    told = of_error(kind(f"the store of /{'/'.join(parts)} has none; choose another")).detail
    assert told == f"the store of {parts[-1]} has none; choose another"


def test_addresses_fractions_and_types_are_no_paths() -> None:
    for text in ("send image/png", "1/2 of it", "see https://example.org/a/b", "GET /v1", "--run runs/demo"):
        assert PATH.sub(r"\1", text) == text


@pytest.mark.parametrize("kind", [StoreError, SearchIndexError])
def test_what_the_operator_has_to_mend_is_not_told(kind: type) -> None:
    told = of_error(kind("/srv/run/store is damaged"))
    assert told.status == 503
    assert "srv" not in told.detail
    assert "log" in told.detail
